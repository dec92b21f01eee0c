"""The kernels' feature table: that it is what its script writes, and that its bounds hold."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.polynomial import polynomial

import cdam_fast
from cdam_fast import embedding
from cdam_fast.kernels import features

ROOT = Path(cdam_fast.__file__).parent.parent


def numbers(text):
    return np.array([float(word) for word in text.replace("(", " ").replace(")", " ").replace(",", " ").split()])


def test_table_is_what_the_script_writes():
    """To 6 digits: eigenvectors come from LAPACK, whose last digits differ between machines; signs are free."""
    script = ROOT / "benchmarks" / "feature_table.py"
    written = {}
    exec(subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout, written)
    assert np.allclose(written["WIDTHS"], features.WIDTHS)
    assert np.allclose(written["BOUNDS"], features.BOUNDS, rtol=0.02)
    z = np.linspace(-1, 1, 31)
    for ours, theirs in zip(features.COEFFICIENTS, written["COEFFICIENTS"]):
        kept, new = polynomial.polyval(z, np.transpose(ours)), polynomial.polyval(z, np.transpose(theirs))
        assert np.allclose(np.einsum("ri,rj->ij", kept, kept), np.einsum("ri,rj->ij", new, new), atol=1e-9)


@pytest.mark.parametrize("entry", range(len(features.WIDTHS)))
def test_bounds_hold(entry):
    """Of a pair, the features leave out at most the sum of the two bounds, also away from the diagonal."""
    width = features.WIDTHS[entry]
    z = np.linspace(-1, 1, 81)
    # j(x, y) for base 1, in units of v_x v_y; x = ((1+s)/(1-s))^2
    root = (1 + width * z) / (1 - width * z)
    x, weight = root**2, 1 + root
    m = (x[:, None] + x[None, :]) / 2
    divergence = (x * np.log(x))[:, None] / 2 + (x * np.log(x))[None, :] / 2 - m * np.log(m)
    values = polynomial.polyval(z, np.transpose(features.COEFFICIENTS[entry]))
    for rank, (floor, growth) in enumerate(features.BOUNDS[entry], start=1):
        f = values[:rank] * weight
        given = ((f[:, :, None] - f[:, None, :]) ** 2).sum(0) / 2
        bound = weight**2 * (floor + growth * z**6)
        rounding = 1e-7 * (weight * width) ** 2
        allowed = (bound + rounding)[:, None] + (bound + rounding)[None, :]
        assert (np.abs(divergence - given) <= allowed).all(), rank


def test_kernel_of_the_embedding_is_the_one():
    s = np.array([-0.3, 0.1, 0.4])
    root = (1 + s) / (1 - s)
    x = root**2
    to_base = (x * np.log(x) - (1 + x) * np.log((1 + x) / 2)) / 2
    expected = 2 * to_base / (1 + root) ** 2
    assert np.allclose(embedding._kernel(s, s), expected)
