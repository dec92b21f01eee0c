"""torch.compile without a graph break, and the operators' own checks."""

import pytest
import torch
from cases import clip_rows, every_metric, every_order, needs_operators

import cdam_fast
from cdam_fast import compat
from cdam_fast.testing import MAP_BUDGET, clip_like, largest_error, oracle

pytestmark = needs_operators

VALUES = torch.linspace(-1, 1, 42 * 3).reshape(42, 3)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def all_three(similarity, values, metric, order):
    """A caller's function that uses each public function."""
    options = {"metric": metric, "order": order, "scales": (0.5, 1.0)}
    attention = cdam_fast.cdam_attention(similarity * 1.5, **options)
    attended = cdam_fast.cdam_attend(similarity * 1.5, values, **options)
    p = torch.softmax(similarity.flatten(-2).mT / 0.1, -1)
    return attention + 1, attended * 2, cdam_fast.pairwise_divergence(p, p[..., :5, :], metric=metric) + 1


def with_gradients(function, similarity, *arguments):
    x = similarity.clone().requires_grad_()
    values = VALUES.clone().requires_grad_()
    outputs = function(x, values, *arguments)
    weights = [torch.linspace(-1, 1, output.numel()).view_as(output) for output in outputs]
    return *outputs, *torch.autograd.grad(outputs, (x, values), weights)


def assert_same(compiled, eager):
    for result, expected in zip(compiled, eager):
        assert (result - expected).abs().max() <= MAP_BUDGET * expected.abs().max().clamp_min(1)


@every_metric
@every_order
def test_whole_graph_is_as_eager(metric, order):
    similarity = clip_like(5, 6, 7)
    compiled = torch.compile(all_three, fullgraph=True, backend="aot_eager")
    assert_same(
        with_gradients(compiled, similarity, metric, order), with_gradients(all_three, similarity, metric, order)
    )


def test_default_backend_is_as_eager():
    similarity = clip_like(5, 6, 7)
    compiled = torch.compile(all_three, fullgraph=True)
    arguments = similarity, "js", "official"
    assert_same(with_gradients(compiled, *arguments), with_gradients(all_three, *arguments))


@pytest.mark.parametrize("batch", [(), (2,)], ids=["no_batch", "B2"])
def test_compiled_map_is_within_budget(batch):
    similarity = clip_like(11, 6, 7, batch=batch)
    compiled = torch.compile(cdam_fast.cdam_attention, fullgraph=True, backend="aot_eager")
    assert largest_error(compiled(similarity), oracle(similarity)) <= MAP_BUDGET


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiled_weight_of_all_heads(batch, dynamic):
    attention = torch.rand(batch, 6, 6)
    compiled = torch.compile(cdam_fast.with_cls_token, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    assert torch.equal(compiled(attention, heads=12), cdam_fast.with_cls_token(attention, heads=12))


@pytest.mark.parametrize("gradient", [False, True], ids=["plain", "gradient"])
def test_compiled_vmap(gradient):
    def divergence(p):
        return torch.vmap(lambda p: cdam_fast.pairwise_divergence(p, p[:2]))(p)

    results = []
    for function in (torch.compile(divergence, fullgraph=True, backend="aot_eager"), divergence):
        p = clip_rows(5, 4, batch=(2,)).requires_grad_(gradient)
        results.append([function(p)])
        if gradient:
            results[-1] += torch.autograd.grad(results[-1][0].square().sum(), p)
    assert_same(*results)


def gradient_inside(p):
    return torch.func.grad(lambda p: cdam_fast.pairwise_divergence(p).sum())(p)


def tangent_inside(p):
    return torch.func.jvp(cdam_fast.pairwise_divergence, (p,), (p,))[1]


REFUSED = {
    gradient_inside: r"torch\.compile of cdam_fast: got torch\.func\.grad or vjp",
    tangent_inside: r"torch\.autograd\.forward_ad of cdam_fast: got a dual tensor",
}


@pytest.mark.parametrize("function", REFUSED)
def test_derivatives_inside_are_refused(function):
    """By name since torch 2.14; before by PyTorch, which shows no exception of what it traces."""
    named = REFUSED[function] if compat.TORCH >= (2, 14) else None
    with pytest.raises(RuntimeError, match=named):
        torch.compile(function, fullgraph=True, backend="aot_eager")(clip_rows(5, 4))


@pytest.mark.skipif(compat.TORCH < (2, 14), reason="a graph that breaks at what is refused: torch 2.14")
def test_gradients_inside_go_uncompiled():
    p = clip_rows(5, 4)
    assert torch.equal(torch.compile(gradient_inside, backend="aot_eager")(p), gradient_inside(p))


SAMPLES = {
    "symmetric": lambda: (clip_rows(5, 4, batch=(2,)), None),
    "rectangular": lambda: (clip_rows(5, 4, batch=(2,)), clip_rows(3, 4, batch=(2,))),
    "class_major": lambda: (clip_rows(4, 5).mT[None], clip_rows(4, 3).mT[None]),
    "float64": lambda: (clip_rows(5, 4, batch=(2,)).double(), None),
    "needs_grad": lambda: (clip_rows(5, 4, batch=(1,)).requires_grad_(), clip_rows(3, 4, batch=(1,)).requires_grad_()),
    "p_alone_needs_grad": lambda: (clip_rows(5, 4, batch=(1,)).requires_grad_(), None),
}


@pytest.mark.parametrize("sample", SAMPLES)
@every_metric
def test_operator(sample, metric):
    torch.library.opcheck(torch.ops.cdam_fast.divergence.default, (*SAMPLES[sample](), metric))


@pytest.mark.parametrize("sample", ["symmetric", "rectangular", "class_major", "float64"])
@every_metric
def test_backward_operator(sample, metric):
    p, q = SAMPLES[sample]()
    weights = torch.randn(p.shape[0], p.shape[1], p.shape[1] if q is None else q.shape[1], dtype=p.dtype)
    torch.library.opcheck(torch.ops.cdam_fast.divergence_backward.default, (weights, p, q, metric))


def test_operator_of_the_map():
    options = (0.5, 1.0), 0.1, 0.1, "js", "official", True, True
    torch.library.opcheck(torch.ops.cdam_fast.portable_map.default, (clip_like(3, 2, 2, batch=(2,)), *options))


def test_every_operator_is_checked():
    """Here, and those of the kernels in test_triton."""
    registered = {name for name in (schema.name for schema in torch._C._jit_get_all_schemas()) if "cdam_fast::" in name}
    here = ("divergence", "divergence_backward", "portable_map")
    kernels = ("triton_map", "triton_attend", "triton_divergence")
    assert registered == {f"cdam_fast::{name}" for name in (*here, *kernels)}
