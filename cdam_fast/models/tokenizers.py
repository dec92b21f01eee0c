"""Tokenizers of open_clip and of transformers behind one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cdam_fast.models.settings import own_settings
from cdam_fast.models.wrapped import is_of_transformers, unwrap

Tokenizer = Callable[[list[str]], Tensor]
"""Strings to ``[P, L]`` whole numbers, padded to the model's length: what ``open_clip.get_tokenizer`` returns."""


def as_tokenizer(tokenizer: Any, model: object) -> Tokenizer:
    """The tokenizer itself, or for one of transformers, or a processor of transformers, a function of this kind.

    Prompts are cut and padded to the length of the model's text tower, as CLIP and SigLIP were trained.

    Raises:
        ValueError: a tokenizer of transformers that has no padding token.
    """
    if not is_of_transformers(tokenizer):
        own: Tokenizer = tokenizer
        return own
    inside = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
    if getattr(inside, "pad_token", None) is None:
        raise ValueError(f"tokenizer: got {type(inside).__name__} without a padding token, takes one with it")
    length = _context_length(unwrap(model)) or inside.model_max_length

    def tokens(prompts: list[str]) -> Tensor:
        encoded = inside(prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        ids: Tensor = encoded["input_ids"]
        return ids

    return tokens


def _context_length(model: Any) -> int | None:
    text = getattr(getattr(model, "config", None), "text_config", None)
    length: int | None = getattr(text, "max_position_embeddings", getattr(model, "context_length", None))
    return None if length is None else int(length)


def of_processor(tokenizer: Any, name: str) -> Sequence[float] | None:
    """``image_mean`` or ``image_std`` of a processor of transformers; None of anything else."""
    images = getattr(tokenizer, "image_processor", None) if is_of_transformers(tokenizer) else None
    values: Sequence[float] | None = getattr(images, name, None)
    return values


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
