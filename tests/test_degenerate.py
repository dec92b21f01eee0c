"""Rows that are constant, or nearly: flat images, two regions, patterns, grids that scale to a line, few classes."""

import pytest
import random_calls
import torch
from cases import every_metric, every_minmax, every_order
from hypothesis import given
from hypothesis import strategies as st

import cdam_fast
from cdam_fast import reference
from cdam_fast.constants import METRICS, ORDERS, SCALES
from cdam_fast.testing import DEGENERATE, MAP_BUDGET, clip_like, degenerate, largest_error, oracle

every_kind = pytest.mark.parametrize("kind", DEGENERATE, ids=lambda kind: kind.replace(" ", "_"))


def error_of(similarity, backend="portable", **options):
    return largest_error(
        cdam_fast.cdam_attention(similarity, backend=backend, **options), oracle(similarity, **options)
    )


@given(
    kind=st.sampled_from(DEGENERATE),
    classes=st.sampled_from((1, 2, 3, 5, 17, 70)),
    height=st.integers(4, 14),
    width=st.integers(4, 14),
    seed=st.integers(0, 10**6),
    scales=st.lists(st.sampled_from(SCALES), min_size=1, max_size=3, unique=True),
    metric=st.sampled_from(METRICS),
    order=st.sampled_from(ORDERS),
    minmax=st.tuples(st.booleans(), st.booleans()),
)
def test_any_degenerate_input_is_within_budget(kind, classes, height, width, seed, **options):
    assert error_of(degenerate(kind, classes, height, width, seed=seed), **options) <= MAP_BUDGET


@every_kind
@every_metric
@every_order
def test_every_kind_is_within_budget(kind, metric, order):
    for seed, (height, width) in enumerate(((9, 7), (5, 9), (7, 11), (14, 14))):
        similarity = degenerate(kind, 5, height, width, seed=seed)
        assert error_of(similarity, metric=metric, order=order, scales=(0.25, 0.63, 1.0)) <= MAP_BUDGET, (height, width)


@pytest.mark.parametrize("backend", ["reference", "portable"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@every_metric
@every_order
def test_one_repeated_distribution_gives_nothing(backend, dtype, metric, order):
    for seed in range(6):
        similarity = degenerate("flat", 1 + 7 * seed, 9 + seed, 7, seed=seed).to(dtype)
        attention = cdam_fast.cdam_attention(
            similarity, metric=metric, order=order, scales=(0.25, 1.0), backend=backend
        )
        assert not attention.any()


@every_metric
@every_minmax
def test_a_flat_row_is_even_before_the_second_minmax(metric, minmax):
    similarity = degenerate("flat", 5, 6, 6)
    attention = cdam_fast.cdam_attention(similarity, metric=metric, minmax=minmax, scales=(1.0,))
    torch.testing.assert_close(attention, torch.full_like(attention, 0 if minmax[1] else 1 / 36))


@pytest.mark.parametrize("spread", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
@pytest.mark.parametrize("classes", [2, 5, 161])
@every_order
def test_a_nearly_flat_row_is_kept(spread, classes, order):
    """A cosine's differences of 1e-6 leave divergences of 1e-11, and the float64 map has its full range."""
    similarity = clip_like(classes, 9, 10, spread=spread, seed=classes)
    options = {"scales": (0.5, 1.0), "order": order}
    assert oracle(similarity, **options).amax(-1).min() > 0.5
    assert error_of(similarity, **options) <= MAP_BUDGET


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_rule(dtype):
    """Flat: rounding about nothing and about a large divergence; not flat: a few times that, NaN, infinity."""
    eps = torch.finfo(dtype).eps
    rows = torch.zeros(6, 5, dtype=dtype)
    rows[0, 0] = eps
    rows[1] = 0.5
    rows[1, 0] += 4 * eps
    rows[2, 0] = 16 * eps
    rows[3] = 0.5
    rows[3, 0] += 32 * eps
    rows[4, 0] = torch.nan
    rows[5, 0] = torch.inf
    assert reference.flat_rows(rows, 1.0).flatten().tolist() == [True, True, False, False, False, False]


def test_a_gradient_passes_flat_rows_by():
    similarity = degenerate("two regions", 5, 6, 6).requires_grad_()
    (gradient,) = torch.autograd.grad(cdam_fast.cdam_attention(similarity).square().sum(), similarity)
    assert gradient.isfinite().all()
    flat = degenerate("flat", 5, 6, 6).requires_grad_()
    (gradient,) = torch.autograd.grad(cdam_fast.cdam_attention(flat).square().sum(), flat)
    assert not gradient.any()


def test_random_calls(capsys):
    assert random_calls.main(["--calls", "200", "--seed", "7"]) == 0
    assert capsys.readouterr().out.endswith("200 calls of portable, seed 7: 0 out of budget\n")
