"""Whether something watches operations, so that values must not choose what is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from cdam_fast.compat import is_compiling, require_operators

__all__ = ["as_batch", "is_compiling", "is_traced", "refuse_func_gradients"]

_internals: Any = torch._C
_functorch: Any = getattr(_internals, "_functorch", None)
_tracing_state: Callable[[], Any] = _internals._get_tracing_state
_count_modes: Callable[[], int] | None = getattr(_internals, "_len_torch_dispatch_stack", None)  # since torch 2.1
_forward_ad: Any = forward_ad
_transforms: Callable[[], Any] | None = getattr(_functorch, "peek_interpreter_stack", None)  # since torch 2.0


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
    if _transforms is not None and _transforms() is not None:  # whatever is made there, they wrap
        require_operators("torch.func")
        return True
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) is not Tensor and type(tensor) is not nn.Parameter:
            return True
    return False


def refuse_func_gradients(*tensors: Tensor | None) -> None:
    """Derivatives are those of torch.autograd.grad: others would be PyTorch's own error, or zeros without a word.

    Raises:
        RuntimeError: torch.func.grad, jvp or what is made of them (jacrev, jacfwd, hessian) tracks one of the tensors,
            or it is a dual tensor of torch.autograd.forward_ad.
    """
    if has_func_gradients(*tensors):
        raise RuntimeError(
            "torch.func of cdam_fast: got a tensor that torch.func.grad, jvp or a function made of them "
            "tracks, takes torch.autograd.grad, torch.func.vmap, or cdam_fast.reference under any of them"
        )
    if has_tangents(*tensors):
        raise RuntimeError(
            "torch.autograd.forward_ad of cdam_fast: got a dual tensor, takes torch.autograd.grad, or "
            "cdam_fast.reference with dual tensors"
        )


def has_func_gradients(*tensors: Tensor | None) -> bool:
    """Whether torch.func.grad, jvp or what is made of them tracks one of the tensors."""
    if is_compiling() or _transforms is None or _transforms() is None:
        return False
    for tensor in tensors:
        level: Any = tensor
        while level is not None and _functorch.is_functorch_wrapped_tensor(level):
            if _functorch.is_gradtrackingtensor(level):
                return True
            level = _functorch.get_unwrapped(level)
    return False


def has_tangents(*tensors: Tensor | None) -> bool:
    """Whether one of the tensors is a dual tensor of torch.autograd.forward_ad."""
    if getattr(_forward_ad, "_current_level", 0) < 0 or is_compiling():  # the first spares a call 2 microseconds
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
