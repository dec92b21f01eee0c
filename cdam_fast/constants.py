"""Defaults of the paper and of the authors' code, and the patch grid of a scale."""

import math
from typing import Any

import torch
from torch import Tensor

SCALES: tuple[float, ...] = (0.25, 0.37, 0.5, 0.63, 0.75, 0.87, 1.0)
"""The set M of scales (Eq. 3)."""

TEMPERATURE = 0.1
"""Temperature of the softmax over classes."""

ATTENTION_TEMPERATURE = 0.1
"""Temperature of the row softmax of the attention map (tau of Eq. 2)."""

EPSILON = 1e-8
"""Added to the denominator of each row min-max."""

FLATNESS = 8.0
"""A row of the divergence is flat where its range is at most ``eps * (terms + 8 * largest)``: eps of the arithmetic's
dtype, terms the size of what the metric subtracts, largest the row's largest divergence. What such a row holds is
rounding, which a min-max would stretch to [0, 1]."""

METRICS = ("js", "kl", "wasserstein")
ORDERS = ("official", "paper")
BACKENDS = ("auto", "reference", "portable", "triton")


def metric_terms(metric: str, classes: int) -> float:
    """Rounding of a divergence of equal distributions, in eps: of logarithms for KL, of C sums for Wasserstein."""
    if metric == "js":
        return 1.0
    return 8 * (1 + math.log(classes)) if metric == "kl" else 8.0 * classes


def scaled_grid(height: int, width: int, scale: float) -> tuple[int, int]:
    """Patch grid at a scale: each side times the scale, truncated (28 at 0.37 is 10); sides may be symbols."""
    return _truncated(height * scale), _truncated(width * scale)


def _truncated(side: Any) -> int:
    # int() would make a symbol the number of its example
    whole: int = int(side) if isinstance(side, (float, Tensor)) else torch.sym_int(side)
    return whole
