"""pytest-benchmark cases of a call's own time: inputs so small that Python and PyTorch's dispatch are all of it.

`cdam-fast bench --host` is the same of the Triton backend with its launcher.
"""

import contextlib

import pytest
import torch

from cdam_fast import (
    cdam_attend,
    cdam_attention,
    entropy_threshold,
    js_embedding,
    pairwise_divergence,
    reference,
    testing,
    with_cls_token,
)
from cdam_fast.arguments import MapOptions, check_options, check_similarity
from cdam_fast.attention import choose_backend

SIMILARITY = testing.clip_like(64, 4, 4)
VALUES = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
P = torch.softmax(SIMILARITY / 0.1, 0).flatten(1).mT.contiguous()
MANY = {"warmup_rounds": 20, "rounds": 200, "iterations": 5}


@pytest.fixture(autouse=True)
def _no_gradient():
    with torch.no_grad():
        yield


def expected(name):
    """In float64, by the definitions."""
    exact = testing.oracle(SIMILARITY)
    if name == "cdam_attend":
        return exact @ VALUES.double()
    if name == "pairwise_divergence":
        return reference.pairwise_divergence(P.double())
    if name == "with_cls_token":
        return torch.nn.functional.pad(SIMILARITY[0], (1, 0, 1, 0))
    if name == "entropy_threshold":
        q = torch.softmax(50 * SIMILARITY.flatten(1).double(), 0)
        entropy = -(q * q.log2()).sum(0)
        return 2.5 * 0.5 / ((entropy.max() + entropy.min()) / 2)
    return testing.oracle(SIMILARITY, order="paper") if "paper" in name else exact


CALLS = {
    "cdam_attention": lambda: cdam_attention(SIMILARITY),
    "cdam_attention, paper": lambda: cdam_attention(SIMILARITY, order="paper"),
    "cdam_attend": lambda: cdam_attend(SIMILARITY, VALUES),
    "pairwise_divergence": lambda: pairwise_divergence(P),
    "entropy_threshold": lambda: entropy_threshold(SIMILARITY.flatten(1)),
    "with_cls_token": lambda: with_cls_token(SIMILARITY[0]),
}


@pytest.mark.benchmark(group="a whole call, 16 patches")
@pytest.mark.parametrize("name", CALLS)
def test_call(benchmark, name):
    assert testing.largest_error(CALLS[name](), expected(name)) <= 1e-4
    benchmark.pedantic(CALLS[name], warmup_rounds=10, rounds=100)


@pytest.mark.benchmark(group="a whole call, 16 patches")
def test_embedding(benchmark):
    points = js_embedding(P, P[0]).double()
    assert (
        testing.largest_error(points.square().sum(1), 2 * reference.pairwise_divergence(P[:1].double(), P.double())[0])
        < 1e-6
    )
    benchmark.pedantic(js_embedding, (P, P[0]), warmup_rounds=10, rounds=100)


@pytest.mark.benchmark(group="before the work")
def test_known_options(benchmark):
    """As of the second call with the same ones."""
    given = MapOptions()
    assert check_options(SIMILARITY, given) == given
    benchmark.pedantic(check_options, (SIMILARITY, given), **MANY)


@pytest.mark.benchmark(group="before the work")
def test_new_options(benchmark):
    """As of a first call: a list has no place among the known ones, nor has a NumPy number."""
    np = pytest.importorskip("numpy")
    given = MapOptions(temperature=np.full((), 0.1))
    assert check_options(SIMILARITY, given) == MapOptions(temperature=0.1)
    benchmark.pedantic(check_options, (SIMILARITY, given), **MANY)


@pytest.mark.benchmark(group="before the work")
def test_similarity(benchmark):
    assert check_similarity(SIMILARITY) is SIMILARITY
    benchmark.pedantic(check_similarity, (SIMILARITY,), **MANY)


@pytest.mark.benchmark(group="before the work")
def test_backend(benchmark):
    assert choose_backend("auto", SIMILARITY, 16) == "portable"
    benchmark.pedantic(choose_backend, ("auto", SIMILARITY, 16), **MANY)


# --- the Triton backend, its kernels replaced by nothing: a result is none, its shape is right


@pytest.fixture
def unlaunched():
    pytest.importorskip("triton")
    from cdam_fast.measuring.host import without_launches

    with contextlib.ExitStack() as stack:
        stack.enter_context(without_launches(torch.device("cpu")))
        yield


TRITON = {
    "cdam_attention": (lambda: cdam_attention(SIMILARITY, backend="triton"), (16, 16)),
    "cdam_attend": (lambda: cdam_attend(SIMILARITY, VALUES, backend="triton"), (16, 8)),
    "pairwise_divergence": (lambda: pairwise_divergence(P, backend="triton"), (16, 16)),
}


@pytest.mark.benchmark(group="Triton, nothing launched")
@pytest.mark.parametrize("name", TRITON)
def test_triton(benchmark, unlaunched, name):
    call, shape = TRITON[name]
    assert call().shape == shape
    benchmark.pedantic(call, warmup_rounds=20, rounds=200)


@pytest.mark.benchmark(group="Triton, nothing launched")
def test_first_call_of_a_grid(benchmark, unlaunched):
    """With the tables that every further call finds made."""
    from cdam_fast.kernels import plan, stages

    similarity = testing.clip_like(5, 28, 28)

    def forget():
        stages.forget()
        plan.map_plan.cache_clear()

    assert cdam_attention(similarity, backend="triton").shape == (784, 784)
    assert plan.map_plan.cache_info().currsize > 0
    benchmark.pedantic(cdam_attention, (similarity,), {"backend": "triton"}, setup=forget, rounds=20)
