"""Squared distances of `js_embedding` against twice the divergence in float64, stated again here."""

import math

import pytest
import torch
from torch.nn import functional

import cdam_fast
from cdam_fast import isometry, js_embedding
from cdam_fast.testing import clip_like

RTOLS = (5e-3, 1e-3, 1e-4, 1e-6)
every_rtol = pytest.mark.parametrize("rtol", RTOLS, ids="rtol{:g}".format)


def of_first(p, q):
    """``p ln(p/m)``, of near arguments by what they differ."""
    share = torch.where(p + q > 0, (p - q) / (p + q), 0)  # p/m is 1 + share
    logarithm = torch.where(share > -0.5, torch.log1p(share), torch.log(p / ((p + q) / 2)))
    return torch.where(p > 0, p * logarithm, 0)


def divergences(p, q):
    """``[N, C], [M, C] -> [N, M]``: the mean of ``p ln(p/m)`` and ``q ln(q/m)``, summed over classes."""
    p, q = p.double()[:, None], q.double()[None]
    return (of_first(p, q) + of_first(q, p)).sum(-1) / 2


def squared_distances(e, f):
    return (e.double()[:, None] - f.double()[None]).square().sum(-1)


def rounding(e, f):
    """Most that float32 features can add to a distance: 2^-24 of either length; e and f one more for e about f."""
    return 2.0**-24 * (e.double().norm(dim=-1)[:, None] + f.double().norm(dim=-1))


def largest_excess(e, f, p, q, rtol):
    """How far a distance is outside of rtol and rounding; not positive where the promise holds."""
    expected, squares = 2 * divergences(p, q), squared_distances(e, f)
    slack, distances = rounding(e, f), squares.sqrt()
    high = distances - ((1 + rtol) * expected).sqrt() - slack
    low = ((1 - rtol) * expected).sqrt() - distances - slack
    return float(torch.maximum(high, low).max()) - 1e-9  # the root of what float64 leaves of equal rows


def rows(kind, count=60, classes=23):
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(count, classes, generator=generator)
    if kind == "one-hot":
        return functional.one_hot(torch.arange(count) % classes, classes).float()
    if kind == "clip-like":
        return torch.softmax(clip_like(101, 8, 8).flatten(1).T / 0.1, -1)
    if kind == "sparse":
        weights = noise.exp() * (torch.rand(count, classes, generator=generator) < 0.2)
        return functional.normalize(weights + 1e-30 * (weights.sum(-1, keepdim=True) == 0), p=1, dim=-1)
    if kind == "unequal sums":
        return 5 * noise.square()
    scale = {"flat": 0.0, "near": 1e-3, "smooth": 1.0, "peaked": 30.0}[kind]
    return torch.softmax(scale * noise, -1)


KINDS = ("one-hot", "flat", "near", "smooth", "peaked", "sparse", "clip-like", "unequal sums")


# --- the spectra


@pytest.mark.parametrize("spectrum", isometry.SPECTRA, ids=lambda spectrum: f"{spectrum.features} features")
def test_spectrum_is_within_its_error_of_every_pair(spectrum):
    """``2 j(1, y)`` for y from 1 - 1e-3 down to 1e-40: all pairs, as j is homogeneous."""
    t = torch.cat((torch.logspace(-3, 0, 400), torch.linspace(1, 92, 40_000))).double()
    y = torch.exp(-t)
    one = torch.ones_like(y)
    expected = of_first(one, y) + of_first(y, one)
    squares = torch.zeros_like(t)
    for frequency, weight in zip(spectrum.frequencies, spectrum.weights):
        squares += weight * (1 + y - 2 * y.sqrt() * torch.cos(frequency * t))
    assert ((squares / expected - 1).abs() <= spectrum.error).all()
    assert abs(sum(spectrum.weights) / math.log(2) - 1) <= spectrum.error  # y = 0


def test_spectra_are_sorted_and_reach_the_least_rtol():
    counts = [spectrum.features for spectrum in isometry.SPECTRA]
    assert counts == sorted(counts)
    errors = [spectrum.error for spectrum in isometry.SPECTRA]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] <= isometry.LEAST_RTOL


# --- distances


@every_rtol
@pytest.mark.parametrize("kind", KINDS)
def test_squared_distances_are_twice_the_divergence(kind, rtol):
    p = rows(kind)
    e = js_embedding(p, rtol=rtol)
    assert e.dtype == torch.float32
    assert largest_excess(e, e, p, p, rtol) <= 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "flat"])
def test_default_is_within_a_millionth_of_the_largest(kind):
    p = rows(kind)
    expected = 2 * divergences(p, p)
    e = js_embedding(p)
    torch.testing.assert_close(squared_distances(e, e), expected, rtol=0, atol=1e-6 * float(expected.max()))


def test_equal_rows_are_at_no_distance():
    e = js_embedding(rows("flat"))
    assert torch.equal(e, e[:1].expand_as(e))


def test_one_hot_rows_are_at_the_root_of_twice_ln_2():
    e = js_embedding(torch.eye(7))
    distances = squared_distances(e, e)
    torch.testing.assert_close(distances, 2 * math.log(2) * (1 - torch.eye(7).double()), rtol=1e-6, atol=0)


@every_rtol
@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (1, 4), (0, 4), (40_000, 3)], ids="N{0[0]}-C{0[1]}".format)
def test_shapes(shape, rtol):
    count, classes = shape
    p = torch.rand(count, classes)
    e = js_embedding(p, rtol=rtol)
    per_class = isometry.choose_spectrum(rtol).features
    assert e.shape == (count, per_class * classes)
    last = slice(max(0, count - 5), count)  # of several tiles the last is right too
    assert count == 0 or largest_excess(e[:5], e[last], p[:5], p[last], rtol) <= 0


def test_batch_dims_and_strides():
    p = torch.softmax(torch.randn(2, 3, 9, 4), -1)
    e = js_embedding(p)
    assert e.shape == (2, 3, 9, 92)
    for i in range(2):
        for j in range(3):
            assert torch.equal(e[i, j], js_embedding(p[i, j]))
    assert torch.equal(js_embedding(p.transpose(0, 2)), e.transpose(0, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtypes(dtype):
    p = rows("smooth").to(dtype)
    e = js_embedding(p)
    assert e.dtype == torch.float32
    assert largest_excess(e, e, p, p, 1e-6) <= 0


def test_probabilities_below_float32_of_float64_rows():
    p = torch.tensor([[1.0, 1e-300], [1.0, 1e-50], [1.0, 0.0], [0.0, 5e-324]], dtype=torch.float64)
    e = js_embedding(p)
    assert largest_excess(e, e, p, p, 1e-6) <= 0


# --- the base


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_length_is_the_divergence_from_the_base(dtype):
    p = rows("smooth")
    base = p.mean(0).to(dtype)
    e = js_embedding(p, base)
    assert largest_excess(e, torch.zeros_like(e[:1]), p, base[None], 1e-6) <= 0


def test_base_is_the_uniform_distribution_without_one():
    p = rows("smooth")
    uniform = torch.full((23,), 1 / 23, dtype=torch.float64)
    assert torch.equal(js_embedding(p), js_embedding(p, uniform))


@every_rtol
def test_queries_and_a_database_are_embedded_apart(rtol):
    database, queries = rows("smooth"), rows("sparse")
    base = database.mean(0)
    e, f = js_embedding(database, base, rtol=rtol), js_embedding(queries[:7], base, rtol=rtol)
    assert largest_excess(f, e, queries[:7], database, rtol) <= 0
    assert torch.equal(f[3], js_embedding(queries[3:4], base, rtol=rtol)[0])  # a row by itself, bit for bit
    g, h = js_embedding(database, rtol=rtol), js_embedding(queries[:7], rtol=rtol)
    assert largest_excess(h, g, queries[:7], database, rtol) <= 0


def test_mean_as_base_keeps_near_rows_apart_in_float32_products():
    """``|e|^2 + |f|^2 - 2 e.f`` in float32, as indexes have it, loses 1e-7 of the lengths: the base shortens them."""
    p = rows("peaked")[:1] * (1 + 1e-3 * torch.randn(50, 23).double())
    expected = 2 * divergences(p, p)

    def error(e):
        lengths = e.square().sum(-1)
        product = lengths[:, None] + lengths - 2 * e @ e.T
        return float((product.double() - expected).abs().max() / expected.max())

    assert error(js_embedding(p, p.mean(0))) <= 3e-6
    assert error(js_embedding(p)) > 1e-3


# --- what is no distribution


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.1], ids=str)
def test_row_with_a_bad_entry_is_nan_and_no_other(value):
    p = rows("smooth")
    e = js_embedding(p)
    p[4, 2] = value
    damaged = js_embedding(p)
    assert damaged[4].isnan().all()
    kept = torch.arange(60) != 4
    assert torch.equal(damaged[kept], e[kept])


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1], ids=str)
def test_bad_base_is_nan_everywhere(value):
    base = torch.full((23,), 1 / 23)
    base[5] = value
    assert js_embedding(rows("smooth"), base).isnan().all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[0.5, 0.5]],), TypeError, r"p: got list, takes a torch.Tensor of shape \[..., N, C\]"),
        ((torch.ones(3, 2, dtype=torch.int64),), TypeError, "p: got dtype torch.int64, takes float16"),
        ((torch.ones(3),), ValueError, r"p: got shape \(3,\), takes \[..., N, C\]"),
        ((torch.ones(3, 0),), ValueError, r"p: got shape \(3, 0\) with no class"),
        ((torch.ones(3, 2), [0.5, 0.5]), TypeError, r"base: got list, takes a torch.Tensor of shape \[C\]"),
        ((torch.ones(3, 2), torch.ones(2, dtype=torch.int32)), TypeError, "base: got dtype torch.int32"),
        ((torch.ones(3, 2), torch.ones(3)), ValueError, r"base: got shape \(3,\), takes \[C\] with the C = 2 classes"),
        ((torch.ones(3, 2), torch.ones(1, 2)), ValueError, r"base: got shape \(1, 2\), takes \[C\]"),
        ((torch.ones(3, 2), torch.ones(())), ValueError, r"base: got shape \(\), takes \[C\]"),
        ((torch.ones(3, 2), torch.ones(2, device="meta")), ValueError, "base: got device meta, takes that of p, cpu"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        js_embedding(*arguments)


@pytest.mark.parametrize("rtol", [0, -1e-3, 9e-7, 1, math.nan], ids=repr)
def test_rtol_out_of_range_is_named(rtol):
    with pytest.raises(ValueError, match=r"rtol: got .*, takes a "):
        js_embedding(torch.ones(2, 2), rtol=rtol)


@pytest.mark.parametrize("rtol", ["1e-3", True, None, torch.tensor(1e-3)], ids=repr)
def test_rtol_that_is_no_number_is_named(rtol):
    with pytest.raises(TypeError, match=r"rtol: got .*, takes a positive number"):
        js_embedding(torch.ones(2, 2), rtol=rtol)


# --- derivatives and transforms


def test_gradient_is_that_of_the_divergence():
    """``d 2 JS / dp = ln(p/m)``."""
    p = torch.rand(4, 6, dtype=torch.float64).requires_grad_()
    e = js_embedding(p)
    (gradient,) = torch.autograd.grad((e[0] - e[1]).square().sum(), p)
    m = (p[0] + p[1]).detach() / 2
    torch.testing.assert_close(gradient[0], (p[0] / m).log().detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(gradient[1], (p[1] / m).log().detach(), rtol=0, atol=1e-5)
    assert not gradient[2:].any()


def test_gradient_of_the_base_and_of_zeros():
    p = torch.tensor([[0.0, 1.0], [0.25, 0.75]], requires_grad=True)
    base = torch.tensor([0.5, 0.5], requires_grad=True)
    e = js_embedding(p, base)
    assert torch.equal(e.detach(), js_embedding(p.detach(), base.detach()))
    of_p, of_base = torch.autograd.grad(e.square().sum(), (p, base))
    m = (p + base).detach() / 2
    assert of_p[0, 0] == 0
    torch.testing.assert_close(of_p[1], (p[1] / m[1]).log().detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(of_base, (base / m).log().sum(0).detach(), rtol=0, atol=1e-5)


@pytest.mark.skipif(not hasattr(torch, "func"), reason="torch.func came with torch 2.0")
def test_vmap_is_a_call_with_a_batch_dim():
    p = torch.softmax(torch.randn(3, 5, 4), -1)
    torch.testing.assert_close(torch.vmap(js_embedding)(p), js_embedding(p), rtol=0, atol=1e-7)


def test_is_public():
    assert "js_embedding" in cdam_fast.__all__
