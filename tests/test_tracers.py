"""Tracers that keep what their example did: values and sizes other than the example's give their own results."""

import pytest
import torch
from cases import clip_rows, every_metric, every_order, needs_operators

import cdam_fast
from cdam_fast.testing import MAP_BUDGET, clip_like, largest_error, oracle

pytestmark = needs_operators

SPREADS = (1e-4, 0.03, 0.2, 1.0, 3.0)
SCALES = (0.25, 0.5, 1.0)


class Map(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.options = {"scales": SCALES} | options

    def forward(self, similarity):
        return cdam_fast.cdam_attention(similarity, **self.options)


class Attended(Map):
    def forward(self, similarity, values):
        return cdam_fast.cdam_attend(similarity, values, **self.options)


class Divergence(torch.nn.Module):
    def forward(self, p, q):
        return cdam_fast.pairwise_divergence(p, q)


def inputs(spread=0.03, batch=2, classes=7, height=9, width=10):
    return clip_like(classes, height, width, batch=(batch,), spread=spread)


def error_of(function, similarity, **options):
    return largest_error(function(similarity), oracle(similarity, **({"scales": SCALES} | options)))


# --- torch.jit.trace, make_fx -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@every_metric
@every_order
def test_jit(metric, order):
    options = {"metric": metric, "order": order}
    traced = torch.jit.trace(Map(**options), (inputs(),), check_trace=False)
    for spread in SPREADS:
        assert error_of(traced, inputs(spread), **options) <= MAP_BUDGET, spread
    assert error_of(traced, inputs(batch=1, classes=3, height=12, width=8), **options) <= MAP_BUDGET


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_jit_of_the_other_functions():
    traced = torch.jit.trace(Attended(), (inputs(), torch.rand(2, 90, 3)), check_trace=False)
    similarity, values = inputs(1.0, height=8, width=8), torch.rand(2, 64, 5)
    expected = oracle(similarity, scales=SCALES) @ values.double()
    torch.testing.assert_close(traced(similarity, values).double(), expected, rtol=0, atol=64 * MAP_BUDGET)
    traced = torch.jit.trace(Divergence(), (clip_rows(5, 7), clip_rows(4, 7)), check_trace=False)
    p, q = clip_rows(9, 3, spread=1.0), clip_rows(6, 3, spread=1.0, seed=1)
    torch.testing.assert_close(traced(p, q), cdam_fast.pairwise_divergence(p, q))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_jit_refuses_by_name_what_it_would_freeze():
    with pytest.raises(RuntimeError, match=r"torch\.jit\.trace of cdam_fast: got gradients"):
        torch.jit.trace(Map(), (inputs().requires_grad_(),))
    with pytest.raises(RuntimeError, match=r"torch\.jit\.trace of cdam_fast: got the reference"):
        torch.jit.trace(Map(backend="reference"), (inputs(),))


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx(mode):
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(Map(), tracing_mode=mode)(inputs())
    for spread in SPREADS:
        assert error_of(graph, inputs(spread)) <= MAP_BUDGET, spread


def test_symbolic_trace_is_refused_by_name():
    with pytest.raises(TypeError, match="similarity: got Proxy"):
        torch.fx.symbolic_trace(Map())


def test_a_dispatch_mode_changes_nothing():
    from torch.utils.flop_counter import FlopCounterMode

    similarity = inputs()
    with FlopCounterMode(display=False):
        watched = Map()(similarity)
    torch.testing.assert_close(watched, Map()(similarity), rtol=0, atol=1e-6)


# --- torch.compile, torch.export --------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", [False, True], ids=["plain", "gradient"])
def test_compile_is_right_for_other_values(gradient):
    torch.compiler.reset()
    compiled = torch.compile(Map(), fullgraph=True, backend="aot_eager")
    for spread in SPREADS:
        assert error_of(compiled, inputs(spread).requires_grad_(gradient)) <= MAP_BUDGET, spread


def test_export_of_any_batch_grid_and_classes():
    anything = dict.fromkeys(range(4), torch.export.Dim.DYNAMIC)
    for gradient in (False, True):
        sizes = dict(anything) if not gradient else {i: anything[i] for i in (0, 2, 3)}
        example = inputs().requires_grad_(gradient)
        exported = torch.export.export(Map(), (example,), dynamic_shapes=(sizes,)).module()
        assert error_of(exported, inputs(1.0, batch=3, height=12, width=8)) <= MAP_BUDGET
    exported = torch.export.export(
        Attended(),
        (inputs(), torch.rand(2, 90, 3)),
        dynamic_shapes=({i: anything[i] for i in (0, 2, 3)}, {0: anything[0], 1: anything[1]}),
    ).module()
    similarity, values = inputs(batch=3, height=8, width=8), torch.rand(3, 64, 3)
    torch.testing.assert_close(exported(similarity, values), Attended()(similarity, values))
    rows = {0: anything[0], 1: anything[1]}
    p, q = clip_rows(11, 5, batch=(2,)), clip_rows(6, 5, batch=(2,))
    exported = torch.export.export(Divergence(), (p, q), dynamic_shapes=(rows, rows)).module()
    p, q = clip_rows(4, 5, batch=(3,)), clip_rows(8, 5, batch=(3,))
    torch.testing.assert_close(exported(p, q), cdam_fast.pairwise_divergence(p, q))
