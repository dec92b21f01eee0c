"""pytest-benchmark cases of the portable map; `cdam-fast bench` is the comparison with the eager code.

Run with ``pytest benchmarks``; each result is held to float64 before it is timed.
"""

import pytest
import torch

from cdam_fast import cdam_attend, cdam_attention, testing

SIDE = 28
CLASSES = {"VOC21": 101, "Context60": 140, "COCO-Object": 161}
"""Prompts of the paper's class lists, the 80 augmented ones included."""


@pytest.fixture(autouse=True)
def _no_gradient():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def exact():
    """The float64 maps of a batch of two, for 161 prompts."""
    return testing.oracle(testing.clip_like(161, SIDE, SIDE, batch=(2,)))


def assert_right(maps, exact):
    assert testing.largest_error(maps, exact) <= testing.map_budget(maps.dtype)


@pytest.mark.benchmark(group="map")
@pytest.mark.parametrize("class_list", CLASSES)
def test_attention(benchmark, class_list):
    similarity = testing.clip_like(CLASSES[class_list], SIDE, SIDE)
    assert_right(cdam_attention(similarity), testing.oracle(similarity))
    benchmark.pedantic(cdam_attention, (similarity,), warmup_rounds=2, rounds=20)


@pytest.mark.benchmark(group="map, options")
@pytest.mark.parametrize("options", [{"scales": (1.0,)}, {"order": "paper"}, {"out_dtype": torch.float16}], ids=str)
def test_options(benchmark, options):
    similarity = testing.clip_like(64, 14, 14)
    asked = {name: value for name, value in options.items() if name != "out_dtype"}
    assert_right(cdam_attention(similarity, **options), testing.oracle(similarity, **asked))
    benchmark.pedantic(cdam_attention, (similarity,), options, warmup_rounds=2, rounds=40)


@pytest.mark.benchmark(group="map, metrics")
@pytest.mark.parametrize("metric", ["js", "kl", "wasserstein"])
def test_metrics(benchmark, metric):
    similarity = testing.clip_like(101, 14, 14)
    assert_right(cdam_attention(similarity, metric=metric), testing.oracle(similarity, metric=metric))
    benchmark.pedantic(cdam_attention, (similarity,), {"metric": metric}, warmup_rounds=2, rounds=10)


@pytest.mark.benchmark(group="map, a batch of two")
def test_batch(benchmark, exact):
    similarity = testing.clip_like(161, SIDE, SIDE, batch=(2,))
    assert_right(cdam_attention(similarity), exact)
    benchmark.pedantic(cdam_attention, (similarity,), warmup_rounds=1, rounds=10)


@pytest.mark.benchmark(group="attend")
def test_attend(benchmark, exact):
    similarity = testing.clip_like(161, SIDE, SIDE, batch=(2,))[:1]
    values = torch.randn(1, SIDE**2, 768, generator=torch.Generator().manual_seed(0))
    attended = exact[:1] @ values.double()
    assert (cdam_attend(similarity, values) - attended).abs().max() <= 1e-5 * attended.abs().max()
    benchmark.pedantic(cdam_attend, (similarity, values), warmup_rounds=2, rounds=20)
