"""torch.vmap over any dims of any inputs: what a call with a batch dim gives, by one call of the operators."""

import pytest
import torch
from cases import clip_rows, every_metric, needs_operators

import cdam_fast
from cdam_fast.testing import clip_like

pytestmark = [needs_operators, pytest.mark.filterwarnings("error:There is a performance drop")]

OPTIONS = {"scales": (0.5, 1.0)}
SIMILARITY, VALUES = clip_like(5, 2, 3, batch=(2, 2)), torch.linspace(-1, 1, 2 * 2 * 6 * 4).reshape(2, 2, 6, 4)
P, Q = clip_rows(6, 5, batch=(2, 2)), clip_rows(4, 5, batch=(2, 2), seed=1)


def map_of(images):
    return images.flatten(2).mT @ images.flatten(2)


@pytest.fixture(params=["portable", "triton"])
def backend(request, monkeypatch):
    """The kernels' operators with something quick in place of the kernels: a batch and no more is what is asked."""
    if request.param == "triton":
        pytest.importorskip("triton", minversion="3.2")
        from cdam_fast.kernels import launch

        monkeypatch.setattr(launch, "attention_map", lambda x, options, dtype: map_of(x).to(dtype))
        monkeypatch.setattr(launch, "attend", lambda x, v, options, dtype: (map_of(x) @ v).to(dtype))
        monkeypatch.setattr(launch, "pairwise_divergence", lambda p, q, metric: torch.cdist(p, p if q is None else q))
    return request.param


def same(result, expected):
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-6)


def test_the_kernels_themselves():
    pytest.importorskip("triton", minversion="3.2")
    one, options = SIMILARITY[0, 0], {"backend": "triton", "scales": (1.0,)}
    mapped = torch.vmap(lambda x: cdam_fast.cdam_attention(x, **options))(one[None])
    assert torch.equal(mapped[0], cdam_fast.cdam_attention(one, **options))


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

    seen = []
    monkeypatch.setattr(launch, "attend", lambda x, v, options, dtype: seen.append((x.shape, v.shape)) or map_of(x) @ v)
    for size in (1, 2):  # the same way for one alone
        torch.vmap(lambda v: cdam_fast.cdam_attend(SIMILARITY[0, 0], v, backend="triton", **OPTIONS))(VALUES[0, :size])
        assert seen.pop() == ((1, 5, 2, 3), (1, 6, 4 * size))
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
    weights = torch.linspace(-1, 1, 2 * 6 * (6 if q is None else 4)).reshape(2, 6, -1)
    backward = torch.ops.cdam_fast.divergence_backward
    expected = backward(weights, P[0], q, "js")
    given = (weights, P[0]) if q is None else (weights, P[0], q)

    def of_one(weights, p, q=None):
        grad_p, grad_q = backward(weights[None], p[None], None if q is None else q[None], "js")
        return grad_p if q is None else (grad_p, grad_q)

    result = torch.vmap(of_one)(*given)
    for one, whole in zip((result,) if q is None else result, expected):
        same(one.squeeze(1), whole)


def test_no_images():
    empty = SIMILARITY[0].new_empty(3, 0, 5, 2, 3)
    assert torch.vmap(lambda x: cdam_fast.cdam_attention(x, **OPTIONS))(empty).shape == (3, 0, 6, 6)
