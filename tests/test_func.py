"""torch.func and dual tensors: what is mapped is right, what is differentiated is refused by name, never zeros."""

import pytest
import torch
from cases import clip_rows, needs_operators
from torch.autograd import forward_ad

import cdam_fast
from cdam_fast import reference
from cdam_fast.testing import MAP_BUDGET, clip_like, largest_error

if not hasattr(torch, "func"):
    pytest.skip("torch.func: torch 2.0", allow_module_level=True)

SIMILARITY, ROWS = clip_like(5, 4, 4), clip_rows(6, 5)
VALUES = torch.linspace(-1, 1, 16 * 3).reshape(16, 3)
FUNCTIONS = {
    "cdam_attention": lambda x, **options: cdam_fast.cdam_attention(x, **options),
    "cdam_attend": lambda x, **options: cdam_fast.cdam_attend(x, VALUES.to(x.dtype), **options),
    "values": lambda v, **options: cdam_fast.cdam_attend(SIMILARITY.to(v.dtype), v, **options),
    "pairwise_divergence": lambda p, **options: cdam_fast.pairwise_divergence(p, **options),
    "second": lambda q, **options: cdam_fast.pairwise_divergence(ROWS.to(q.dtype), q, **options),
}
INPUTS = {
    "cdam_attention": SIMILARITY,
    "cdam_attend": SIMILARITY,
    "values": VALUES,
    "pairwise_divergence": ROWS,
    "second": clip_rows(4, 5),
}
TRANSFORMS = {
    "grad": lambda f, x: torch.func.grad(lambda y: f(y).square().sum())(x),
    "vjp": lambda f, x: torch.func.vjp(f, x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),)),
    "jacrev": lambda f, x: torch.func.jacrev(f)(x),
    "jacfwd": lambda f, x: torch.func.jacfwd(f)(x),
    "hessian": lambda f, x: torch.func.hessian(lambda y: f(y).square().sum())(x),
    "vmap_of_grad": lambda f, x: torch.func.vmap(torch.func.grad(lambda y: f(y).square().sum()))(x[None]),
    "grad_of_vmap": lambda f, x: torch.func.grad(lambda y: torch.func.vmap(f)(y).square().sum())(x[None]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_derivatives_are_refused_by_name(name, transform, dtype):
    with pytest.raises(RuntimeError, match=r"^torch\.func of cdam_fast: got a tensor that torch\.func\.grad"):
        TRANSFORMS[transform](FUNCTIONS[name], INPUTS[name].to(dtype))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("backend", ["auto", "portable", "triton"])
def test_dual_tensors_are_refused_by_name(name, backend):
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(INPUTS[name], torch.ones_like(INPUTS[name]))
        with pytest.raises(RuntimeError, match=r"^torch\.autograd\.forward_ad of cdam_fast: got a dual tensor"):
            FUNCTIONS[name](dual, backend=backend)


def test_the_reference_takes_dual_tensors():
    similarity, step = clip_like(5, 4, 4).double(), torch.randn(5, 4, 4, dtype=torch.float64)
    with forward_ad.dual_level():
        result = cdam_fast.cdam_attention(forward_ad.make_dual(similarity, step), backend="reference")
        tangent = forward_ad.unpack_dual(result).tangent
    ahead, behind = (reference.cdam_attention(similarity + sign * 1e-7 * step) for sign in (1, -1))
    torch.testing.assert_close(tangent, (ahead - behind) / 2e-7, rtol=1e-4, atol=1e-4)


def test_the_reference_goes_through():
    similarity, step = clip_like(5, 4, 4).double(), torch.randn(5, 4, 4, dtype=torch.float64)
    _, tangent = torch.func.jvp(lambda x: cdam_fast.cdam_attention(x, backend="reference"), (similarity,), (step,))
    ahead, behind = (reference.cdam_attention(similarity + sign * 1e-7 * step) for sign in (1, -1))
    torch.testing.assert_close(tangent, (ahead - behind) / 2e-7, rtol=1e-4, atol=1e-4)


@needs_operators
@pytest.mark.parametrize("name", ["cdam_attention", "pairwise_divergence"])
def test_derivatives_with_respect_to_something_else(name):
    """What a transform makes is wrapped, and nothing of it may be kept for later calls."""
    one, factor = INPUTS[name] * 1.01, torch.tensor(2.0)
    gradient = torch.func.grad(lambda y: (FUNCTIONS[name](one) * y).sum())(factor)
    torch.testing.assert_close(gradient, FUNCTIONS[name](one).sum())


@needs_operators
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_maps_are_those_of_a_loop(name):
    one = INPUTS[name]
    batch = torch.stack((one, one.flip(0)))
    mapped = torch.func.vmap(FUNCTIONS[name])(batch)
    assert largest_error(mapped, torch.stack([FUNCTIONS[name](x) for x in batch]).double()) <= MAP_BUDGET
