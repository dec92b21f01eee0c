"""pytest-benchmark cases of the divergence alone and of the embedding, each held to float64 before it is timed."""

import pytest
import torch

from cdam_fast import js_embedding, pairwise_divergence, reference, testing

SHARES = {"js": 3e-6, "kl": 3e-6, "wasserstein": 1e-5}
"""Largest error in float32, as a share of the largest divergence."""


@pytest.fixture(autouse=True)
def _no_gradient():
    with torch.no_grad():
        yield


def distributions(classes, side, spread=0.03):
    similarity = testing.clip_like(classes, side, side, spread=spread)
    return torch.softmax(similarity / 0.1, 0).flatten(1).mT.contiguous()


@pytest.mark.benchmark(group="divergence, N = 196, C = 161")
@pytest.mark.parametrize("metric", SHARES)
@pytest.mark.parametrize("other", [False, True], ids=["p", "p-q"])
def test_metrics(benchmark, metric, other):
    p = distributions(161, 14)
    arguments = (p[:150], p[30:]) if other else (p,)
    exact = reference.pairwise_divergence(*(one.double() for one in arguments), metric=metric)
    result = pairwise_divergence(*arguments, metric=metric)
    assert testing.largest_error(result, exact) <= SHARES[metric] * exact.max()
    benchmark.pedantic(pairwise_divergence, arguments, {"metric": metric}, warmup_rounds=2, rounds=40)


@pytest.mark.benchmark(group="Jensen-Shannon, N = 784, C = 161")
@pytest.mark.parametrize(
    ("spread", "dtype"),
    [(0.03, torch.float32), (0.3, torch.float32), (0.03, torch.float64)],
    ids=["features", "definition", "float64"],
)
def test_ways(benchmark, spread, dtype):
    p = distributions(161, 28, spread).to(dtype)
    exact = testing.exact_divergence(p)
    share = SHARES["js"] if dtype == torch.float32 else 1e-12
    assert testing.largest_error(pairwise_divergence(p), exact) <= share * exact.max()
    benchmark.pedantic(pairwise_divergence, (p,), warmup_rounds=1, rounds=10)


@pytest.mark.benchmark(group="embedding, N = 784, C = 161")
@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
def test_embedding(benchmark, rtol):
    p = distributions(161, 28)
    base = p.mean(0)
    points = js_embedding(p, base, rtol=rtol).double()
    exact = 2 * reference.pairwise_divergence(p[:50].double(), p.double())
    off = (torch.cdist(points[:50], points, compute_mode="donot_use_mm_for_euclid_dist").square() - exact).abs()
    assert (off <= rtol * exact + 1e-6 * exact.max()).all()
    benchmark.pedantic(js_embedding, (p, base), {"rtol": rtol}, warmup_rounds=2, rounds=20)
