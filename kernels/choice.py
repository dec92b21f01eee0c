"""Which path each scale's divergence takes, by the rule of `divergence_kernel` itself, for whoever asks."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from . import features
from .distributions import FIELDS, STATISTICS
from .divergence import choice

PATHS = ("narrow features", "wide features", "logarithms", "definition")

NUMBERS = tl.constexpr(6)  # of a scale: path, reach, tail, length, contrast, allowed

FEATURES = {
    "narrow features": (features.NARROW_RANK, features.NARROW_REACH, features.NARROW_FLOOR, features.NARROW_GROWTH),
    "wide features": (features.WIDE_RANK, features.WIDE_REACH, features.WIDE_FLOOR, features.WIDE_GROWTH),
}


class Choice(NamedTuple):
    """The path of one scale of one image, and the numbers that chose it."""

    path: str
    """One of `PATHS`."""
    rank: int
    """Of the features; 0 on another path."""
    reach: float
    """Largest ``|s|``, which a set of features has to serve."""
    length: float
    tail: float
    """The two sums over classes, largest over the patches, that floor and growth are of."""
    floor: float
    growth: float
    """Of the features' set; on another path of the one with the least bound, NaN where none reaches so far."""
    bound: float
    """Of what the features leave out and round away, ``floor * length + growth * tail``."""
    allowed: float
    """What it may be at most."""
    contrast: float
    """JS of some two patches is at least this."""


@triton.jit(do_not_specialize=["classes", "n_blocks", "n_scales"])
def choice_kernel(
    statistics_ptr,  # [B, blocks, STATISTICS]
    numbers_ptr,  # [B, S, NUMBERS]
    scales_ptr,
    classes,
    n_blocks,
    n_scales,
    FEATURES_FIRST: tl.constexpr,
):
    """The choice of one scale of one image, as a number for each field."""
    program = tl.program_id(0)
    scale_ptr = scales_ptr + (program % n_scales) * FIELDS
    first = (program // n_scales).to(tl.int64) * n_blocks + tl.load(scale_ptr + 10)
    blocks = tl.load(scale_ptr + 11).to(tl.int32)
    narrow, wide, exact_enough, reach, tail, length, contrast, allowed = choice(
        statistics_ptr + first * STATISTICS, blocks, classes, FEATURES_FIRST
    )
    path = tl.where(narrow, 0.0, tl.where(wide, 1.0, tl.where(exact_enough, 2.0, 3.0)))
    numbers_ptr += program.to(tl.int64) * NUMBERS
    tl.store(numbers_ptr, path)
    tl.store(numbers_ptr + 1, reach)
    tl.store(numbers_ptr + 2, tail)
    tl.store(numbers_ptr + 3, length)
    tl.store(numbers_ptr + 4, contrast)
    tl.store(numbers_ptr + 5, allowed)


def named(numbers: torch.Tensor) -> list[list[Choice]]:
    """What `choice_kernel` stored, ``[B, S, NUMBERS]``, for each image and scale."""
    return [[_named(*scale) for scale in image] for image in numbers.double().tolist()]


def _named(path: float, reach: float, tail: float, length: float, contrast: float, allowed: float) -> Choice:
    taken = PATHS[int(path)]
    sets = []
    for name, constants in FEATURES.items():
        rank, serves, floor, growth = (constant.value for constant in constants)
        if name == taken or (taken not in FEATURES and reach <= serves):
            sets.append((floor * length + growth * tail, rank if name == taken else 0, floor, growth))
    bound, rank, floor, growth = min(sets, default=(float("nan"), 0, float("nan"), float("nan")))
    return Choice(taken, rank, reach, length, tail, floor, growth, bound, allowed, contrast)
