"""Whether something watches operations, so that values must not choose what is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from cdam_fast.compat import TORCH, is_compiling, require_operators

__all__ = ["as_batch", "is_compiling", "is_differentiated", "is_traced", "refuse_forward_gradients"]

_internals: Any = torch._C
_functorch: Any = getattr(_internals, "_functorch", None)
_tracing_state: Callable[[], Any] = _internals._get_tracing_state
_count_modes: Callable[[], int] | None = getattr(_internals, "_len_torch_dispatch_stack", None)  # since torch 2.1
_forward_ad: Any = forward_ad
_is_transforming: Callable[[], bool] = getattr(_internals, "_are_functorch_transforms_active", lambda: False)  # 2.0
_pyfunctorch: Any = getattr(getattr(torch, "_functorch", None), "pyfunctorch", None)
_Transform: Any = getattr(_functorch, "TransformType", None)


def is_traced(*tensors: Tensor | None) -> bool:
    """Whether a tracer, a transform of torch.func or a dispatch mode sees what is done with these tensors.

    A tracer keeps the branch that its example took, and a transform's tensors have no values to look at.

    Raises:
        RuntimeError: torch is too old for the operators that they would need.
    """
    if is_compiling():
        return True
    if _tracing_state() is not None:
        require_operators("torch.jit.trace")
        return True
    if _count_modes is not None and _count_modes() > 0:
        return True
    if _is_transforming():  # whatever is made there, they wrap
        require_operators("torch.func")
        return True
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) is not Tensor and type(tensor) is not nn.Parameter:
            return True
    return False


def is_differentiated(*tensors: Tensor | None) -> bool:
    """Whether torch.autograd, or torch.func.grad, follows one of the tensors.

    A tensor that torch.vmap maps over does not say so itself; what it wraps does.
    """
    if not torch.is_grad_enabled():
        return False
    if any(tensor is not None and tensor.requires_grad for tensor in tensors):
        return True
    if not _is_transforming():
        return False
    if is_compiling():  # which does not look into what is mapped
        return True
    return any(level.requires_grad for tensor in tensors for level in _wrapped(tensor))


def is_under_func_grad() -> bool:
    """Whether torch.func.grad, vjp or what is made of them is under way, whose gradients no operator has."""
    if is_compiling() or not _is_transforming():
        return False
    return any(transform.key() == _Transform.Grad for transform in _functorch.get_interpreter_stack())


def refuse_forward_gradients(*tensors: Tensor | None) -> None:
    """Derivatives go backward: forward they would be PyTorch's own error, or zeros without a word.

    Raises:
        RuntimeError: torch.func.jvp or what is made of it (jacfwd, hessian) tracks one of the tensors, or it is a dual
            tensor of torch.autograd.forward_ad; torch.compile of a function that torch.func.grad is in.
    """
    if _is_transforming():
        if is_compiling():
            # what an older compiler cannot tell apart ends in PyTorch's own error
            if TORCH >= (2, 14) and _pyfunctorch.retrieve_current_functorch_interpreter().key() == _Transform.Grad:
                raise RuntimeError(
                    "torch.compile of cdam_fast: got torch.func.grad or vjp in the function, takes "
                    "torch.autograd.grad of a compiled function, torch.func.vmap, or torch.func.grad uncompiled"
                )
        elif _is_tracked_forward(*tensors):
            raise RuntimeError(
                "torch.func of cdam_fast: got a tensor that torch.func.jvp or a function made of it (jacfwd, hessian) "
                "tracks, takes torch.func.grad, vjp, jacrev and vmap, or backend='reference' under any of them"
            )
    if has_tangents(*tensors):
        raise RuntimeError(
            "torch.autograd.forward_ad of cdam_fast: got a dual tensor, takes torch.autograd.grad, or "
            "backend='reference' with dual tensors"
        )


def _is_tracked_forward(*tensors: Tensor | None) -> bool:
    forward = {one.level() for one in _functorch.get_interpreter_stack() if one.key() == _Transform.Jvp}
    return any(_functorch.maybe_get_level(level) in forward for tensor in tensors for level in _wrapped(tensor))


def _wrapped(tensor: Tensor | None) -> Iterator[Any]:
    """A tensor and what the transforms of torch.func wrapped in it, from the innermost transform to none."""
    level: Any = tensor
    while level is not None:
        yield level
        level = _functorch.get_unwrapped(level) if _functorch.is_functorch_wrapped_tensor(level) else None


def has_func_gradients(*tensors: Tensor | None) -> bool:
    """Whether torch.func.grad, jvp or what is made of them tracks one of the tensors."""
    if is_compiling() or not _is_transforming():
        return False
    return any(_functorch.is_gradtrackingtensor(level) for tensor in tensors for level in _wrapped(tensor))


def has_tangents(*tensors: Tensor | None) -> bool:
    """Whether one of the tensors is a dual tensor of torch.autograd.forward_ad."""
    if getattr(_forward_ad, "_current_level", 0) < 0:  # spares a call 2 microseconds
        return False
    return any(tensor is not None and _forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def as_batch(tensor: Tensor, dims: int) -> Tensor:
    """Leading dims flattened to one, in front of so many others; sizes may be symbols."""
    given = tensor.dim()
    if given == dims + 1:
        return tensor
    return tensor.unsqueeze(0) if given == dims else tensor.flatten(0, -dims - 1)


def refuse_jit(what: str) -> None:
    """Raise RuntimeError under torch.jit.trace, which would keep the sizes of its example for other inputs."""
    if torch._C._get_tracing_state() is not None:
        raise RuntimeError(
            f"torch.jit.trace of cdam_fast: got {what}, of which it would keep the example's patch grid; takes the "
            "other backends without gradients (torch.compile and torch.export take all)"
        )
