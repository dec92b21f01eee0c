"""pytest-benchmark cases of the portable map; `cdam-fast bench` is the comparison with the eager code.

Run with ``pytest benchmarks``.
"""

import pytest
import torch

from cdam_fast import cdam_attend, cdam_attention, pairwise_divergence, testing

SHAPES = [(101, 28), (140, 28), (161, 28), (284, 37), (284, 64)]
IDS = [f"C{classes}-{side}x{side}" for classes, side in SHAPES]


@pytest.fixture(autouse=True)
def _no_gradient():
    with torch.no_grad():
        yield


@pytest.mark.parametrize(("classes", "side"), SHAPES, ids=IDS)
def test_attention(benchmark, classes, side):
    similarity = testing.clip_like(classes, side, side)
    benchmark.pedantic(cdam_attention, (similarity,), warmup_rounds=2, rounds=5 if side > 40 else 20)


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_batch(benchmark, batch):
    similarity = testing.clip_like(161, 28, 28, batch=(batch,))
    benchmark.extra_info["images"] = batch
    benchmark.pedantic(cdam_attention, (similarity,), warmup_rounds=1, rounds=5)


@pytest.mark.parametrize("spread", [0.03, 0.3], ids=["by-product", "by-definition"])
def test_divergence(benchmark, spread):
    distributions = torch.softmax(testing.clip_like(161, 28, 28, spread=spread) / 0.1, 0).flatten(1).mT.contiguous()
    benchmark.pedantic(pairwise_divergence, (distributions,), warmup_rounds=2, rounds=10)


def test_attend(benchmark):
    similarity, values = testing.clip_like(161, 28, 28), torch.randn(784, 768)
    benchmark.pedantic(cdam_attend, (similarity, values), warmup_rounds=2, rounds=20)
