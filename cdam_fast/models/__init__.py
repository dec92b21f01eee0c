"""Dense features of an unmodified CLIP of open_clip, OpenAI or transformers, one attention rule a file."""

from __future__ import annotations

from torch import Tensor

from cdam_fast.models.base import Base, LastBlock, last_block
from cdam_fast.models.blocks import Block
from cdam_fast.models.clearclip import CLEARCLIP
from cdam_fast.models.gem import GEM
from cdam_fast.models.maskclip import MASKCLIP
from cdam_fast.models.naclip import NACLIP
from cdam_fast.models.proxy import NAME as PROXYCLIP
from cdam_fast.models.proxy import proxyclip
from cdam_fast.models.scclip import SCCLIP
from cdam_fast.models.sclip import SCLIP
from cdam_fast.models.settings import own_settings
from cdam_fast.models.text import class_features, same_features, text_features
from cdam_fast.models.text_towers import IMAGE_WEIGHTS
from cdam_fast.models.tokenizers import Tokenizer, as_tokenizer, of_processor, tokenize
from cdam_fast.models.tower import Tower
from cdam_fast.models.wrapped import unwrap

__all__ = [
    "BASES",
    "IMAGE_WEIGHTS",
    "Base",
    "Block",
    "LastBlock",
    "Tokenizer",
    "Tower",
    "as_tokenizer",
    "check_base",
    "class_features",
    "dense_features",
    "last_block",
    "of_processor",
    "own_settings",
    "proxyclip",
    "same_features",
    "text_features",
    "tokenize",
    "unwrap",
]

BASES: dict[str, Base] = {base.name: base for base in (MASKCLIP, SCLIP, CLEARCLIP, GEM, NACLIP, SCCLIP)}
"""The base methods by name."""


def dense_features(model: object, pixels: Tensor, base: str | Base = "maskclip") -> Tensor:
    """L2-normalised patch features of a base method, ``[B, 3, H, W] -> [B, N, D]``.

    Args:
        model: a CLIP or SigLIP of open_clip, OpenAI's clip or transformers, see `Tower`; left as it was found.
        pixels: floating, normalised for the model, sides that the patch divides. Position embeddings are resized
            by the base's own rule where the size is not the trained one.
        base: a name of `BASES`, such as ``"maskclip"``, or a `Base` of your own.

    Returns:
        float32, or float64 for a float64 model.

    Raises:
        TypeError, ValueError: a model, pixels or a base that this cannot serve, by name.
    """
    chosen = check_base(base)
    tower = Tower(model)
    with own_settings(tower.device):
        return chosen.first_pass(tower, chosen.prepare(tower, tower.check_pixels(pixels)))


def check_base(base: object) -> Base:
    """The base method of this name, or the base itself."""
    if isinstance(base, Base):
        return base
    if not isinstance(base, str):
        raise TypeError(f"base: got {base!r}, takes a Base or one of {', '.join(map(repr, BASES))}")
    if base in BASES:
        return BASES[base]
    if base == PROXYCLIP:
        raise ValueError(f"base: got {base!r}, whose patch features it takes: proxyclip(features), see docs/bases.md")
    raise ValueError(f"base: got {base!r}, takes one of {', '.join(map(repr, BASES))} or a Base")
