"""`graphed`: its errors, the whole way with stand-ins for CUDA's graphs, and on a GPU real replays."""

import pytest
import torch
from cases import needs_kernels
from graph_stand_ins import Graph, needs_interpreter, stand_ins

import cdam_fast
from cdam_fast import graphed
from cdam_fast.testing import MAP_BUDGET, clip_like, largest_error, oracle

pytestmark = needs_kernels
__all__ = ["stand_ins"]

OPTIONS = {"scales": (0.5, 1.0)}


def example(batch=(), classes=3):
    return clip_like(classes, 4, 3, batch=batch)


def values_of(similarity, size=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*similarity.shape[:-3], 12, size, generator=generator).to(similarity)


# --- what is refused when it is made ------------------------------------------------------------------------------


def test_a_cpu_has_no_graphs():
    with pytest.raises(ValueError, match=r"^similarity_example: got a tensor on cpu, takes one on a CUDA device: no"):
        graphed(example())


@pytest.mark.parametrize("backend", ["portable", "reference"])
def test_other_backends(backend):
    with pytest.raises(ValueError, match=rf"^backend: got '{backend}', takes 'auto' or 'triton': a graph is recorded"):
        graphed(example(), backend=backend)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([1.0],), {}, TypeError, r"^similarity: got list, takes a torch\.Tensor of shape"),
        ((torch.zeros(2, 2),), {}, ValueError, r"^similarity: got shape \(2, 2\), takes"),
        ((example().int(),), {}, TypeError, r"^similarity: got dtype torch\.int32"),
        ((example(), torch.zeros(11, 2)), {}, ValueError, "^values: got 11 rows"),
        ((example((2,)), torch.zeros(12, 2)), {}, ValueError, "^values: got batch dims"),
        ((example(),), {"backend": "cuda"}, ValueError, "^backend: got 'cuda', takes one of"),
        ((example(),), {"metric": "l2", **OPTIONS}, ValueError, "^metric: got 'l2', takes one of"),
        ((example(),), {"scales": (0.1,)}, ValueError, r"^scales\[0\]: got 0\.1, which leaves no patch"),
        ((example(),), {"out_dtype": torch.int8, **OPTIONS}, TypeError, r"^out_dtype: got torch\.int8"),
        ((example(),), {"scale": 1}, TypeError, "scale"),
    ],
    ids=range(10),
)
def test_bad_arguments_are_those_of_the_functions(stand_ins, arguments, options, error, message):
    with pytest.raises(error, match=message):
        graphed(*arguments, **options)
    assert not any(graph.calls for graph in Graph.made)


def test_float64_is_refused(stand_ins):
    with pytest.raises(RuntimeError, match=r"^similarity_example: got torch\.float64 input, takes float16, bfloat16"):
        graphed(example().double())


def test_more_patches_than_a_row_holds_are_refused(stand_ins):
    with pytest.raises(RuntimeError, match=r"^similarity_example: got a map of 8193 patches, takes 8192 at most"):
        graphed(torch.zeros(1, 1, 8193), scales=(1.0,))


def test_examples_that_require_gradients_are_refused(stand_ins):
    with pytest.raises(ValueError, match=r"^similarity_example: got a tensor that requires gradients, takes one with"):
        graphed(example().requires_grad_())
    with pytest.raises(ValueError, match=r"^values_example: got a tensor that requires gradients, takes one without"):
        graphed(example(), values_of(example()).requires_grad_())


# --- what is refused in a call ------------------------------------------------------------------------------------


@pytest.fixture
def of_similarity(stand_ins):
    return graphed(example((2,)), **OPTIONS)


@pytest.fixture
def of_both(stand_ins):
    return graphed(example(), values_of(example()), **OPTIONS)


CALLS_OF_ONE = [
    ((None,), TypeError, "^similarity: got NoneType, takes a tensor$"),
    (
        (example((3,)),),
        ValueError,
        r"^similarity: got float32 \[3, 3, 4, 3\] on cpu, takes float32 \[2, 3, 4, 3\] on cpu, as the example was$",
    ),
    ((example(),), ValueError, r"^similarity: got float32 \[3, 4, 3\] on cpu, takes"),
    ((example((2,)).half(),), ValueError, r"^similarity: got float16 \[2, 3, 4, 3\] on cpu, takes float32"),
    ((example((2,)).to("meta"),), ValueError, r"^similarity: got float32 \[2, 3, 4, 3\] on meta, takes float32"),
    ((example((2,)), torch.zeros(2, 12, 1)), ValueError, "^values: got a tensor, takes none$"),
    ((example((2,)).requires_grad_(),), ValueError, "^similarity: got a tensor that requires gradients, takes one"),
]
CALLS_OF_BOTH = [
    ((example(),), "^values: got None, takes values, as its examples had them$"),
    ((example(), torch.zeros(12, 3)), r"^values: got float32 \[12, 3\] on cpu, takes float32 \[12, 2\] on cpu"),
    ((example(), torch.zeros(12, 2, dtype=torch.float64)), r"^values: got float64 \[12, 2\] on cpu, takes float32"),
    ((example(), torch.zeros(12, 2, device="meta")), r"^values: got float32 \[12, 2\] on meta, takes"),
    ((example(), torch.zeros(12, 2, requires_grad=True)), "^values: got a tensor that requires gradients, takes"),
]


@needs_interpreter
@pytest.mark.parametrize(("arguments", "error", "message"), CALLS_OF_ONE, ids=range(len(CALLS_OF_ONE)))
def test_calls_unlike_the_example(of_similarity, arguments, error, message):
    with pytest.raises(error, match=message):
        of_similarity(*arguments)
    assert Graph.made[0].replays == 0


@needs_interpreter
@pytest.mark.parametrize(("arguments", "message"), CALLS_OF_BOTH, ids=range(len(CALLS_OF_BOTH)))
def test_calls_unlike_the_examples(of_both, arguments, message):
    held = [tensor.clone() for tensor in of_both._inputs.values()]
    with pytest.raises(ValueError, match=message):
        of_both(*arguments)
    assert all(map(torch.equal, held, of_both._inputs.values()))
    assert Graph.made[0].replays == 0


@needs_interpreter
def test_without_gradients_a_tensor_that_requires_them_is_taken(of_similarity):
    similarity = example((2,)).requires_grad_()
    with torch.no_grad():
        result = of_similarity(similarity)
    assert not result.requires_grad


# --- the whole way, with stand-ins --------------------------------------------------------------------------------


@needs_interpreter
@pytest.mark.parametrize("batch", [(), (2,), (2, 1)], ids=str)
def test_map_follows_its_input(stand_ins, batch):
    call = graphed(example(batch), order="paper", out_dtype=torch.float16, **OPTIONS)
    (graph,) = Graph.made
    assert len(graph.calls) == 1
    for seed, spread in enumerate((0.03, 0.3), 1):
        similarity = clip_like(3, 4, 3, batch=batch, spread=spread, seed=seed)
        expected = cdam_fast.cdam_attention(
            similarity, order="paper", out_dtype=torch.float16, backend="triton", **OPTIONS
        )
        result = call(similarity)
        assert result.dtype == torch.float16
        assert torch.equal(result, expected)
        assert graph.replays == seed
    assert call(similarity).data_ptr() == result.data_ptr()


@needs_interpreter
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_attended_values_follow_their_inputs(stand_ins, dtype):
    first = example((2,)).to(dtype)
    call = graphed(first, values_of(first), backend="triton", **OPTIONS)
    for seed in (1, 2):
        similarity = clip_like(3, 4, 3, batch=(2,), seed=seed).to(dtype)
        values = values_of(similarity, seed=seed)
        expected = cdam_fast.cdam_attend(similarity, values, backend="triton", **OPTIONS)
        assert torch.equal(call(similarity, values), expected)


@needs_interpreter
def test_any_strides_and_the_caller_keeps_its_tensors(stand_ins):
    similarity = example((2,))
    before = similarity.clone()
    call = graphed(similarity, **OPTIONS)
    channels_last = clip_like(3, 4, 3, batch=(2,), seed=1).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(call(channels_last), cdam_fast.cdam_attention(channels_last, backend="triton", **OPTIONS))
    assert torch.equal(similarity, before)


@needs_interpreter
def test_made_in_inference_mode_and_called_outside(stand_ins):
    with torch.inference_mode():
        similarity = example()
        call = graphed(similarity, **OPTIONS)
        inside = call(similarity).clone()
    assert torch.equal(call(example()), inside)


# --- real graphs --------------------------------------------------------------------------------------------------

SPREADS = (0.03, 0.3, 0.003)


def on_gpu(batch, spread, seed, dtype=torch.float32):
    return clip_like(101, 14, 13, batch=batch, spread=spread, seed=seed).to("cuda", dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("order", ["official", "paper"])
@pytest.mark.parametrize("batch", [(), (1,), (2, 3)], ids=str)
def test_map_replays(batch, order):
    call = graphed(torch.zeros(*batch, 101, 14, 13, device="cuda"), order=order)
    for seed, spread in enumerate(SPREADS):
        similarity = on_gpu(batch, spread, seed)
        result = call(similarity).fill_(torch.nan)
        assert call(similarity) is result
        assert torch.equal(result, cdam_fast.cdam_attention(similarity, order=order, backend="triton"))
        assert largest_error(result, oracle(similarity, order=order, device="cuda")) <= MAP_BUDGET


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
@pytest.mark.parametrize("strip_bytes", [1 << 28, 1 << 18], ids=["map", "strips"])
def test_attended_values_replay(batch, dtype, strip_bytes, monkeypatch):
    from cdam_fast.kernels import launch

    monkeypatch.setattr(launch, "STRIP_BYTES", strip_bytes)

    def values(seed):
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*batch, 14 * 13, 64, generator=generator).to("cuda", dtype)

    call = graphed(on_gpu(batch, 0.03, 9, dtype), values(9))
    for seed, spread in enumerate(SPREADS):
        similarity = on_gpu(batch, spread, seed, dtype)
        result = call(similarity, values(seed)).fill_(torch.nan)
        assert call(similarity, values(seed)) is result
        assert torch.equal(result, cdam_fast.cdam_attend(similarity, values(seed), backend="triton"))


@pytest.mark.gpu
def test_other_calls_leave_a_graph_right():
    """Its memory is its own, also where the tables that it reads are no longer kept for calls."""
    from cdam_fast.kernels import plan, stages

    similarity = on_gpu((2,), 0.03, 1)
    call = graphed(similarity)
    expected = call(similarity).clone()
    stages.forget()
    plan.map_plan.cache_clear()
    for classes, side in ((41, 9), (101, 14), (17, 20)):
        cdam_fast.cdam_attention(clip_like(classes, side, side, batch=(4,)).cuda(), backend="triton")
    assert torch.equal(call(similarity), expected)


@pytest.mark.gpu
def test_calls_wait_for_nothing():
    similarity = on_gpu((), 0.03, 1)
    call = graphed(similarity)
    torch.cuda.set_sync_debug_mode("error")
    try:
        call(similarity)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_replays_on_another_device():
    similarity = clip_like(41, 14, 14).to("cuda:1")
    call = graphed(similarity)
    assert torch.equal(call(similarity), cdam_fast.cdam_attention(similarity, backend="triton"))
