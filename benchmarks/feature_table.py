"""Writes kernels/features.py: the features of JS as a squared distance, for the kernels.

    python benchmarks/feature_table.py > kernels/features.py

In ``s = (sqrt p - sqrt b) / (sqrt p + sqrt b)`` and ``w = sqrt p - sqrt b`` the kernel of cdam_fast/embedding.py is
``w_i w_j`` times a function of ``(s_i, s_j)``. A set of features is the leading eigenfunctions of that function on
``|s| <= reach``, among polynomials of a fixed degree under a Gaussian weight, turned so that feature r is
``w s^r (c_0 + c_1 s + ...)``: each is smaller and shorter than the one before.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.polynomial import legendre, polynomial

from cdam_fast import embedding

Array = npt.NDArray[np.float64]

DEVIATIONS = 6.0
"""Of the Gaussian weight in a reach; a weight of 3e-3 more keeps the ends."""
ROUNDED_PRODUCT = 2.0**-10
"""Error of a product of two factors that are rounded to TF32, 2^-11 each."""


class Shape(NamedTuple):
    """Of a set of features: how many, the terms of the first, how many take split products, and the largest |s|."""

    rank: int
    terms: int
    split: int
    reach: float


SHAPES = {"NARROW": Shape(6, 8, 4, 0.36), "WIDE": Shape(7, 9, 5, 0.45)}
"""What CLIP at spreads of 0.01 to 0.03 needs, and what it needs at 0.035."""


def kernel(s: Array, u: Array) -> Array:
    """``k / (w_s w_u)`` of every pair, for base 1; s and u are not 0.  # [S, U]"""
    return embedding._kernel(s[:, None], u[None, :]) / (s[:, None] * u[None, :])


def features(shape: Shape) -> Array:
    """Coefficients of each feature over w, in powers of s, lowest first; row r starts at power r.  # [rank, terms]"""
    z, weight = legendre.leggauss(96)
    root = np.abs(z) * np.sqrt(weight * (np.exp(-((DEVIATIONS * z) ** 2) / 2) + 3e-3))
    orthonormal, triangle = np.linalg.qr(np.vander(z, shape.terms, increasing=True) * root[:, None])
    projected = orthonormal.T @ (kernel(shape.reach * z, shape.reach * z) * root[:, None] * root[None, :]) @ orthonormal
    values, vectors = np.linalg.eigh(projected)
    leading = np.linalg.solve(triangle, (vectors * np.sqrt(np.abs(values)))[:, -shape.rank :])
    # a rotation of the features leaves their products as they are: the one that makes them triangular
    rotation, _ = np.linalg.qr(leading[: shape.rank].T)
    turned = np.asarray(leading @ rotation).T
    turned *= np.sign(np.diag(turned))[:, None]
    return np.triu(turned) / shape.reach ** np.arange(shape.terms)


def to_base() -> Array:
    """JS(p, b) / w^2, half the kernel's diagonal, for every |s| that features serve, to 1e-9: in powers of s^2."""
    square = max(shape.reach for shape in SHAPES.values()) ** 2 * (1 + np.cos(np.pi * (np.arange(60) + 0.5) / 60)) / 2
    half = np.diagonal(kernel(np.sqrt(square), np.sqrt(square))) / 2
    return np.asarray(polynomial.Polynomial.fit(square, half, 5, w=square).convert().coef)


def bound(shape: Shape, coefficients: Array) -> tuple[float, float]:
    """Floor and growth: products are off by ``|w_s w_u| sqrt(h(s) h(u))`` at most, ``h = floor + growth s^4``.

    Left out and the rounding of the products that are not split, both of the very polynomials.
    """
    s = shape.reach * np.cos(np.pi * (np.arange(400) + 0.5) / 400)
    values = np.vander(s, shape.terms, increasing=True) @ coefficients.T
    rounded = np.abs(values[:, shape.split :])
    error = np.abs(kernel(s, s) - values @ values.T) + ROUNDED_PRODUCT * (rounded @ rounded.T)
    best = (np.inf, 0.0, 0.0)
    for ratio in np.geomspace(1, 1e6, 200):
        h = np.sqrt(1 + ratio * s**4)
        floor = float((error / (h[:, None] * h[None, :])).max())
        # of CLIP-like rows, the mean of s^4 under the weight w^2 is 2 % of reach^4
        best = min(best, (floor * (1 + 0.02 * ratio * shape.reach**4), floor, ratio * floor))
    return 1.01 * best[1], 1.01 * best[2]  # a hundredth for what lies between the 400 points


def horner(variable: str, coefficients: Array, indent: str, last_line: str = "f =") -> str:
    """Lines that leave the polynomial, whose coefficients are lowest first, in f, or return it."""
    *rest, last = [f"{c:.9g}" for c in coefficients]
    lines = [f"f = {variable} * {last} + {rest.pop()}", *(f"f = f * {variable} + {c}" for c in reversed(rest))]
    lines[-1] = lines[-1].replace("f =", last_line, 1)
    return "".join(f"{indent}{line}\n" for line in lines).replace("+ -", "- ")


def main() -> None:
    """Print the module."""
    write = sys.stdout.write
    write(
        '"""Features of JS as a squared distance, written by benchmarks/feature_table.py; README.md says of what."""\n'
    )
    write("\n")
    write("import triton\nimport triton.language as tl\n")
    tables = {name: features(shape) for name, shape in SHAPES.items()}
    for name, shape in SHAPES.items():
        floor, growth = bound(shape, tables[name])
        write(f"\n{name}_RANK = tl.constexpr({shape.rank})\n")
        write(f"{name}_SPLIT = tl.constexpr({shape.split})  # of them to float32 accuracy\n")
        write(f"{name}_REACH = tl.constexpr({shape.reach})  # largest |s|\n")
        write(
            f"{name}_FLOOR = tl.constexpr({floor:.4g})  # of the bound of what the features leave out or round away\n"
        )
        write(f"{name}_GROWTH = tl.constexpr({growth:.4g})  # times s^4\n")
    write("\n\n@triton.jit\ndef feature(s, r: tl.constexpr, WIDE: tl.constexpr):\n")
    write('    """Feature r over ``(sqrt p - sqrt b) s^r``, a polynomial in s by Horner\'s rule."""\n')
    branch = "if"
    for name, shape in SHAPES.items():
        for r in range(shape.rank):
            condition = f"{'WIDE' if name == 'WIDE' else 'not WIDE'} and r == {r}"
            write(f"    {branch} {condition}:\n")
            write(horner("s", tables[name][r, r:], "        "))
            branch = "elif"
    write("    return f\n")
    write("\n\n@triton.jit\ndef js_to_base_of(square):\n")
    write('    """JS of a class and its base over ``(sqrt p - sqrt b)^2``, by s^2."""\n')
    write(horner("square", to_base(), "    ", "return"))


if __name__ == "__main__":
    main()
