"""What only a GPU shows: streams, graphs, devices, every path at full size, memory."""

import shutil
import subprocess
import sys

import pytest
import torch
from cases import every_metric, one_hot

import cdam_fast
from cdam_fast.testing import MAP_BUDGET, clip_like, largest_error, oracle

pytestmark = pytest.mark.gpu


def cuda(similarity, **options):
    return cdam_fast.cdam_attention(similarity.cuda(), **options)


@pytest.mark.parametrize("backend", ["auto", "portable", "triton"])
@pytest.mark.parametrize(("height", "width", "classes"), [(28, 28, 161), (13, 17, 41), (37, 37, 284)], ids=str)
def test_backends_are_within_budget(backend, height, width, classes):
    similarity = clip_like(classes, height, width)
    assert largest_error(cuda(similarity, backend=backend), oracle(similarity)) <= MAP_BUDGET


@pytest.mark.parametrize("spread", [0.003, 0.03, 0.1, 1.0])
@every_metric
def test_distributions_of_every_kind(spread, metric):
    similarity = clip_like(101, 14, 15, spread=spread)
    assert largest_error(cuda(similarity, metric=metric), oracle(similarity, metric=metric)) <= MAP_BUDGET


def test_one_hot():
    similarity = one_hot(161, 14, 14)
    assert largest_error(cuda(similarity), oracle(similarity)) <= MAP_BUDGET


def test_auto_is_triton(monkeypatch):
    similarity = clip_like(9, 8, 8)
    expected = cuda(similarity, backend="triton")
    monkeypatch.setattr(cdam_fast.portable, "cdam_attention", None)
    assert torch.equal(cuda(similarity), expected)


def test_large_rows():
    """The longest rows that are served, gathered in pieces."""
    similarity = clip_like(5, 64, 128)
    result = cuda(similarity, scales=(0.25, 1.0), backend="triton")
    expected = cuda(similarity, scales=(0.25, 1.0), backend="portable")
    assert (result - expected).abs().max() <= 2 * MAP_BUDGET


def test_other_stream():
    similarity = clip_like(41, 28, 28).cuda()
    expected = cdam_fast.cdam_attention(similarity)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        later = torch.zeros_like(similarity)
        torch.cuda._sleep(20_000_000)
        later += similarity
        result = cdam_fast.cdam_attention(later)
    stream.synchronize()
    assert torch.equal(result, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_other_device():
    similarity = clip_like(41, 14, 14)
    result = cdam_fast.cdam_attention(similarity.to("cuda:1"))
    assert result.device.index == 1
    assert torch.equal(result.cpu(), cuda(similarity).cpu())


def test_mixed_devices_are_refused():
    with pytest.raises(ValueError, match=r"^values: got device cpu"):
        cdam_fast.cdam_attend(clip_like(5, 4, 4).cuda(), torch.zeros(16, 2))


@pytest.mark.parametrize("order", ["official", "paper"])
def test_graph_replays_with_changing_inputs(order):
    inputs = [clip_like(101, 28, 28, spread=spread, seed=seed) for seed, spread in enumerate((0.03, 0.3, 0.003))]
    similarity = inputs[0].cuda()
    cdam_fast.cdam_attention(similarity, order=order)  # compiles, and builds the tables
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = cdam_fast.cdam_attention(similarity, order=order)
    for new in inputs:
        similarity.copy_(new)
        result.fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
        assert largest_error(result, oracle(new, order=order)) <= MAP_BUDGET


def test_no_host_synchronisation():
    similarity = clip_like(41, 14, 14).cuda()
    cdam_fast.cdam_attention(similarity)
    torch.cuda.set_sync_debug_mode("error")
    try:
        cdam_fast.cdam_attention(similarity)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_of_a_map():
    similarity = clip_like(161, 28, 28).cuda()
    cdam_fast.cdam_attention(similarity)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = cdam_fast.cdam_attention(similarity)
    extra = torch.cuda.max_memory_allocated() - before
    assert extra <= 4 * result.numel() * 4


def test_more_pairs_than_32_bits_count():
    """Batch times N^2 beyond 2^31: the last image is as it is alone."""
    similarity = clip_like(3, 28, 28, batch=(3500,)).cuda()
    alone = cdam_fast.cdam_attention(similarity[-1], scales=(1.0,), out_dtype=torch.float16)
    assert torch.equal(cdam_fast.cdam_attention(similarity, scales=(1.0,), out_dtype=torch.float16)[-1], alone)


def test_default_compile_of_a_caller():
    torch.compiler.reset()
    similarity = clip_like(41, 14, 14).cuda()
    compiled = torch.compile(lambda x: cdam_fast.cdam_attention(x * 2, backend="triton") + 1, fullgraph=True)
    assert torch.equal(compiled(similarity), cdam_fast.cdam_attention(similarity * 2, backend="triton") + 1)


@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="no compute-sanitizer")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_sanitizer(tool):
    code = (
        "import cdam_fast; from cdam_fast.testing import clip_like; "
        "[cdam_fast.cdam_attention(clip_like(17, 9, 13).cuda(), order=o, metric=m) "
        "for o in ('official', 'paper') for m in ('js', 'kl', 'wasserstein')]"
    )
    command = ["compute-sanitizer", f"--tool={tool}", "--error-exitcode=9", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
