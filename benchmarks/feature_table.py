"""Writes kernels/features.py: the features of JS as a squared distance, for the kernels.

    python benchmarks/feature_table.py > kernels/features.py

The derivation is in cdam_fast/embedding.py. The kernels take fewer widths and ranks, and polynomials of a fixed degree.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.polynomial import chebyshev

from cdam_fast import embedding

WIDTHS = tuple(0.42 / 1.22**k for k in reversed(range(12)))
DEGREES = (11, 10, 8, 8, 8, 8)
"""Of each feature. The first two carry nearly all of a divergence, and have the high degrees and full precision."""
FINE_RANKS = 2
COARSE_ROUNDING = 2.0**-10
"""Products of the other features are rounded to TF32: 2^-11 for each factor."""


def entry(width: float) -> tuple[list[list[float]], list[tuple[float, float]]]:
    """Power coefficients of each feature in ``s / width``, lowest first, and each rank's floor and growth."""
    z = np.cos(np.pi * (np.arange(160) + 0.5) / 160)
    full = embedding.table(width).coefficients
    polynomials = []
    for rank, degree in enumerate(DEGREES):
        # narrow widths have fewer eigenvalues above rounding: what is missing is 0
        values = chebyshev.chebval(z, full[:, rank]) if rank < full.shape[1] else np.zeros_like(z)
        fitted = chebyshev.cheb2poly(chebyshev.chebfit(z, values, degree))
        polynomials.append([*fitted.tolist(), *[0.0] * (max(DEGREES) + 1 - len(fitted))])
    fine = np.cos(np.pi * (np.arange(400) + 0.5) / 400)
    diagonal = np.asarray(embedding._kernel(width * fine, width * fine))
    squares = [np.polynomial.polynomial.polyval(fine, c) ** 2 for c in polynomials]
    bounds = []
    for rank in range(1, len(DEGREES) + 1):
        # a fifth to spare for what the degrees cut off away from the diagonal
        residual = 1.2 * np.abs(diagonal - sum(squares[:rank])) + 1e-18
        rounding = COARSE_ROUNDING * sum(squares[FINE_RANKS:rank], np.zeros_like(fine))
        bounds.append(embedding._bound_residual(residual + rounding, fine))
    return polynomials, bounds


def main() -> None:
    """Print the module."""
    write = sys.stdout.write
    entries = [entry(width) for width in WIDTHS]
    write(
        '"""Features of JS as a squared distance, written by benchmarks/feature_table.py; README.md says of what."""\n'
    )
    write("\n# fmt: off\n# ruff: noqa: E501\n# largest |s| that each entry serves\n")
    write(f"WIDTHS = ({', '.join(f'{width:.9g}' for width in WIDTHS)})\n\n")
    write("# per width and rank: floor and growth of the bound of what the features leave out\nBOUNDS = (\n")
    for _, bounds in entries:
        write(f"    ({', '.join(f'({floor:.4g}, {growth:.4g})' for floor, growth in bounds)}),\n")
    write(")\n\n# per width and rank: power coefficients in s / width, lowest first\nCOEFFICIENTS = (\n")
    for polynomials, _ in entries:
        write("    (\n")
        for coefficients in polynomials:
            write(f"        ({', '.join(f'{c:.9g}' for c in coefficients)}),\n")
        write("    ),\n")
    write(")\n")


if __name__ == "__main__":
    main()
