"""torch.func and second derivatives: what goes through is right, the rest is refused by name, never zeros."""

import pytest
import torch
from cases import clip_rows, needs_kernels, needs_operators
from torch.autograd import forward_ad

import cdam_fast
from cdam_fast import reference
from cdam_fast.testing import MAP_BUDGET, clip_like

if not hasattr(torch, "func"):
    pytest.skip("torch.func: torch 2.0", allow_module_level=True)

# torch.vmap calls an operator once
pytestmark = pytest.mark.filterwarnings("error:There is a performance drop")

SCALES = (0.5, 1.0)
SIMILARITY, ROWS = clip_like(5, 4, 4), clip_rows(6, 5)
VALUES = torch.linspace(-1, 1, 16 * 3).reshape(16, 3)
FUNCTIONS = {
    "cdam_attention": lambda x, **options: cdam_fast.cdam_attention(x, scales=SCALES, **options),
    "cdam_attend": lambda x, **options: cdam_fast.cdam_attend(x, VALUES.to(x.dtype), scales=SCALES, **options),
    "values": lambda v, **options: cdam_fast.cdam_attend(SIMILARITY.to(v.dtype), v, scales=SCALES, **options),
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
BACKENDS = [("portable", torch.float64), ("portable", torch.float32), ("triton", torch.float32)]
every_function = pytest.mark.parametrize("name", FUNCTIONS)
every_backend = pytest.mark.parametrize(
    ("backend", "dtype"),
    [pytest.param(*one, marks=needs_kernels if one[0] == "triton" else ()) for one in BACKENDS],
    ids=lambda value: str(value),
)


def batch_of(name, dtype=torch.float32):
    one = INPUTS[name].to(dtype)
    return torch.stack((one, one.flip(0)))


def taken_by(name, backend):
    if backend == "triton":
        pytest.importorskip("triton", minversion="3.2")
    function = FUNCTIONS[name]

    def loss(x):
        result = function(x, backend=backend)
        weights = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view(result.shape)
        return (result * weights).square().sum()

    return loss


# --- First derivatives ------------------------------------------------------------------------------------------


def by_autograd_of_vmap(loss, batch):
    leaf = batch.clone().requires_grad_()
    return torch.autograd.grad(torch.vmap(loss)(leaf).sum(), leaf)[0]


OF_A_BATCH = {
    "vmap_of_grad": lambda loss, batch: torch.vmap(torch.func.grad(loss))(batch),
    "grad_of_vmap": lambda loss, batch: torch.func.grad(lambda x: torch.vmap(loss)(x).sum())(batch),
    "autograd_of_vmap": by_autograd_of_vmap,
    "grad": lambda loss, batch: torch.stack([torch.func.grad(loss)(x) for x in batch]),
    "vjp": lambda loss, batch: torch.stack([torch.func.vjp(loss, x)[1](torch.ones_like(loss(x)))[0] for x in batch]),
}


@needs_operators
@every_function
@pytest.mark.parametrize("transform", OF_A_BATCH)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_gradients_are_the_reference_s(name, transform, dtype):
    assert_gradients(name, transform, "portable", dtype)


@needs_operators
@pytest.mark.parametrize("name", ["cdam_attend", "second"])
@pytest.mark.parametrize("transform", ["vmap_of_grad", "grad_of_vmap", "autograd_of_vmap"])
def test_gradients_of_the_kernels_are_the_reference_s(name, transform):
    assert_gradients(name, transform, "triton", torch.float32)


def assert_gradients(name, transform, backend, dtype):
    """Per-sample gradients among them."""
    leaf = batch_of(name, torch.float64).requires_grad_()
    exact = taken_by(name, "reference")
    (expected,) = torch.autograd.grad(sum(exact(x) for x in leaf), leaf)
    result = OF_A_BATCH[transform](taken_by(name, backend), batch_of(name, dtype))
    assert result.dtype == dtype
    error = float((result.double() - expected).norm() / expected.norm())
    assert error <= (MAP_BUDGET if dtype == torch.float32 else 1e-11)


@needs_operators
@every_function
def test_jacobians_are_the_reference_s(name):
    one = INPUTS[name].double()
    expected = torch.func.jacrev(lambda x: FUNCTIONS[name](x, backend="reference"))(one)
    result = torch.func.jacrev(FUNCTIONS[name])(one)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-11 * float(expected.abs().max()))


@needs_operators
@pytest.mark.parametrize("name", ["cdam_attention", "pairwise_divergence"])
def test_derivatives_with_respect_to_something_else(name):
    """What a transform makes is wrapped, and nothing of it may be kept for later calls."""
    one, factor = INPUTS[name] * 1.01, torch.tensor(2.0)
    gradient = torch.func.grad(lambda y: (FUNCTIONS[name](one) * y).sum())(factor)
    torch.testing.assert_close(gradient, FUNCTIONS[name](one).sum())
    _, tangent = torch.func.jvp(lambda y: FUNCTIONS[name](one) * y, (factor,), (factor,))
    torch.testing.assert_close(tangent, FUNCTIONS[name](one) * factor)


# --- Second derivatives, and forward ones -----------------------------------------------------------------------


FORWARD = {
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),)),
    "jacfwd": lambda f, x: torch.func.jacfwd(f)(x),
    "hessian": lambda f, x: torch.func.hessian(lambda y: f(y).square().sum())(x),
    "vmap_of_jvp": lambda f, x: torch.vmap(lambda y: torch.func.jvp(f, (y,), (y,)))(x[None]),
    "jvp_of_vmap": lambda f, x: torch.func.jvp(torch.vmap(f), (x[None],), (x[None],)),
}


@needs_operators
@every_function
@pytest.mark.parametrize("transform", FORWARD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_forward_derivatives_are_refused_by_name(name, transform, dtype):
    with pytest.raises(RuntimeError, match=r"^torch\.func of cdam_fast: got a tensor that torch\.func\.jvp"):
        FORWARD[transform](FUNCTIONS[name], INPUTS[name].to(dtype))


@every_function
@pytest.mark.parametrize("backend", ["auto", "portable", "triton"])
def test_dual_tensors_are_refused_by_name(name, backend):
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(INPUTS[name], torch.ones_like(INPUTS[name]))
        with pytest.raises(RuntimeError, match=r"^torch\.autograd\.forward_ad of cdam_fast: got a dual tensor"):
            FUNCTIONS[name](dual, backend=backend)


REFUSED_TWICE = r"torch\.autograd of cdam_fast: got a second derivative"


@pytest.mark.parametrize("name", ["cdam_attention", "cdam_attend", "pairwise_divergence", "second"])
@every_backend
def test_second_derivatives_are_refused_by_name(name, backend, dtype):
    leaf, loss = INPUTS[name].to(dtype).requires_grad_(), taken_by(name, backend)
    (first,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=REFUSED_TWICE):
        torch.autograd.grad(first.square().sum(), leaf)


def test_gradgradcheck_is_refused_by_name():
    leaf = INPUTS["pairwise_divergence"].double().requires_grad_()
    with pytest.raises(RuntimeError, match=REFUSED_TWICE):
        torch.autograd.gradgradcheck(taken_by("pairwise_divergence", "portable"), leaf)


@needs_operators
@pytest.mark.parametrize("name", ["cdam_attention", "pairwise_divergence"])
def test_gradients_of_gradients_are_refused_by_name(name):
    loss = taken_by(name, "portable")
    for twice in (lambda x: torch.func.grad(loss)(x).sum(), lambda x: torch.vmap(torch.func.grad(loss))(x[None]).sum()):
        with pytest.raises(RuntimeError, match=REFUSED_TWICE):
            torch.func.grad(twice)(INPUTS[name])


@every_backend
def test_a_second_derivative_that_takes_one_of_each(backend, dtype):
    """Of values and similarity: neither is differentiated twice."""
    if backend == "triton":
        pytest.importorskip("triton", minversion="3.2")

    def mixed(backend, dtype):
        x, v = SIMILARITY.to(dtype).requires_grad_(), VALUES.to(dtype).requires_grad_()
        loss = cdam_fast.cdam_attend(x, v, scales=SCALES, backend=backend).sum()
        (first,) = torch.autograd.grad(loss, v, create_graph=True)
        return torch.autograd.grad((first * v.detach()).sum(), x)[0].double()

    expected = mixed("reference", torch.float64)
    assert float((mixed(backend, dtype) - expected).norm() / expected.norm()) <= MAP_BUDGET


def test_the_reference_takes_second_derivatives():
    leaf = INPUTS["pairwise_divergence"].double().requires_grad_()
    assert torch.autograd.gradgradcheck(taken_by("pairwise_divergence", "reference"), leaf)


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
