"""Make the frequencies and weights of `cdam_fast.isometry`: minimax quadratures of the spectrum of the JS divergence.

    python benchmarks/isometry_table.py

For each number of features a class the largest relative error of ``2 j(1, exp(-t))`` over all t is made small by a
sequence of linear programs in the changes of frequencies and weights, from frequencies spaced as a hyperbolic sine.
Needs SciPy; one minute. Prints what the module has.
"""

import sys

import numpy as np
from scipy.optimize import linprog

T = np.concatenate((np.linspace(0.1, 3.1, 31) ** 2, np.linspace(0.2, 10, 120), np.linspace(10, 36, 200), [40.0, 60.0]))
"""Beyond the last nothing changes."""
COUNTS = (4, 6, 8, 10, 12, 14, 18, 23)


def twice_divergence(t):
    """``2 j(1, exp(-t))``, of near arguments from their difference."""
    y = np.exp(-t)
    u = -np.expm1(-t) / (1 + y)
    return np.log1p(u) + y * np.log1p(-np.minimum(u, 1 - 1e-16))


def terms(frequencies, t=T):
    """``|f(1) - f(y)|^2 / 2 j(1, y)`` of each frequency with weight 1, and its derivative by the frequency."""
    root = np.exp(-t / 2)[:, None]
    phase = t[:, None] * frequencies
    scale = 1 / twice_divergence(t)[:, None]
    value = ((1 - root) ** 2 + 4 * root * np.sin(phase / 2) ** 2) * scale
    return value, 2 * root * np.sin(phase) * t[:, None] * scale


def solve(matrix, residual, bounds):
    """The x that makes the largest of ``|matrix x + residual|`` least, and that."""
    rows, columns = matrix.shape
    one = np.ones((rows, 1))
    result = linprog(
        np.append(np.zeros(columns), 1.0),
        A_ub=np.block([[matrix, -one], [-matrix, -one]]),
        b_ub=np.concatenate((-residual, residual)),
        bounds=[*bounds, (0, None)],
        method="highs",
    )
    return (result.x[:-1], result.x[-1]) if result.status == 0 else (None, np.inf)


def start(count):
    pairs, odd = divmod(count, 2)
    best = (np.inf, None, None)
    steps = np.arange(1, pairs + 1) - (0 if odd else 0.5)
    for spacing in np.linspace(0.1, 0.5, 9):
        for first in np.linspace(0.7, 1.7, 6) / np.sqrt(count):
            frequencies = np.sinh(steps * spacing) / spacing * first
            frequencies = np.append(np.zeros(odd), frequencies)
            weights, error = solve(terms(frequencies)[0], -np.ones(len(T)), [(0, None)] * len(frequencies))
            if error < best[0]:
                best = (error, frequencies, weights)
    return best


def improve(error, frequencies, weights, odd):
    radius = 0.02
    for _ in range(250):
        value, slope = terms(frequencies)
        residual = value @ weights - 1
        error = np.abs(residual).max()
        moved = slice(odd, None)
        spread = error  # the programs are solved in units of the error, or their own tolerance would end them early
        matrix = np.concatenate((slope[:, moved] * weights[moved] * radius, value * weights * radius), 1) / spread
        step, _ = solve(matrix, residual / spread, [(-1, 1)] * matrix.shape[1])
        if step is None:
            radius /= 4
            continue
        new_frequencies = frequencies.copy()
        new_frequencies[moved] += radius * step[: len(frequencies) - odd]
        new_weights = weights * (1 + radius * step[len(frequencies) - odd :])
        new = np.abs(terms(new_frequencies)[0] @ new_weights - 1).max()
        if new < error:
            frequencies, weights = new_frequencies, new_weights
            radius = min(2 * radius, 0.3)
        else:
            radius /= 3
            if radius < 1e-9:
                break
    return frequencies, weights


def main():
    fine = np.concatenate((np.geomspace(1e-3, 0.01, 10), np.linspace(0.01, 8, 20000), np.linspace(8, 80, 20000)))
    for count in COUNTS:
        error, frequencies, weights = start(count)
        frequencies, weights = improve(error, frequencies, weights, count % 2)
        order = np.argsort(frequencies)
        frequencies = frequencies[order].round(10)
        weights = np.array([float(f"{weight:.9g}") for weight in weights[order]])
        reached = np.abs(terms(frequencies, fine)[0] @ weights - 1).max()
        lines = (f"{1.005 * reached:.3g}", str(tuple(frequencies.tolist())), str(tuple(weights.tolist())))
        sys.stdout.write("    Spectrum(\n" + "".join(f"        {line},\n" for line in lines) + "    ),\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
