"""Jensen-Shannon divergence as a squared distance: one matrix product instead of N x N x C logarithms.

The divergence of two classes' probabilities, ``j(x, y) = (x ln x + y ln y)/2 - m ln m`` with ``m = (x+y)/2``,
is the square of a metric (Fuglede and Topsoe, 2004), so about any base point b it comes from a positive
definite kernel::

    k(x, y) = j(x, b) + j(y, b) - j(x, y),      JS(p_i, p_j) = |f_i - f_j|^2 / 2,   f_i . f_j = sum_c k

The base point of a class is its mean over the rows. In ``s = (sqrt x - sqrt b) / (sqrt x + sqrt b)``, which lies
in [-1, 1] and needs no logarithm, the kernel is ``(sqrt x + sqrt b)(sqrt y + sqrt b)`` times a function of
``(s_x, s_y)`` alone. Its leading eigenfunctions, written as Chebyshev polynomials in s, are the features. What
they leave out is again a positive definite kernel, so by Cauchy-Schwarz

    JS - (what the features give) = |r_i - r_j|^2 / 2  is between 0 and  |r_i|^2 + |r_j|^2,

and ``|r_i|^2`` is at most ``floor * sum_c v^2 + growth * sum_c v^2 (s/half_width)^6`` with ``v = sqrt x + sqrt b``:
two sums that are measured on the data. Rounding is bounded too: JS is convex, so a row's divergence from the mean
row is at most the row's largest divergence, and no product of features exceeds four times that.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from numpy.polynomial import chebyshev, legendre
from torch import Tensor

Array = npt.NDArray[np.float64]

HALF_WIDTHS = tuple(0.6 * 1.08**-k for k in reversed(range(36)))
"""Largest ``|s|`` that each table serves; 0.6 is a factor of 16 between a probability and its mean."""

MAX_RANK = 12
RESIDUAL_POWER = 6  # of 2 to 20 the tightest: 1.1 to 3 times the true residual of CLIP-like input, 8 gives 2 to 6 times
DEVIATIONS = 4.5  # CLIP's log-probabilities are near Gaussian; the largest of 100,000 lies 4.5 deviations out


class Table(NamedTuple):
    """Features for ``|s| <= half_width``: the first R columns give rank R."""

    half_width: float
    coefficients: Array
    """``[33, ranks]`` Chebyshev coefficients in ``s / half_width``."""
    degrees: list[int]
    """Degree that the first R = index + 1 features need."""
    floor: list[float]
    """With growth, bounds the residual of rank R = index + 1."""
    growth: list[float]


def _class_divergence(x: Array, y: Array) -> Array:
    m = (x + y) / 2
    return (x * np.log(x / m) + y * np.log(y / m)) / 2


def _kernel(s: Array, u: Array) -> Array:
    """``k / ((1 + sqrt x)(1 + sqrt y))`` for base point 1, where ``sqrt x = (1 + s)/(1 - s)``."""
    root_x, root_y = (1 + s) / (1 - s), (1 + u) / (1 - u)
    x, y, one = root_x**2, root_y**2, np.ones(())
    k = _class_divergence(x, one) + _class_divergence(y, one) - _class_divergence(x, y)
    return np.asarray(k / ((1 + root_x) * (1 + root_y)))


def _bound_residual(residual: Array, z: Array) -> tuple[float, float]:
    """The least ``floor + growth * z^6`` above the residual, least on average for a Gaussian z."""
    power = z**RESIDUAL_POWER
    mean_power = 15 / DEVIATIONS**RESIDUAL_POWER  # the sixth moment of a Gaussian is 15
    growth = residual.max() * np.concatenate(([0.0], np.geomspace(1e-4, 1e3, 200)))
    floor = np.clip((residual[:, None] - growth * power[:, None]).max(0), 0, None)
    best = int(np.argmin(floor + growth * mean_power))
    return float(floor[best]), float(growth[best])


@cache
def table(half_width: float) -> Table:
    """The features for ``|s| <= half_width``: eigenfunctions of the kernel under a near-Gaussian weight."""
    nodes, weights = legendre.leggauss(96)
    weights = weights * (np.exp(-((DEVIATIONS * nodes) ** 2) / 2) + 1e-2)  # the constant keeps the ends
    weights /= weights.sum()
    s = half_width * nodes
    root = np.sqrt(weights)
    values, vectors = np.linalg.eigh(root[:, None] * _kernel(s[:, None], s[None, :]) * root[None, :])
    values, vectors = values[::-1][:MAX_RANK], vectors[:, ::-1][:, :MAX_RANK]
    # eigenvalues near rounding would carry noise, not features
    kept = int((values > 1e-11 * values[0]).sum())
    values, vectors = values[:kept], vectors[:, :kept]

    z = np.cos(np.pi * (np.arange(160) + 0.5) / 160)
    features = _kernel(half_width * z[:, None], s[None, :]) @ (root[:, None] * vectors) / np.sqrt(values)
    coefficients = chebyshev.chebfit(z, features, 32)

    # bounds of the very polynomials that are used; a fifth to spare for what their degree cuts off the diagonal
    fine = np.cos(np.pi * (np.arange(400) + 0.5) / 400)
    diagonal = _kernel(half_width * fine, half_width * fine)
    degrees, floors, growths = [], [], []
    degree = 1
    for rank in range(1, kept + 1):
        residual = diagonal - _square_sum(fine, coefficients[:, :rank])
        floor, _ = _bound_residual(residual, fine)
        while True:  # the least degree that adds a tenth to the floor at most
            used = diagonal - _square_sum(fine, coefficients[: degree + 1, :rank])
            if np.abs(used - residual).max() <= 0.1 * floor + 1e-16:
                break
            degree += 1
        floor, growth = _bound_residual(1.2 * np.clip(used, 1e-16, None), fine)
        degrees.append(degree)
        floors.append(floor)
        growths.append(growth)
    return Table(half_width, coefficients, degrees, floors, growths)


def _square_sum(z: Array, coefficients: Array) -> Array:
    return np.asarray((chebyshev.chebval(z, coefficients) ** 2).sum(0))


def features(weight: Tensor, position: Tensor, chosen: Table, rank: int) -> Tensor:
    """The first features of every patch, ``[rank * C, N]``.

    ``weight``: ``sqrt p + sqrt b``; ``position``: ``s / half_width``; both ``[C, N]``.
    """
    degree = chosen.degrees[rank - 1]
    polynomials = weight.new_empty(degree + 1, *weight.shape)
    t = polynomials.unbind(0)
    t[0].copy_(weight)
    torch.mul(weight, position, out=t[1])
    for k in range(2, degree + 1):
        # T_k = 2 z T_{k-1} - T_{k-2}; one addcmul each, with signs ++--++-- that the coefficients undo
        torch.addcmul(t[k - 2], position, t[k - 1], value=2.0 if k % 2 else -2.0, out=t[k])
    mix = _mix(chosen.half_width, rank, weight.dtype, weight.device)
    return (mix @ polynomials.flatten(1)).view(rank * weight.shape[0], -1)


@cache
def _mix(half_width: float, rank: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``[rank, degree + 1]`` coefficients with the signs of `features`' recurrence."""
    chosen = table(half_width)
    degree = chosen.degrees[rank - 1]
    signs = np.resize(np.array([1.0, 1.0, -1.0, -1.0]), degree + 1)
    mixed = (chosen.coefficients[: degree + 1, :rank] * signs[:, None]).T
    with torch.inference_mode(False):
        return torch.tensor(mixed.tolist(), dtype=dtype, device=device)
