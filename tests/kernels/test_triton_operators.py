"""The Triton backend's operators: values, gradients, compilers."""

import pytest
import torch
from cases import clip_rows, every_metric, every_order
from triton_calls import DEVICE, TWO_SCALES

import cdam_fast
from cdam_fast.testing import MAP_BUDGET, clip_like, largest_error, oracle

pytest.importorskip("triton", minversion="3.2")

# --- the map applied to values ----------------------------------------------------------------------------------


@pytest.mark.slow
@every_order
@every_metric
@pytest.mark.parametrize("strip_bytes", [1 << 28, 1 << 14], ids=["map", "strips"])
def test_attend(order, metric, strip_bytes, monkeypatch):
    from cdam_fast.kernels import launch

    monkeypatch.setattr(launch, "STRIP_BYTES", strip_bytes)
    similarity, values = clip_like(6, 8, 7, batch=(2,)), torch.randn(2, 56, 5)
    options = {"order": order, "metric": metric, "scales": (0.6, 1.0)}
    result = cdam_fast.cdam_attend(similarity.to(DEVICE), values.to(DEVICE), backend="triton", **options)
    exact = oracle(similarity, **options) @ values.double()
    assert largest_error(result, exact) <= MAP_BUDGET * float(values.abs().sum(-2).max())


def test_strips_hold_no_map(monkeypatch):
    from cdam_fast.kernels import launch

    sizes = []
    empty = torch.empty

    def recorded(*shape, **options):
        tensor = empty(*shape, **options)
        sizes.append(tensor.numel())
        return tensor

    monkeypatch.setattr(launch, "STRIP_BYTES", 1 << 14)
    monkeypatch.setattr(launch.torch, "empty", recorded)
    similarity, values = clip_like(3, 9, 8), torch.randn(72, 2)
    cdam_fast.cdam_attend(similarity.to(DEVICE), values.to(DEVICE), backend="triton", scales=(1.0,))
    assert max(sizes) < 72 * 72


# --- gradients --------------------------------------------------------------------------------------------------


@every_metric
def test_gradients_are_those_of_the_portable_backend(metric):
    def gradients(backend):
        similarity = clip_like(6, 5, 4).to(DEVICE).requires_grad_()
        values = torch.linspace(-1, 1, 60, device=DEVICE).reshape(20, 3).requires_grad_()
        options = {"scales": TWO_SCALES, "metric": metric, "backend": backend}
        result = cdam_fast.cdam_attention(similarity, **options).square().sum()
        result = result + cdam_fast.cdam_attend(similarity, values, **options).square().sum()
        p = torch.softmax(similarity.flatten(-2).mT / 0.1, -1)
        result = result + cdam_fast.pairwise_divergence(p, p[:7], metric=metric, backend=backend).square().sum()
        return torch.autograd.grad(result, (similarity, values))

    for ours, theirs in zip(gradients("triton"), gradients("portable")):
        assert (ours - theirs).abs().max() <= 1e-3 * theirs.abs().max()


# --- operators --------------------------------------------------------------------------------------------------

OPTIONS = (list(TWO_SCALES), 0.1, 0.1, "js", "official", True, True, torch.float32)
OPERATORS = {
    "triton_map": lambda: (clip_like(4, 4, 5, batch=(2,)).to(DEVICE), *OPTIONS),
    "triton_attend": lambda: (
        clip_like(4, 4, 5, batch=(1,)).to(DEVICE),
        torch.randn(1, 20, 3, device=DEVICE),
        *OPTIONS,
    ),
    "triton_divergence": lambda: (clip_rows(6, 4, batch=(2,)).to(DEVICE), None, "js"),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name):
    torch.library.opcheck(getattr(torch.ops.cdam_fast, name), OPERATORS[name]())


def test_opcheck_of_a_gradient():
    p = clip_rows(6, 4, batch=(1,)).to(DEVICE).requires_grad_()
    torch.library.opcheck(torch.ops.cdam_fast.triton_divergence, (p, p.detach()[:, :3].clone(), "kl"))


def all_three(similarity, values):
    options = {"backend": "triton", "scales": (1.0,)}
    attention = cdam_fast.cdam_attention(similarity * 1.5, **options)
    attended = cdam_fast.cdam_attend(similarity * 1.5, values, **options)
    p = torch.softmax(similarity.flatten(-2).mT / 0.1, -1)
    return attention + 1, attended * 2, cdam_fast.pairwise_divergence(p, backend="triton") + 1


@pytest.mark.parametrize("dynamic", [pytest.param(False, marks=pytest.mark.slow), True], ids=["static", "dynamic"])
def test_fullgraph(dynamic):
    torch.compiler.reset()
    compiled = torch.compile(all_three, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for height in (5, 6):
        arguments = clip_like(4, height, 5).to(DEVICE), torch.randn(height * 5, 3, device=DEVICE)
        for result, expected in zip(compiled(*arguments), all_three(*arguments)):
            assert torch.equal(result, expected)


def test_export():
    class Module(torch.nn.Module):
        def forward(self, similarity, values):
            return all_three(similarity, values)

    arguments = clip_like(4, 5, 5).to(DEVICE), torch.randn(25, 3, device=DEVICE)
    exported = torch.export.export(Module(), arguments)
    graphs = [module.graph for module in exported.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    called = {str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_function"}
    assert {f"cdam_fast.{name}.default" for name in OPERATORS} <= called
    for result, expected in zip(exported.module()(*arguments), all_three(*arguments)):
        assert torch.equal(result, expected)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_jit():
    def both(similarity, values):
        options = {"backend": "triton", "scales": TWO_SCALES}
        return cdam_fast.cdam_attention(similarity, **options), cdam_fast.cdam_attend(similarity, values, **options)

    def example(height):
        return clip_like(4, height, 5, batch=(2,)).to(DEVICE), torch.randn(2, height * 5, 3, device=DEVICE)

    traced = torch.jit.trace(both, example(4), check_trace=False)
    for arguments in (example(4), example(6)):
        for result, expected in zip(traced(*arguments), both(*arguments)):
            assert torch.equal(result, expected)


def test_derivatives_with_respect_to_something_else():
    """What a transform makes is wrapped, and nothing of it may be kept for later calls."""
    similarity, factor = clip_like(4, 7, 5).to(DEVICE), torch.ones((), device=DEVICE)  # a grid of its own

    def call(factor):
        return (cdam_fast.cdam_attention(similarity, backend="triton", scales=TWO_SCALES) * factor).sum()

    assert torch.equal(torch.func.grad(call)(factor), call(factor))
    assert torch.equal(call(factor), call(factor))
