"""Whether something watches operations, so that values must not choose what is computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def is_compiling() -> bool:
    """Whether torch.compile or torch.export traces."""
    compiler: Any = getattr(torch, "compiler", None)
    return bool(compiler is not None and compiler.is_compiling())


def is_traced(*tensors: Tensor | None) -> bool:
    """Whether a tracer, a transform of torch.func or a dispatch mode sees what is done with these tensors.

    A tracer keeps the branch that its example took, and a transform's tensors have no values to look at.
    """
    internals: Any = torch._C
    if is_compiling() or internals._get_tracing_state() is not None:
        return True
    modes = getattr(internals, "_len_torch_dispatch_stack", None)  # since torch 2.1
    if modes is not None and modes() > 0:
        return True
    wrapped = getattr(getattr(internals, "_functorch", None), "is_functorch_wrapped_tensor", None)
    return any(
        tensor is not None and (type(tensor) not in (Tensor, nn.Parameter) or (wrapped is not None and wrapped(tensor)))
        for tensor in tensors
    )


def as_batch(tensor: Tensor, dims: int) -> Tensor:
    """Leading dims flattened to one, in front of so many others; sizes may be symbols."""
    return tensor.unsqueeze(0) if tensor.dim() == dims else tensor.flatten(0, -dims - 1)
