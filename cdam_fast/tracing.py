"""Whether something watches operations, so that values must not choose what is computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cdam_fast.compat import is_compiling, require_operators

__all__ = ["as_batch", "is_compiling", "is_traced"]


def is_traced(*tensors: Tensor | None) -> bool:
    """Whether a tracer, a transform of torch.func or a dispatch mode sees what is done with these tensors.

    A tracer keeps the branch that its example took, and a transform's tensors have no values to look at.

    Raises:
        RuntimeError: torch is too old for the operators that they would need.
    """
    internals: Any = torch._C
    if is_compiling():
        return True
    if internals._get_tracing_state() is not None:
        require_operators("torch.jit.trace")
        return True
    modes = getattr(internals, "_len_torch_dispatch_stack", None)  # since torch 2.1
    if modes is not None and modes() > 0:
        return True
    wrapped = getattr(getattr(internals, "_functorch", None), "is_functorch_wrapped_tensor", None)
    given = [tensor for tensor in tensors if tensor is not None]
    if wrapped is not None and any(map(wrapped, given)):
        require_operators("torch.func")
        return True
    return any(type(tensor) not in (Tensor, nn.Parameter) for tensor in given)


def as_batch(tensor: Tensor, dims: int) -> Tensor:
    """Leading dims flattened to one, in front of so many others; sizes may be symbols."""
    return tensor.unsqueeze(0) if tensor.dim() == dims else tensor.flatten(0, -dims - 1)
