"""The features' kernel against the divergence in float64, at every half width."""

import numpy as np
import pytest
import torch

from cdam_fast import embedding, reference
from cdam_fast.jensen_shannon import TRUNCATION

every_half_width = pytest.mark.parametrize("half_width", embedding.HALF_WIDTHS, ids="s{:.3f}".format)


def ranks(table):
    return sorted({1, 2, len(table.floor) // 2, len(table.floor) - 1, len(table.floor)})


@every_half_width
def test_kernel_is_that_of_the_divergence(half_width):
    """``k(x, y) = j(x, 1) + j(y, 1) - j(x, y)`` from probabilities, with the reference's divergence of one class."""
    s = torch.linspace(-half_width, half_width, 21, dtype=torch.float64)
    x = ((1 + s) / (1 - s)) ** 2

    def js(p, q):
        return reference.pairwise_divergence(p[:, None], q[:, None])

    one = torch.ones(1, dtype=torch.float64)
    weight = 1 + x.sqrt()
    expected = (js(x, one) + js(one, x) - js(x, x)) / (weight[:, None] * weight)
    result = torch.from_numpy(embedding._kernel(s.numpy()[:, None], s.numpy()[None]))
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-14)


@every_half_width
def test_residual_is_within_floor_and_growth(half_width):
    table = embedding.table(half_width)
    z = np.linspace(-1, 1, 1001)
    s = half_width * z
    diagonal = np.diagonal(embedding._kernel(s[:, None], s[None]))
    for rank in ranks(table):
        used = table.coefficients[: table.degrees[rank - 1] + 1, :rank]
        residual = diagonal - (np.polynomial.chebyshev.chebval(z, used) ** 2).sum(0)
        bound = table.floor[rank - 1] + table.growth[rank - 1] * z**embedding.RESIDUAL_POWER
        rounding = 1e-4 * TRUNCATION * half_width**2  # a ten-thousandth of what rows at the half width may lose
        assert residual.min() >= -0.1 * table.floor[rank - 1] - rounding  # the degree is cut to a tenth of the floor
        assert (residual - bound).max() <= rounding


@every_half_width
@pytest.mark.parametrize("edge", [False, True], ids=["inside", "edge"])
def test_divergence_of_features_is_within_the_measured_bound(half_width, edge):
    """``0 <= JS - |f_i - f_j|^2 / 2 <= 2 (floor sum v^2 + growth sum v^2 z^6)``, over 11 classes."""
    generator = torch.Generator().manual_seed(1)
    base = torch.rand(11, 1, generator=generator, dtype=torch.float64) + 0.01
    z = 2 * torch.rand(11, 40, generator=generator, dtype=torch.float64) - 1
    z = z.sign() if edge else z
    s = half_width * z
    p = base * ((1 + s) / (1 - s)) ** 2
    weight = p.sqrt() + base.sqrt()
    divergence = reference.pairwise_divergence(p.mT)
    table = embedding.table(half_width)
    for rank in ranks(table):
        features = embedding.features(weight, z, table, rank)
        difference = features[:, :, None] - features[:, None]
        left_out = divergence - difference.square().sum(0) / 2
        mass = weight.square().sum(0).amax()
        tail = (weight.square() * z**embedding.RESIDUAL_POWER).sum(0).amax()
        bound = 2 * (table.floor[rank - 1] * mass + table.growth[rank - 1] * tail)
        rounding = 1e-14 * mass
        assert left_out.min() >= -0.2 * bound - rounding  # the degree is cut to a tenth of the floor
        assert left_out.max() <= bound + rounding


@every_half_width
def test_bound_falls_with_the_rank_to_what_the_edge_needs(half_width):
    table = embedding.table(half_width)
    largest = np.array(table.floor) + np.array(table.growth)
    assert (np.diff(largest) < 0).all()
    assert largest[-1] <= TRUNCATION * half_width**2
    assert (np.diff(table.degrees) >= 0).all()


def test_half_widths_are_sorted():
    assert list(embedding.HALF_WIDTHS) == sorted(embedding.HALF_WIDTHS)


@every_half_width
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_features_are_the_chebyshev_series_of_the_table(half_width, dtype):
    table = embedding.table(half_width)
    weight, z = 1 + torch.rand(3, 8, dtype=dtype), 2 * torch.rand(3, 8, dtype=dtype) - 1
    for rank in ranks(table):
        result = embedding.features(weight, z, table, rank).view(rank, 3, 8).double()
        degree = table.degrees[rank - 1]
        series = np.polynomial.chebyshev.chebval(z.double().numpy(), table.coefficients[: degree + 1, :rank])
        # T_k by recurrence loses up to k roundings in each of k steps
        allowed = 2 * degree**2 * torch.finfo(dtype).eps * np.abs(table.coefficients).max()
        assert (result - weight.double() * torch.from_numpy(series)).abs().max() <= allowed
