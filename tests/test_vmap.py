"""torch.vmap over any dims of any inputs: what a call with a batch dim gives, by one call of the operators."""

import pytest
import torch
from cases import clip_rows, every_metric, needs_operators

import cdam_fast
from cdam_fast.testing import clip_like

pytestmark = [needs_operators, pytest.mark.filterwarnings("error:There is a performance drop")]

OPTIONS = {"scales": (0.5, 1.0)}
SIMILARITY, VALUES = clip_like(5, 4, 6, batch=(2, 3)), torch.linspace(-1, 1, 2 * 3 * 24 * 7).reshape(2, 3, 24, 7)
P, Q = clip_rows(6, 5, batch=(2, 3)), clip_rows(4, 5, batch=(2, 3), seed=1)


@pytest.fixture(params=["portable", "triton"])
def backend(request):
    if request.param == "triton":
        pytest.importorskip("triton", minversion="3.2")
    return request.param


def same(result, expected):
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dim", [0, 1, 2, 3, -1, -2])
def test_any_dim_of_the_similarity(dim, backend):
    def attention(x):
        return cdam_fast.cdam_attention(x, backend=backend, **OPTIONS)

    expected = attention(SIMILARITY[0])
    same(torch.vmap(attention, dim)(SIMILARITY[0].movedim(0, dim)), expected)
    same(torch.vmap(attention, dim, out_dims=2)(SIMILARITY[0].movedim(0, dim)), expected.movedim(0, 2))


def test_a_batch_inside(backend):
    def attention(x):
        return cdam_fast.cdam_attention(x, backend=backend, **OPTIONS)

    same(torch.vmap(attention, 1)(SIMILARITY), attention(SIMILARITY).transpose(0, 1))


def test_one_inside_another(backend):
    def attention(x):
        return cdam_fast.cdam_attention(x, backend=backend, **OPTIONS)

    same(torch.vmap(torch.vmap(attention))(SIMILARITY), attention(SIMILARITY))
    same(torch.vmap(torch.vmap(attention), 1)(SIMILARITY), attention(SIMILARITY).transpose(0, 1))


@pytest.mark.parametrize("dims", [(0, 0), (1, 2), (0, None), (None, 0), (None, 2), (3, -1)], ids=str)
def test_attend(dims, backend):
    def attend(x, v):
        return cdam_fast.cdam_attend(x, v, backend=backend, **OPTIONS)

    given = [one[0] if dim is None else one.movedim(0, dim) for one, dim in zip((SIMILARITY[0], VALUES[0]), dims)]
    expected = [one[:1].expand_as(one) if dim is None else one for one, dim in zip((SIMILARITY[0], VALUES[0]), dims)]
    same(torch.vmap(attend, dims)(*given), attend(*expected))


def test_values_of_one_map_go_together(monkeypatch):
    pytest.importorskip("triton", minversion="3.2")
    from cdam_fast.kernels import launch

    seen, attend = [], launch.attend
    monkeypatch.setattr(launch, "attend", lambda x, v, *rest: seen.append((x.shape, v.shape)) or attend(x, v, *rest))
    for size in (1, 3):  # the same way for one alone
        torch.vmap(lambda v: cdam_fast.cdam_attend(SIMILARITY[0, 0], v, backend="triton", **OPTIONS))(VALUES[0, :size])
        assert seen.pop() == ((1, 5, 4, 6), (1, 24, 7 * size))
        assert not seen


@every_metric
@pytest.mark.parametrize("dims", [(0, 0), (2, 1), (0, None), (None, 0), (1, None)], ids=str)
def test_divergence(metric, dims, backend):
    def divergence(p, q):
        return cdam_fast.pairwise_divergence(p, q, metric=metric, backend=backend)

    given = [one[0] if dim is None else one.movedim(0, dim) for one, dim in zip((P[0], Q[0]), dims)]
    expected = [one[:1].expand_as(one) if dim is None else one for one, dim in zip((P[0], Q[0]), dims)]
    same(torch.vmap(divergence, dims)(*given), divergence(*expected))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_divergence_of_all_pairs(dim, backend):
    def divergence(p):
        return cdam_fast.pairwise_divergence(p, backend=backend)

    same(torch.vmap(divergence, dim)(P[0].movedim(0, dim)), divergence(P[0]))
    same(torch.vmap(torch.vmap(divergence))(P), divergence(P))


@pytest.mark.parametrize("q", [None, Q[0]], ids=["symmetric", "rectangular"])
def test_gradients_mapped_over(q):
    """The backward operator, over pairs of one and of many distributions."""
    weights = torch.linspace(-1, 1, 3 * 6 * (6 if q is None else 4)).reshape(3, 6, -1)
    backward = torch.ops.cdam_fast.divergence_backward
    expected = backward(weights, P[0], q, "js")
    for one, whole in zip(
        torch.vmap(lambda w, p: backward(w[None], p[None], q, "js"))(weights, P[0])
        if q is None
        else torch.vmap(lambda w, p, q: backward(w[None], p[None], q[None], "js"))(weights, P[0], q),
        expected,
    ):
        same(one.reshape(whole.shape) if whole.numel() else one[0], whole)


def test_no_images():
    empty = SIMILARITY[0].new_empty(3, 0, 5, 4, 6)
    assert torch.vmap(lambda x: cdam_fast.cdam_attention(x, **OPTIONS))(empty).shape == (3, 0, 24, 24)
