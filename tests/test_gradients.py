"""Gradients against finite differences and against autograd through the reference; memory of both directions."""

import pytest
import torch
from cases import clip_rows, every_metric, every_minmax, every_order, one_hot
from torch.profiler import ProfilerActivity, profile

import cdam_fast
from cdam_fast import embedding, reference
from cdam_fast.testing import MAP_BUDGET, clip_like

TINY_SCALES = (1.0, 0.5)


def leaf(tensor, dtype=torch.float64):
    return tensor.to(dtype).clone().requires_grad_()


def gradient(function, similarity, weights, **options):
    x = leaf(similarity, similarity.dtype)
    return torch.autograd.grad(function(x, **options), x, weights.to(x.dtype))[0]


def relative_error(result, expected):
    return float((result.double() - expected).norm() / expected.norm())


@every_metric
@every_order
def test_attention_by_finite_differences(metric, order):
    def attention(x):
        return cdam_fast.cdam_attention(x, scales=TINY_SCALES, metric=metric, order=order, backend="portable")

    assert torch.autograd.gradcheck(attention, leaf(clip_like(3, 2, 4, spread=0.1)))


@every_metric
@every_order
def test_attend_by_finite_differences(metric, order):
    def attend(x, values):
        return cdam_fast.cdam_attend(x, values, scales=TINY_SCALES, metric=metric, order=order, backend="portable")

    inputs = leaf(clip_like(3, 2, 3, batch=(2,), spread=0.1)), leaf(torch.randn(2, 6, 2))
    assert torch.autograd.gradcheck(attend, inputs)


@every_metric
@pytest.mark.parametrize("wanted", ["p", "p_and_q", "q", "p_alone"])
def test_divergence_by_finite_differences(metric, wanted):
    """Through the softmax, which keeps the last class's CDF at 1, where Wasserstein's gradient has a kink."""
    logits = torch.randn(5, 4).double(), torch.randn(3, 4).double()
    p, q = (logit.requires_grad_(name in wanted) for name, logit in zip("pq", logits))
    p.requires_grad_(wanted != "q")

    def divergence(p, q=None):
        other = None if q is None else torch.softmax(q, -1)
        return cdam_fast.pairwise_divergence(torch.softmax(p, -1), other, metric=metric, backend="portable")

    assert torch.autograd.gradcheck(divergence, (p,) if wanted == "p_alone" else (p, q))


@every_metric
@every_order
@every_minmax
def test_attention_is_as_the_reference(metric, order, minmax):
    similarity, weights = clip_like(11, 8, 9), torch.randn(72, 72)
    options = {"metric": metric, "order": order, "minmax": minmax}
    expected = gradient(reference.cdam_attention, similarity.double(), weights, **options)
    result = gradient(cdam_fast.cdam_attention, similarity.double(), weights, **options)
    assert relative_error(result, expected) <= 1e-11
    # the map's own budget: its entries span 1, as the gradient does relative to its norm
    result = gradient(cdam_fast.cdam_attention, similarity, weights, **options)
    assert result.dtype == torch.float32
    assert relative_error(result, expected) <= MAP_BUDGET


@every_metric
@every_order
def test_peaked_attention_is_as_the_reference(metric, order):
    similarity, weights = clip_like(11, 8, 9, spread=0.3), torch.randn(72, 72)
    options = {"metric": metric, "order": order}
    expected = gradient(reference.cdam_attention, similarity.double(), weights, **options)
    result = gradient(cdam_fast.cdam_attention, similarity, weights, **options)
    assert relative_error(result, expected) <= MAP_BUDGET


@every_metric
def test_batch_and_blocks_of_rows(metric, monkeypatch):
    monkeypatch.setattr(cdam_fast.portable, "_BLOCK", 500)
    similarity, weights = clip_like(5, 6, 7, batch=(2, 2)), torch.randn(2, 2, 42, 42)
    expected = gradient(reference.cdam_attention, similarity.double(), weights, metric=metric)
    result = gradient(cdam_fast.cdam_attention, similarity.double(), weights, metric=metric)
    assert relative_error(result, expected) <= 1e-11


@every_order
def test_attend_is_as_the_reference(order):
    similarity, values = clip_like(11, 8, 9, batch=(2,)), torch.randn(2, 72, 5)
    weights = torch.randn(2, 72, 5)

    def both(attend, dtype):
        x, v = leaf(similarity, dtype), leaf(values, dtype)
        return torch.autograd.grad(attend(x, v, order=order), (x, v), weights.to(dtype))

    expected = both(reference.cdam_attend, torch.float64)
    for dtype, bound in ((torch.float64, 1e-11), (torch.float32, MAP_BUDGET)):
        for result, exact in zip(both(cdam_fast.cdam_attend, dtype), expected):
            assert relative_error(result, exact) <= bound


@pytest.mark.parametrize("metric", ["js", "kl"])
@pytest.mark.parametrize("rectangular", [False, True], ids=["symmetric", "rectangular"])
@pytest.mark.parametrize("spread", [0.03, 0.5], ids=["clip", "peaked"])
def test_divergence_is_as_the_reference(metric, rectangular, spread):
    rows, columns = clip_rows(60, 41, spread=spread), clip_rows(23, 41, spread=spread, seed=1)
    weights = torch.randn(60, 23 if rectangular else 60)

    def all_of(divergence, dtype):
        inputs = (leaf(rows, dtype), leaf(columns, dtype)) if rectangular else (leaf(rows, dtype),)
        return torch.autograd.grad(divergence(*inputs, metric=metric), inputs, weights.to(dtype))

    expected = all_of(reference.pairwise_divergence, torch.float64)
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        for result, exact in zip(all_of(cdam_fast.pairwise_divergence, dtype), expected):
            assert relative_error(result, exact) <= bound


@pytest.mark.parametrize("metric", ["js", "kl"])
def test_zero_probabilities_get_the_reference_gradient(metric):
    p = torch.tensor([[1, 0, 0], [0, 0.5, 0.5], [0.2, 0.3, 0.5]], dtype=torch.float64)
    q = torch.tensor([[0.2, 0.2, 0.6], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64)
    weights = torch.randn(3, 2, dtype=torch.float64)
    results = []
    for divergence in (reference.pairwise_divergence, cdam_fast.pairwise_divergence):
        inputs = leaf(p), leaf(q)
        results.append(torch.autograd.grad(divergence(*inputs, metric=metric), inputs, weights))
    for expected, result in zip(*results):
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-14)


@every_metric
@every_order
@pytest.mark.parametrize(
    "similarity", [torch.full((5, 4, 6), 0.2), one_hot(5, 4, 6) / 10], ids=["flat", "one_hot_at_T_0.1"]
)
def test_ties_give_a_finite_gradient(metric, order, similarity):
    result = gradient(cdam_fast.cdam_attention, similarity, torch.randn(24, 24), metric=metric, order=order)
    assert result.isfinite().all()


def test_half_precision_input_gets_a_half_precision_gradient():
    similarity, weights = clip_like(11, 6, 6).bfloat16(), torch.randn(36, 36)
    expected = gradient(reference.cdam_attention, similarity.double(), weights.bfloat16())
    result = gradient(cdam_fast.cdam_attention, similarity, weights)
    assert result.dtype == torch.bfloat16
    assert relative_error(result, expected) <= torch.finfo(torch.bfloat16).eps / 2 + MAP_BUDGET


def test_tables_made_in_inference_mode_serve_a_gradient():
    embedding._mix.cache_clear()
    similarity, weights = clip_like(11, 6, 6), torch.randn(36, 36)
    with torch.inference_mode():
        cdam_fast.cdam_attention(similarity)
    expected = gradient(reference.cdam_attention, similarity.double(), weights)
    assert relative_error(gradient(cdam_fast.cdam_attention, similarity, weights), expected) <= MAP_BUDGET


def test_second_derivative_is_refused_by_name():
    """`pairwise_divergence` is differentiable once: anything but an error would be a wrong derivative."""
    p = leaf(clip_rows(4, 3))
    first = torch.autograd.grad(cdam_fast.pairwise_divergence(p).sum(), p, create_graph=True)[0]
    with pytest.raises(RuntimeError, match=r"^torch\.autograd of cdam_fast: got a second derivative"):
        torch.autograd.grad(first.square().sum(), p)


def largest_allocation(function, **options):
    """Bytes of the largest tensor that a forward and a backward pass allocate."""
    similarity = leaf(clip_like(64, 16, 16, spread=options.pop("spread")), torch.float32)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function(similarity, scales=TINY_SCALES, **options).square().sum().backward()
    return max(event.self_cpu_memory_usage for event in recorded.events())


@every_metric
@every_order
@pytest.mark.parametrize("spread", [0.03, 1.0], ids=["clip", "peaked"])
def test_no_tensor_of_all_pairs_and_classes(metric, order, spread):
    bytes_of_all = 4 * (16 * 16) ** 2 * 64
    options = {"metric": metric, "order": order, "spread": spread}
    assert largest_allocation(cdam_fast.cdam_attention, **options) <= bytes_of_all / 8


def test_the_profile_shows_the_tensors_of_the_reference():
    assert largest_allocation(reference.cdam_attention, spread=0.03) >= 4 * (16 * 16) ** 2 * 64
