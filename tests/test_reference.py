"""The reference against closed forms, hand computation and the released code's recorded maps."""

import math

import pytest
import torch
from cases import every_metric, every_minmax, every_order

from cdam_fast import SCALES, reference, testing
from cdam_fast.constants import EPSILON
from cdam_fast.testing import MAP_BUDGET, clip_like, largest_error, oracle

F64 = torch.float64


def tensor(rows):
    return torch.tensor(rows, dtype=F64)


@pytest.mark.parametrize(
    ("metric", "p", "q", "expected"),
    [
        ("js", [1, 0], [0, 1], math.log(2)),
        ("js", [0.5, 0.5, 0, 0], [0, 0, 0.25, 0.75], math.log(2)),
        # m = (3/4, 1/4): half of ln(4/3), and half of (ln(2/3) + ln 2)/2 = ln(4/3)/2
        ("js", [1, 0], [0.5, 0.5], 0.75 * math.log(4 / 3)),
        ("js", [0.3, 0.7], [0.3, 0.7], 0),
        ("kl", [0.25, 0.75], [0.5, 0.5], 0.25 * math.log(0.5) + 0.75 * math.log(1.5)),
        ("kl", [0.5, 0.5], [0.25, 0.75], 0.5 * math.log(2) + 0.5 * math.log(2 / 3)),
        ("kl", [1, 0], [0.5, 0.5], math.log(2)),
        ("kl", [0.5, 0.5], [1, 0], math.inf),
        ("kl", [0, 1], [0, 1], 0),
        ("kl", [0, 1], [0.5, 0.5], math.log(2)),
        ("wasserstein", [1, 0, 0, 0], [0, 0, 0, 1], 3),
        ("wasserstein", [0, 1, 0, 0], [0, 0, 1, 0], 1),
        ("wasserstein", [0, 0, 0, 1], [0, 1, 0, 0], 2),
        ("wasserstein", [0.5, 0.5, 0], [0, 0.5, 0.5], 1),
    ],
)
def test_divergence_of_two_distributions(metric, p, q, expected):
    result = reference.pairwise_divergence(tensor([p]), tensor([q]), metric=metric)
    assert result.tolist() == [[pytest.approx(expected, abs=1e-15)]]


def test_wasserstein_of_one_hots_is_the_distance_of_their_classes():
    index = torch.arange(6, dtype=F64)
    expected = (index[:, None] - index).abs()
    assert torch.equal(reference.pairwise_divergence(torch.eye(6, dtype=F64), metric="wasserstein"), expected)


def test_kl_is_not_symmetric_and_runs_from_row_to_column():
    p = tensor([[0.25, 0.75], [0.5, 0.5]])
    result = reference.pairwise_divergence(p, metric="kl")
    assert result[0, 1].item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert result[1, 0].item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))


@every_minmax
def test_normalise_of_two_rows(minmax):
    """By hand: the first row's 1 - D is (1, 0.8, 0.5), the second's (0.2, 0.6, 1)."""
    before, after = minmax
    expected = []
    for row in ([1.0, 0.8, 0.5], [0.2, 0.6, 1.0]):
        low, high = min(row), max(row)
        stretched = [(x - low) / (high - low + EPSILON) for x in row] if before else row
        powers = [math.exp(x / 0.1) for x in stretched]
        soft = [power / sum(powers) for power in powers]
        expected.append([(x - min(soft)) / (max(soft) - min(soft) + EPSILON) for x in soft] if after else soft)
    result = reference.normalise(tensor([[0.0, 0.2, 0.5], [0.8, 0.4, 0.0]]), 0.1, minmax)
    torch.testing.assert_close(result, tensor(expected), rtol=0, atol=1e-14)


def bilinear_matrix(source, target):
    """``[target, source]``: a target's centre lies at ``(i + 1/2) source/target - 1/2``, held inside the ends."""
    matrix = torch.zeros(target, source, dtype=F64)
    for i in range(target):
        place = min(max((i + 0.5) * source / target - 0.5, 0.0), source - 1.0)
        left = int(place)
        right = min(left + 1, source - 1)
        matrix[i, left] += 1 - (place - left)
        matrix[i, right] += place - left
    return matrix


@pytest.mark.parametrize(
    ("grid", "size"), [((2, 3), (5, 7)), ((1, 2), (4, 4)), ((3, 3), (3, 3)), ((7, 10), (9, 11))], ids=str
)
def test_resize_is_a_kronecker_product_on_each_axis(grid, size):
    kron = torch.kron(bilinear_matrix(grid[0], size[0]), bilinear_matrix(grid[1], size[1]))
    pairs = torch.rand(2, grid[0] * grid[1], grid[0] * grid[1], dtype=F64)
    torch.testing.assert_close(reference.resize(pairs, grid, *size), kron @ pairs @ kron.mT, rtol=0, atol=1e-14)


@every_order
def test_one_scale_step_by_step(order):
    """Scale 0.5 of a 4x6 grid, spelled out with matrices in the order's own sequence."""
    similarity = clip_like(5, 4, 6).double()
    down = torch.kron(bilinear_matrix(4, 2), bilinear_matrix(6, 3))
    up = torch.kron(bilinear_matrix(2, 4), bilinear_matrix(3, 6))
    flat = similarity.flatten(1)
    if order == "official":
        p = torch.softmax(flat @ down.mT / 0.1, 0).mT
        pairs = up @ reference.pairwise_divergence(p) @ up.mT
        expected = reference.normalise(pairs, 0.1, (True, True))
    else:
        p = down @ torch.softmax(flat / 0.1, 0).mT
        expected = up @ reference.normalise(reference.pairwise_divergence(p), 0.1, (True, True)) @ up.mT
    result = reference.cdam_attention(similarity, scales=(0.5,), order=order)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


def test_orders_differ_at_a_reduced_scale_only():
    similarity = clip_like(11, 8, 8).double()
    official = reference.cdam_attention(similarity, scales=(1.0,))
    assert torch.equal(official, reference.cdam_attention(similarity, scales=(1.0,), order="paper"))
    halves = [reference.cdam_attention(similarity, scales=(0.5,), order=order) for order in ("official", "paper")]
    assert largest_error(*halves) > 100 * MAP_BUDGET


def test_minmax_switches():
    similarity = clip_like(11, 6, 6).double()
    for before in (True, False):
        off = reference.cdam_attention(similarity, scales=(1.0,), minmax=(before, False))
        torch.testing.assert_close(off.sum(-1), torch.ones(36, dtype=F64))
        on = reference.cdam_attention(similarity, scales=(1.0,), minmax=(before, True))
        assert on.amin(-1).abs().max() == 0
        torch.testing.assert_close(on.amax(-1), torch.ones(36, dtype=F64), rtol=0, atol=1e-4)
    # without the first min-max JS spans at most ln 2 and the temperature of 0.1 leaves exp(-10 ln 2) of the largest
    soft = reference.cdam_attention(similarity, scales=(1.0,), minmax=(False, False))
    assert (soft.amin(-1) / soft.amax(-1)).min() >= 2**-10


@every_metric
@every_order
def test_map_is_the_mean_of_its_scales(metric, order):
    similarity = clip_like(7, 8, 9).double()
    options = {"metric": metric, "order": order}
    each = torch.stack([reference.cdam_attention(similarity, scales=(scale,), **options) for scale in SCALES])
    torch.testing.assert_close(reference.cdam_attention(similarity, **options), each.mean(0), rtol=0, atol=1e-15)


def test_attend_is_the_map_times_values():
    similarity, values = clip_like(7, 4, 5, batch=(2,)).double(), torch.randn(2, 20, 3, dtype=F64)
    expected = reference.cdam_attention(similarity) @ values
    torch.testing.assert_close(reference.cdam_attend(similarity, values), expected, rtol=0, atol=1e-13)


def test_flat_similarity_gives_a_zero_map():
    assert torch.equal(reference.cdam_attention(torch.full((3, 5, 5), 0.2)), torch.zeros(25, 25))


def test_oracle_is_the_reference_in_blocks(monkeypatch):
    monkeypatch.setattr(testing, "_BLOCK_ELEMENTS", 1000)
    similarity = clip_like(7, 5, 6, batch=(2,))
    expected = reference.cdam_attention(similarity.double())
    assert largest_error(oracle(similarity), expected) <= 1e-15


def test_largest_error():
    exact = tensor([1.0, 2.0, math.nan])
    assert largest_error(tensor([1.0, 2.5, math.nan]), exact) == 0.5
    assert largest_error(tensor([1.0, math.nan, math.nan]), exact) == math.inf
    assert largest_error(tensor([1.0, 2.0, 3.0]), exact) == math.inf
    assert largest_error(tensor([1.0, 2.0]), exact) == math.inf


def test_released_code_on_a_14x14_grid(golden_single):
    logits, rows = golden_single["logits"], golden_single["scales_rows_idx"]
    assert largest_error(oracle(logits), golden_single["map"].double()) <= MAP_BUDGET
    assert largest_error(oracle(logits, scales=(1.0,)), golden_single["map_single"].double()) <= MAP_BUDGET
    for scale, expected in zip(golden_single["sizes"].tolist(), golden_single["scales_rows"]):
        assert largest_error(oracle(logits, scales=(scale,))[rows], expected.double()) <= MAP_BUDGET


def test_released_code_on_a_clip_of_four_layers(golden_clip):
    result = oracle(golden_clip["base_logits"])[golden_clip["rows_idx"]]
    assert largest_error(result, golden_clip["map_rows_fp64run"].double()) <= MAP_BUDGET
