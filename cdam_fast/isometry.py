"""Vectors whose squared Euclidean distance is twice the Jensen-Shannon divergence, of any distributions.

The divergence of one class, ``j(x, y) = (x ln x + y ln y)/2 - m ln m`` with ``m = (x+y)/2``, is homogeneous, and so an
integral of squared distances over frequencies (Fuglede and Topsoe, 2004; Vedaldi and Zisserman, 2012, have it of the
additive Jensen-Shannon kernel)::

    2 j(x, y) = ln 2  integral  k(v) |sqrt x exp(i v ln x) - sqrt y exp(i v ln y)|^2 dv,
    k(v) = sech(pi v) / (ln 2 (1 + 4 v^2))

Here it is a sum over few frequencies with weights: for each frequency two features, ``sqrt(w x) cos(v ln x)`` and
``sqrt(w x) sin(v ln x)``, one for frequency 0. Divided by ``2 j``, a term depends on ``ln x - ln y`` alone, so that one
table, made so that the largest relative error over all of it is least (`benchmarks/isometry_table.py`), serves every
pair of probabilities, 0 and 1 included, and sums over classes are as right as the classes. Nothing is measured on the
data: rows that are embedded by separate calls can be compared. Features near a base point (`cdam_fast.embedding`) are
5 or 6 a class in place of 23, but of rows that are near it, and how many depends on the rows.

A distribution is taken from every row, which moves no two rows apart and makes features small where rows are near to
it: float32 rounds them by a share of their size.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from cdam_fast.arguments import check_distributions, check_origin, check_rtol
from cdam_fast.tracing import is_differentiated, is_traced


class Spectrum(NamedTuple):
    """Frequencies and weights that stand for the integral."""

    error: float
    """Largest relative error of ``2 j(x, y)``, over all x and y."""
    frequencies: tuple[float, ...]
    weights: tuple[float, ...]

    @property
    def features(self) -> int:
        """For each class: two a frequency, one of frequency 0."""
        return 2 * len(self.frequencies) - (self.frequencies[0] == 0)


# fmt: off
SPECTRA = (
    Spectrum(
        0.00436,
        (0.2193500814, 0.8191273867),
        (0.620834, 0.0693149188),
    ),
    Spectrum(
        0.000835,
        (0.1770150042, 0.5884247902, 1.2202083985),
        (0.558068315, 0.123483908, 0.0110196184),
    ),
    Spectrum(
        0.000209,
        (0.1529417282, 0.4903898357, 0.9175682639, 1.5709508558),
        (0.509681805, 0.155456578, 0.0254481749, 0.0024170838),
    ),
    Spectrum(
        6.24e-05,
        (0.13642408, 0.4294458876, 0.776313192, 1.215564997, 1.8836740865),
        (0.470668463, 0.17626636, 0.0390302576, 0.00647743142, 0.000661675022),
    ),
    Spectrum(
        2.23e-05,
        (0.1251699675, 0.3897781129, 0.6914724733, 1.051093881, 1.5032400598, 2.168196164),
        (0.441353293, 0.188533488, 0.0503816425, 0.0108309851, 0.00182548886, 0.000206956002),
    ),
    Spectrum(
        9.11e-06,
        (0.1167899135, 0.3611739178, 0.6333491393, 0.9464619142, 1.3215141493, 1.7619617391, 2.4087789044),
        (0.418141345, 0.196210792, 0.0597468465, 0.0151738269, 0.00321630984, 0.000572187613, 7.96023603e-05),
    ),
    Spectrum(
        1.84e-06,
        (0.1039068163, 0.3185957379, 0.5507565064, 0.8060143069, 1.0893043454, 1.4144490647, 1.8067109684,
         2.2393944488, 2.8536386621),
        (0.380311122, 0.204637698, 0.0754722325, 0.0235506381, 0.00681333024, 0.00185896781, 0.000412575681,
         7.53007554e-05, 1.40477549e-05),
    ),
    Spectrum(
        6.39e-07,
        (0.0, 0.18788357, 0.3814116431, 0.5819318799, 0.7966691045, 1.029762622, 1.2825569172, 1.5717677836,
         1.8838525743, 2.2592328401, 2.6458172408, 3.1562968728),
        (0.186582523, 0.282745336, 0.13755691, 0.0547476321, 0.0206552124, 0.00721328152, 0.00253273576,
         0.000800083918, 0.000233024471, 6.52504951e-05, 1.09362437e-05, 4.32370015e-06),
    ),
)
"""From the fewest features to the most."""
# fmt: on

LEAST_RTOL = 1e-6
"""Beyond it are the roundings of float32."""

_TILE = {"cpu": 1 << 15}  # probabilities at a time: temporaries of float64 in the second-level cache
_LARGE_TILE = 1 << 20  # elsewhere: 8 MB each


def choose_spectrum(rtol: float) -> Spectrum:
    """The fewest features that are within a relative tolerance of at least `LEAST_RTOL`."""
    return next(spectrum for spectrum in SPECTRA if spectrum.error <= rtol)


def js_embedding(p: Tensor, base: Tensor | None = None, *, rtol: float = 1e-6) -> Tensor:
    """Vectors whose squared Euclidean distance is twice the Jensen-Shannon divergence of the distributions, in nats.

    For k-nearest neighbours, clustering and whatever else takes points: ``|e_i - e_j|^2 = 2 JS(p_i, p_j)`` to within
    rtol of itself, and so of the largest, whatever the distributions. A row's embedding depends on the row, base and
    rtol alone: rows of separate calls, such as a database and the queries that come later, can be compared where these
    calls had the same base and rtol.

    Args:
        p: ``[..., N, C]`` class distributions, non-negative; float16, bfloat16, float32 or float64. Rows need not sum
            to 1: the divergence of any non-negative rows is the same sum over classes.
        base: ``[C]`` distribution that is embedded as 0, on p's device, of any of these dtypes: ``|e_i|^2 = 2 JS(p_i,
            base)``. It changes no distance, only how well float32 holds it: the mean of a database is best. None is the
            uniform distribution, ``1/C``.
        rtol: relative tolerance of a squared distance, from 1e-6 to less than 1; it sets the features of a class, 4 for
            5e-3, 6 for 1e-3, 10 for 1e-4, 14 for 1e-5 and 23 for 1e-6.

    Returns:
        ``[..., N, K]`` float32, K the features of a class times C; arithmetic in float64, which the device has to
        have. Rounding to float32 moves a distance (not squared) by at most ``2^-24 (|e_i| + |e_j|)``; float32 sums of
        whoever computes it come on top. A row with a negative, infinite or NaN entry is NaN, and no other; with such
        a base all are.

    Differentiable with respect to p and base, with gradient 0 for probabilities of 0. The slope of a feature grows as
    ``1/sqrt p`` and cancels in a distance to leave ``ln(p/m)``: to learn from rare classes take `pairwise_divergence`.

    Raises:
        TypeError: p or base is no tensor or of an integer dtype; rtol is no number. ValueError: p has fewer than two
            dims or no class; base of another shape or device; rtol outside of its range. Each names the argument.
    """
    p, _ = check_distributions(p, None)
    origin = check_origin(base, p)
    spectrum = choose_spectrum(check_rtol(rtol, LEAST_RTOL))
    if origin is None:
        origin = torch.full(p.shape[-1:], 1 / p.shape[-1], dtype=torch.float64, device=p.device)
    at_origin = _features(origin, spectrum)
    if is_differentiated(p, base) or is_traced(p, base):
        return (_features(p, spectrum) - at_origin).flatten(-2).float()
    rows = p.reshape(-1, p.shape[-1])
    result = torch.empty(rows.shape[0], at_origin.numel(), dtype=torch.float32, device=p.device)
    count = max(1, _TILE.get(p.device.type, _LARGE_TILE) // rows.shape[1])
    for start in range(0, rows.shape[0], count):
        features = _features(rows[start : start + count], spectrum).sub_(at_origin)
        result[start : start + count] = features.flatten(-2)
    return result.reshape(*p.shape[:-1], result.shape[1])


def _features(p: Tensor, spectrum: Spectrum) -> Tensor:
    """``[..., C] -> [..., features, C]`` float64, about no origin."""
    valid = ((p >= 0) & (p < math.inf)).all(-1, keepdim=True)
    x = torch.where(valid, p.double(), torch.nan)
    x = x.clamp_min(torch.finfo(x.dtype).tiny)  # the root of 0 has no slope; that of this one is no feature's last bit
    root, logarithm = x.sqrt(), x.log()
    features = []
    for frequency, weight in zip(spectrum.frequencies, spectrum.weights):
        amplitude = root * math.sqrt(weight)
        if frequency == 0:
            features.append(amplitude)
            continue
        phase = logarithm * frequency
        features += [amplitude * phase.cos(), amplitude * phase.sin()]
    return torch.stack(features, -2)
