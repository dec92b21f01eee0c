"""The exponent of a power law from a few measured points, with its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

CONFIDENCE = 0.95
LEAST_POINTS = 3

OVER_FLOOR = 3.0
"""Of a point over the floor, what a call costs at any size: two thirds of such a point or more grow with the size. The
slope below says nothing of large sizes."""

_T = (12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216, 2.22814, 2.20099)
"""97.5 % quantiles of Student's t for 1 to 11 degrees of freedom."""


@dataclass(frozen=True)
class Exponent:
    """``value ~ size ** exponent``, least squares on the logarithms."""

    exponent: float
    low: float
    high: float
    """The 95 % interval."""
    sizes: tuple[float, ...]
    """Of the points in the fit."""


def student_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t: of a table up to 11 degrees of freedom, else by its series in 1/degrees.

    Abramowitz and Stegun, 26.7.5; within 1e-4 there.
    """
    if degrees < 1:
        raise ValueError(f"degrees: got {degrees}, takes a whole number from 1")
    if degrees <= len(_T):
        return _T[degrees - 1]
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def fit_exponent(sizes: Sequence[float], values: Sequence[float]) -> Exponent:
    """Slope of ``log value`` over ``log size``, its interval by Student's t of the residuals.

    Args:
        sizes: at least three, positive, not all the same.
        values: as many, positive.

    Raises:
        ValueError: fewer points, or other values.
    """
    if len(sizes) != len(values) or len(sizes) < LEAST_POINTS:
        raise ValueError(f"sizes: got {len(sizes)} for {len(values)} values, takes {LEAST_POINTS} or more of each")
    if not all(0 < value < math.inf for value in (*sizes, *values)) or len(set(sizes)) < 2:
        raise ValueError("sizes: got what has no logarithm, or one size only; takes positive numbers")
    x, y = np.log(np.asarray(sizes, np.float64)), np.log(np.asarray(values, np.float64))
    deviation = x - x.mean()
    spread = float(deviation @ deviation)
    slope = float(deviation @ y) / spread
    residuals = y - y.mean() - slope * deviation
    degrees = len(sizes) - 2
    half = student_quantile(degrees) * math.sqrt(float(residuals @ residuals) / degrees / spread)
    return Exponent(slope, slope - half, slope + half, tuple(map(float, sizes)))


def fit_axis(sizes: Sequence[float], values: Sequence[float], floor: float = 0.0) -> Exponent | str:
    """The fit over the points that are `OVER_FLOOR` times the floor or more; or why there is none."""
    kept = [(size, value) for size, value in sorted(zip(sizes, values)) if value >= OVER_FLOOR * floor]
    if len(kept) < LEAST_POINTS:
        over = " over the floor" if len(kept) < len(sizes) else ""
        return f"{len(kept)} of {len(sizes)} points{over}"
    return fit_exponent([size for size, _ in kept], [value for _, value in kept])


def at_size_zero(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The floor of what grows by a size's first power: where a line through the two least points meets size 0.

    No less than 0, and 0 for fewer points.
    """
    points = sorted(zip(sizes, values))[:2]
    if len(points) < 2:
        return 0.0
    (size, value), (next_size, next_value) = points
    return max(0.0, (value * next_size - next_value * size) / (next_size - size))


def as_json(found: Exponent | str) -> dict[str, Any]:
    """Plain values."""
    if isinstance(found, str):
        return {"exponent": None, "low": None, "high": None, "sizes": [], "note": found}
    return {"exponent": found.exponent, "low": found.low, "high": found.high, "sizes": list(found.sizes), "note": ""}
