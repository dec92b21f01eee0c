"""Text features of prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from cdam_fast.arguments import working_dtype
from cdam_fast.models.settings import own_settings
from cdam_fast.models.text_towers import Encode, TextTower, open_text_tower
from cdam_fast.models.tokenizers import Tokenizer, as_tokenizer, tokenize

_PROMPTS_AT_ONCE = 64

_NOISE = {torch.float16: 4e-3, torch.bfloat16: 2e-2, torch.float64: 1e-8}
"""How far a normalised feature moves with the machine, the device and the batch; 5e-5 for float32."""


def text_features(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    shorten: bool = True,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """L2-normalised text features, ``[P, D]``, of P prompts; on_progress hears how many are done.

    Where the text tower is causal and read at the end-of-text token (OpenAI's and most of open_clip's), tokens past
    the longest prompt change nothing: unless shorten is False they are left out, five times faster for class names.
    """
    tower = open_text_tower(model)
    tokens = tokenize(as_tokenizer(tokenizer, model), prompts)
    device = next(tower.model.parameters()).device
    features = []
    with own_settings(device):
        encode = _encoder(tower, tokens, device) if shorten else tower.encode
        for start in range(0, len(prompts), _PROMPTS_AT_ONCE):
            features.append(encode(tokens[start : start + _PROMPTS_AT_ONCE].to(device)))
            on_progress(min(start + _PROMPTS_AT_ONCE, len(prompts)))
        return _normalised(torch.cat(features))


def same_features(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    """Whether normalised features differ by no more than a model in this dtype does from machine to machine."""
    if one.shape != other.shape:
        return False
    return bool(((one - other).norm(dim=-1) <= _NOISE.get(dtype, 5e-5)).all())


def class_features(
    model: nn.Module,
    tokenizer: Tokenizer,
    words: Sequence[str],
    templates: Sequence[Callable[[str], str]],
    *,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """``[W, D]``: the mean over templates of a word's normalised features, normalised again.

    What ``open_clip.build_zero_shot_classifier`` computes, transposed, at the cost of `text_features`;
    on_progress hears how many words are done.
    """
    prompts = [template(word) for word in words for template in templates]
    features = text_features(model, tokenizer, prompts, on_progress=lambda done: on_progress(done // len(templates)))
    with own_settings(features.device):
        return functional.normalize(features.reshape(len(words), len(templates), -1).mean(1), dim=-1)


def _normalised(features: Tensor) -> Tensor:
    return functional.normalize(features.to(working_dtype(features.dtype)), dim=-1)


def _encoder(tower: TextTower, tokens: Tensor, device: torch.device) -> Encode:
    """The model's own encoding, on shorter tokens if what it makes of the first prompt stays the same."""
    length = tower.length(tokens)
    if length == tokens.shape[1]:
        return tower.encode
    encode = tower.shortened(length)
    first = tokens[:1].to(device)
    expected = tower.encode(first)
    same = same_features(_normalised(encode(first)), _normalised(expected), expected.dtype)
    return encode if same else tower.encode
