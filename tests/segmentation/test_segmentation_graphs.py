"""``CDAMSegmenter(graph=True)``: the same labels; how many graphs, of what, for whom, and where there are none."""

import concurrent.futures
import copy
import pickle

import pytest
import torch
from cases import needs_kernels
from graph_stand_ins import Graph, Stream, needs_interpreter, stand_ins
from towers import small_model

from cdam_fast import CDAMSegmenter, cdam_attend
from cdam_fast.graphs import AttendGraphs
from cdam_fast.models import BASES
from cdam_fast.testing import clip_like

pytestmark = [needs_kernels, pytest.mark.filterwarnings("ignore:threshold:UserWarning")]
__all__ = ["stand_ins"]

NAMES = ["background", ["cat", "kitten"], "dog"]
OPTIONS = {"scales": (1.0,)}


def text(rows, seed=0):
    features = torch.randn(rows, 32, generator=torch.Generator().manual_seed(seed))
    return features / features.norm(dim=-1, keepdim=True)


def segmenter(model=None, **options):
    given = {"short_side": 64, "window": 64, "stride": 32, "text_features": text(4), "scales": (1.0,)}
    given |= {"augmented_text_features": text(5, 1)} | options
    return CDAMSegmenter(model or small_model(), None, NAMES, **given)


def pixels(count, height=64, width=64, seed=0):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


# --- where there are none -----------------------------------------------------------------------------------------


def test_a_cpu_has_no_graphs():
    with pytest.raises(ValueError, match=r"^graph: got True for a model on cpu, takes one on a CUDA device"):
        segmenter(graph=True)
    assert not isinstance(segmenter(graph=False)._attend, AttendGraphs)


@pytest.mark.parametrize("graph", ["yes", 1, None], ids=repr)
def test_something_else_than_a_flag(graph):
    with pytest.raises(TypeError, match=rf"^graph: got {graph!r}, takes True or False$"):
        segmenter(graph=graph)


def test_without_a_map():
    with pytest.raises(ValueError, match=r"^graph: got True with cdam=False, takes cdam=True"):
        segmenter(graph=True, cdam=False)


@pytest.mark.parametrize("backend", ["portable", "reference"])
def test_other_backends(stand_ins, backend):
    with pytest.raises(ValueError, match=rf"^graph: got True with backend='{backend}', takes 'auto' or 'triton'$"):
        segmenter(graph=True, backend=backend)


def test_float64(stand_ins):
    with pytest.raises(RuntimeError, match=r"^graph: got torch\.float64 input, takes float16"):
        segmenter(graph=True, dtype=torch.float64)


def test_more_patches_than_a_row_holds(stand_ins):
    with pytest.raises(RuntimeError, match=r"^graph: got a map of 8281 patches, takes 8192 at most"):
        segmenter(graph=True, window=16 * 91, short_side=16 * 91)


def test_more_patches_in_a_call(stand_ins):
    with pytest.raises(RuntimeError, match=r"^graph: got a map of 8193 patches, takes 8192 at most"):
        AttendGraphs(OPTIONS)(torch.zeros(1, 1, 8193), torch.zeros(8193, 1))
    assert Graph.made == ()


# --- with stand-ins -----------------------------------------------------------------------------------------------


@needs_interpreter
@pytest.mark.parametrize("base", BASES)
def test_logits_are_the_same(stand_ins, base):
    graphed, plain = segmenter(base=base, graph=True), segmenter(base=base, backend="triton")
    held = []
    for seed in range(2):
        given = pixels(2, seed=seed)
        held.append((graphed.word_logits(given), plain.word_logits(given)))
    for result, expected in held:  # after the calls that followed
        assert torch.equal(result, expected)
    assert [graph.replays for graph in Graph.made] == [2]


@needs_interpreter
def test_an_image_is_labelled_the_same(stand_ins):
    image = torch.rand(3, 64, 110, generator=torch.Generator().manual_seed(0))
    result = segmenter(graph=True, batch_size=2)(image)
    expected = segmenter(backend="triton", batch_size=2)(image)
    assert torch.equal(result.logits, expected.logits)
    assert torch.equal(result.labels, expected.labels)
    # three windows: two, and the last
    assert [graph.replays for graph in Graph.made] == [1, 1]


@needs_interpreter
def test_one_graph_for_each_size_of_a_batch_and_a_window(stand_ins):
    graphed = segmenter(graph=True)
    for given in (pixels(1), pixels(2), pixels(1, 32, 96), pixels(2), pixels(1)):
        graphed.patch_logits(given)
    assert [graph.replays for graph in Graph.made] == [2, 2, 1]


def shapes(count):
    for batch in range(1, count + 1):
        similarity = clip_like(2, 2, 2, batch=(batch,), seed=batch)
        yield similarity, torch.ones(batch, 4, 1) * batch


@needs_interpreter
def test_the_longest_unused_graph_is_dropped(stand_ins):
    attend = AttendGraphs(OPTIONS, most=2)
    first, second, third = shapes(3)
    for given in (first, second, first, third, first, second):
        assert torch.equal(attend(*given), cdam_attend(*given, backend="triton", **OPTIONS))
        assert len(attend._graphs) <= 2
    assert [graph.replays for graph in Graph.made] == [3, 1, 1, 1]


@pytest.mark.slow
@needs_interpreter
def test_as_many_graphs_as_a_batch_of_windows_has_remainders(stand_ins):
    attend = AttendGraphs(OPTIONS)
    for _ in range(2):
        for given in shapes(8):
            attend(*given)
    assert [graph.replays for graph in Graph.made] == [2] * 8


@needs_interpreter
def test_a_result_is_the_callers(stand_ins):
    attend = AttendGraphs(OPTIONS)
    (one,) = shapes(1)
    first = attend(*one)
    kept = first.clone()
    attend(one[0].flip(-1), one[1] + 1)
    assert torch.equal(first, kept)
    first.zero_()
    assert torch.equal(attend(*one), kept)


@needs_interpreter
def test_a_graph_that_cannot_be_recorded_leaves_nothing(stand_ins):
    attend = AttendGraphs({"scales": (0.1,)})
    (one,) = shapes(1)
    with pytest.raises(ValueError, match=r"^scales\[0\]"):
        attend(*one)
    assert attend._graphs == {}
    attend.options = OPTIONS
    attend(*one)


@needs_interpreter
def test_each_stream_has_graphs_of_its_own(stand_ins, monkeypatch):
    attend = AttendGraphs(OPTIONS)
    (one,) = shapes(1)
    for stream in (0, 7, 0, 7):
        monkeypatch.setattr(Stream, "cuda_stream", stream)
        attend(*one)
    assert [graph.replays for graph in Graph.made] == [2, 2]


@needs_interpreter
def test_threads_take_turns(stand_ins):
    """The stand-ins fail where two record at once, and results differ where two write one graph's memory."""
    attend = AttendGraphs(OPTIONS, most=2)
    calls = [(similarity, values * k) for k in range(1, 4) for similarity, values in shapes(2)]
    expected = [cdam_attend(*call, backend="triton", **OPTIONS) for call in calls]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for result, right in zip(pool.map(lambda call: attend(*call), calls), expected):
            assert torch.equal(result, right)
    assert len(Graph.made) == 2


@needs_interpreter
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda attend: pickle.loads(pickle.dumps(attend))])
def test_a_copy_starts_without_graphs(stand_ins, copied):
    attend = AttendGraphs(OPTIONS, most=3)
    (one,) = shapes(1)
    expected = attend(*one)
    other = copied(attend)
    assert (other.options, other.most, other._graphs) == (OPTIONS, 3, {})
    assert torch.equal(other(*one), expected)


@needs_interpreter
def test_after_inference_mode(stand_ins):
    attend = AttendGraphs(OPTIONS)
    (one,) = shapes(1)
    with torch.inference_mode():
        expected = attend(*one)
    assert torch.equal(attend(*one), expected)


# --- real graphs --------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("base", BASES)
def test_logits_on_a_gpu(base, dtype):
    options = {"base": base, "device": "cuda", "dtype": dtype}
    graphed, plain = segmenter(graph=True, **options), segmenter(**options)
    held = []
    for count, seed in ((2, 0), (3, 1), (2, 2), (3, 3)):
        given = pixels(count, seed=seed).to("cuda", dtype)
        held.append((graphed.word_logits(given), plain.word_logits(given)))
    assert len(graphed._attend._graphs) == 2
    for result, expected in held:
        assert torch.equal(result, expected)


@pytest.mark.gpu
def test_threads_and_streams_on_a_gpu():
    graphed, plain = segmenter(graph=True, device="cuda"), segmenter(device="cuda")
    given = [pixels(1 + k % 3, seed=k).cuda() for k in range(24)]
    expected = [plain.word_logits(one) for one in given]
    torch.cuda.synchronize()

    def call(number):
        stream = torch.cuda.Stream() if number % 2 else torch.cuda.default_stream()
        with torch.cuda.stream(stream):
            result = graphed.word_logits(given[number])
        stream.synchronize()
        return result

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for result, right in zip(pool.map(call, range(24)), expected):
            assert torch.equal(result, right)


@pytest.mark.gpu
def test_dropped_graphs_on_a_gpu():
    attend = AttendGraphs({}, most=2)
    calls = [(clip_like(9, 6, 6, batch=(k,)).cuda(), torch.randn(k, 36, 5, device="cuda")) for k in (1, 2, 3, 1, 2)]
    results = [attend(*call) for call in calls]
    torch.cuda.empty_cache()
    for result, call in zip(results, calls):
        assert torch.equal(result, cdam_attend(*call))
