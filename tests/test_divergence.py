"""`pairwise_divergence` in plain PyTorch against float64."""

import math

import pytest
import torch
from cases import clip_rows, every_metric
from hypothesis import given
from hypothesis import strategies as st

import cdam_fast
from cdam_fast import divergence, jensen_shannon, reference

EPS = torch.finfo(torch.float32).eps


def portable(p, q=None, **options):
    return cdam_fast.pairwise_divergence(p, q, backend="portable", **options)


def exact(p, q=None, **options):
    return reference.pairwise_divergence(p.double(), None if q is None else q.double(), **options)


def js_allowance(expected, fast):
    """What float32 and, on the fast path, the truncation may cost.

    The definition rounds p/m, near 1, and the terms that sum to 1 after it: a few EPS whatever the result. A
    squared distance D of features of norm at most 2, each off by EPS of itself, moves by a few EPS sqrt(D).
    """
    if not fast:
        return 4 * EPS
    smallest_range = float(expected.amax(-1).min()) + jensen_shannon.NEGLIGIBLE_RANGE
    return jensen_shannon.TRUNCATION * smallest_range + 4 * EPS * float(expected.max()) ** 0.5


def largest(result, expected):
    assert result.shape == expected.shape
    return float((result.double() - expected).abs().max())


def decided(p, q=None):
    """The portable divergence, and which way it went."""
    taken = []
    return divergence.pairwise_divergence(p, q, decisions=taken), taken[0]


SHAPES = [((), 1, 1, 1), ((), 1, 9, 5), ((), 9, 1, 5), ((2,), 17, 23, 41), ((2, 3), 13, 13, 2), ((), 400, 210, 101)]
IDS = [f"B{'x'.join(map(str, batch)) or 0}-N{n}-M{m}-C{c}" for batch, n, m, c in SHAPES]


@pytest.mark.parametrize(("batch", "n", "m", "classes"), SHAPES, ids=IDS)
@pytest.mark.parametrize("rectangular", [False, True], ids=["symmetric", "rectangular"])
@every_metric
def test_clip_like_rows(batch, n, m, classes, rectangular, metric):
    p = clip_rows(n, classes, batch=batch)
    q = clip_rows(m, classes, batch=batch, seed=1) if rectangular else None
    expected = exact(p, q, metric=metric)
    result = portable(p, q, metric=metric)
    assert result.dtype == torch.float32
    if metric == "js":
        for one, other in zip(result.view(-1, *result.shape[-2:]), expected.view(-1, *expected.shape[-2:])):
            assert largest(one, other) <= js_allowance(other, fast=True)
    elif metric == "kl":
        assert largest(result, expected) <= EPS * float(expected.max())  # float64 inside: the result's rounding
    else:
        # a CDF is at most 1, a sum of up to C of p's roundings of which few add up, and C of them are compared
        assert largest(result, expected) <= 2 * EPS * classes


@every_metric
def test_float64_keeps_its_digits(metric):
    p, q = clip_rows(17, 41).double(), clip_rows(9, 41, seed=1).double()
    assert largest(portable(p, metric=metric), exact(p, metric=metric)) <= 1e-14
    assert largest(portable(p, q, metric=metric), exact(p, q, metric=metric)) <= 1e-14


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@every_metric
def test_half_precision_is_rounded_once(dtype, metric):
    p = clip_rows(17, 41).to(dtype)
    expected = exact(p, metric=metric)
    result = portable(p, metric=metric)
    assert result.dtype == dtype
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    rounding = expected.abs() * torch.finfo(dtype).eps / 2 + tiny
    assert ((result.double() - expected).abs() <= rounding + 2e-6).all()


@every_metric
def test_zeros(metric):
    p = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5], [0, 0, 1]])
    q = torch.tensor([[0, 0.5, 0.5], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3]])
    for other in (None, q):
        result, expected = portable(p, other, metric=metric), exact(p, other, metric=metric)
        assert torch.equal(result.isinf(), expected.isinf())
        torch.testing.assert_close(result.double(), expected, rtol=2 * EPS, atol=2 * EPS)


def test_disjoint_and_uniform_rows():
    result = portable(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]))
    half = 0.75 * math.log(4 / 3)
    expected = torch.tensor([[0, math.log(2), half], [math.log(2), 0, half], [half, half, 0]])
    torch.testing.assert_close(result, expected, rtol=0, atol=2 * EPS)


@pytest.mark.parametrize("spread", [0.01, 0.03, 0.1, 1.0], ids="spread{}".format)
@pytest.mark.parametrize("rows", [37, 400], ids="N{}".format)
def test_js_is_symmetric_with_a_zero_diagonal_between_0_and_ln_2(spread, rows):
    result = portable(clip_rows(rows, 41, spread=spread))
    # a matrix product may round (i, j) and (j, i) differently, each term of it by half an EPS
    torch.testing.assert_close(result, result.mT, rtol=0, atol=4 * EPS * float(result.max()))
    assert torch.equal(result.diagonal(), torch.zeros(rows))
    assert result.min() >= 0
    assert result.max() <= math.log(2) + 2 * EPS


@pytest.mark.parametrize("metric", ["js", "kl"])
@pytest.mark.parametrize("spread", [0.03, 0.5], ids=["clip", "peaked"])
def test_permuted_classes_change_nothing(metric, spread):
    p, order = clip_rows(31, 41, spread=spread), torch.randperm(41)
    expected = exact(p, metric=metric)
    torch.testing.assert_close(exact(p[:, order], metric=metric), expected, rtol=1e-12, atol=1e-15)
    allowance = js_allowance(expected, fast=spread < 0.1) if metric == "js" else EPS * float(expected.max())
    assert largest(portable(p[:, order], metric=metric), expected) <= allowance


@every_metric
@pytest.mark.parametrize("spread", [0.03, 0.5], ids=["clip", "peaked"])
def test_permuted_rows_permute_the_result(metric, spread):
    p, order = clip_rows(31, 41, spread=spread), torch.randperm(31)
    expected = exact(p, metric=metric)[order][:, order]
    allowance = js_allowance(expected, fast=spread < 0.1) if metric == "js" else 41 * EPS * max(1, expected.max())
    assert largest(portable(p[order], metric=metric), expected) <= allowance


@every_metric
@pytest.mark.parametrize("rectangular", [False, True], ids=["symmetric", "rectangular"])
def test_nan_touches_its_row_and_column(metric, rectangular):
    p, q = clip_rows(9, 5), clip_rows(6, 5, seed=1) if rectangular else None
    p[3, 2] = torch.nan
    touched = torch.zeros(9, 6 if rectangular else 9, dtype=torch.bool)
    touched[3] = True
    if rectangular:
        q[4, 0] = torch.nan
        touched[:, 4] = True
    else:
        touched[:, 3] = True
    result, expected = portable(p, q, metric=metric), exact(p, q, metric=metric)
    assert torch.equal(result.isnan(), touched)
    assert torch.equal(expected.isnan(), touched)
    torch.testing.assert_close(result.double()[~touched], expected[~touched], rtol=0, atol=8 * EPS)


@pytest.mark.parametrize("metric", ["js", "kl"])
def test_images_of_a_batch_are_as_alone(metric):
    p = torch.stack((clip_rows(50, 41), clip_rows(50, 41, spread=1.0), clip_rows(50, 41, spread=0.01)))
    assert torch.equal(portable(p, metric=metric), torch.stack([portable(image, metric=metric) for image in p]))


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)], ids=["N0-M3", "N3-M0", "N0-M0"])
@every_metric
def test_no_rows(n, m, metric):
    assert portable(torch.rand(n, 4), torch.rand(m, 4), metric=metric).shape == (n, m)


# --- the two ways to a Jensen-Shannon divergence


@pytest.mark.parametrize("classes", [2, 41, 161], ids="C{}".format)
def test_clip_like_rows_take_the_matrix_product(classes):
    p = clip_rows(196, classes)
    expected = exact(p)
    result, decision = decided(p)
    assert decision.path == "features"
    assert decision.bound <= decision.allowed <= 1.01 * jensen_shannon.TRUNCATION * expected.amax(-1).min()
    error = expected - result
    rounding = 4 * EPS * float(expected.max()) ** 0.5
    assert error.min() >= -rounding  # what the features leave out is positive
    assert error.max() <= jensen_shannon.TRUNCATION * expected.amax(-1).min() + rounding


@pytest.mark.parametrize("spread", [0.5, 3.0], ids="spread{}".format)
def test_peaked_rows_take_the_definition(spread):
    p = clip_rows(50, 41, spread=spread)
    result, decision = decided(p)
    assert decision.path == "definition"
    assert not decision.bound <= decision.allowed
    assert largest(result, exact(p)) <= js_allowance(None, fast=False)


def test_definition_takes_over_where_the_bound_is_not_met(monkeypatch):
    p = clip_rows(50, 41)
    assert decided(p)[1].path == "features"
    monkeypatch.setattr(jensen_shannon, "TRUNCATION", 1e-15)
    result, decision = decided(p)
    assert decision.path == "definition"
    assert decision.bound > decision.allowed
    assert largest(result, exact(p)) <= js_allowance(None, fast=False)


def test_one_row_apart_from_equal_rows():
    """60 equal rows and one that differs: the equal rows' range is their distance from that one."""
    p = torch.cat((clip_rows(1, 41).expand(60, -1), clip_rows(1, 41, seed=1)))
    expected = exact(p)
    result, decision = decided(p)
    assert largest(result, expected) <= js_allowance(expected, fast=decision.path == "features")


def test_float64_takes_the_definition():
    decision = decided(clip_rows(9, 5).double())[1]
    assert decision.path == "definition"
    assert math.isnan(decision.reach)  # features were not tried


@given(
    rows=st.integers(1, 24),
    columns=st.integers(0, 9),
    classes=st.integers(1, 50),
    log_spread=st.floats(-4, 1),
    log_temperature=st.floats(-2, 0),
    seed=st.integers(0, 2**16),
)
def test_js_error_of_random_rows(rows, columns, classes, log_spread, log_temperature, seed):
    """``columns`` of 0 stands for no q."""
    options = {"spread": 10**log_spread, "temperature": 10**log_temperature}
    p = clip_rows(rows, classes, seed=seed, **options)
    q = clip_rows(columns, classes, seed=seed + 1, **options) if columns else None
    result, decision = decided(p, q)
    expected = exact(p, q)
    assert largest(result, expected) <= js_allowance(expected, fast=decision.path == "features")
