"""Text features of prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cdam_fast.arguments import working_dtype
from cdam_fast.compat import functional_call
from cdam_fast.models.settings import own_settings
from cdam_fast.models.wrapped import unwrap

_PROMPTS_AT_ONCE = 64

_NOISE = {torch.float16: 4e-3, torch.bfloat16: 2e-2, torch.float64: 1e-8}
"""How far a normalised feature moves with the machine, the device and the batch; 5e-5 for float32."""

Tokenizer = Callable[[list[str]], Tensor]


def tokenize(tokenizer: Tokenizer, prompts: Sequence[str]) -> Tensor:
    """``[P, L]`` whole numbers, on the CPU.

    Raises:
        TypeError: a tokenizer that gives anything else.
    """
    with own_settings(torch.device("cpu")):
        tokens = tokenizer(list(prompts))
    if not isinstance(tokens, Tensor) or tokens.dim() != 2 or len(tokens) != len(prompts) or tokens.is_floating_point():
        raise TypeError(
            f"tokenizer: gave {type(tokens).__name__} for a list of {len(prompts)} prompts, takes a function to a "
            "tensor [prompts, length] of whole numbers, such as open_clip.get_tokenizer returns"
        )
    return tokens


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
    model = _module(model)
    tokens = tokenize(tokenizer, prompts)
    device = next(model.parameters()).device
    features = []
    with own_settings(device):
        encode = _encoder(model, tokens) if shorten else _whole(model)
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


def _module(model: object) -> Any:
    inside = unwrap(model)
    if not isinstance(inside, nn.Module) or not hasattr(inside, "encode_text"):
        raise TypeError(f"model: got {type(inside).__name__}, takes a CLIP that has encode_text")
    return inside


def _normalised(features: Tensor) -> Tensor:
    return functional.normalize(features.to(working_dtype(features.dtype)), dim=-1)


def _whole(model: Any) -> Callable[[Tensor], Tensor]:
    encode: Callable[[Tensor], Tensor] = model.encode_text
    return encode


def _encoder(model: Any, tokens: Tensor) -> Callable[[Tensor], Tensor]:
    """The model's encode_text, on shorter tokens if what it makes of the first prompt stays the same."""
    whole = _whole(model)
    length = int(tokens.argmax(-1).max()) + 1
    if length == tokens.shape[1] or not _may_be_shortened(model):
        return whole
    encode = _shortened(model, length)
    first = tokens[:1].to(next(model.parameters()).device)
    expected = whole(first)
    same = same_features(_normalised(encode(first)), _normalised(expected), expected.dtype)
    return encode if same else whole


def _may_be_shortened(model: Any) -> bool:
    own_tower = isinstance(getattr(model, "positional_embedding", None), Tensor)
    pooled_at_end = getattr(model, "text_pool_type", None) == "argmax"
    return own_tower and pooled_at_end and isinstance(getattr(model, "attn_mask", None), Tensor)


class _Text(nn.Module):
    """encode_text as a forward, for functional_call."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.model.encode_text(tokens)
        return features


def _shortened(model: Any, length: int) -> Callable[[Tensor], Tensor]:
    state = {
        "model.positional_embedding": model.positional_embedding[:length],
        "model.attn_mask": model.attn_mask[:length, :length],
    }
    text = _Text(model)

    def encode(tokens: Tensor) -> Tensor:
        features: Tensor = functional_call(text, state, tokens=tokens[:, :length])
        return features

    return encode
