"""What differs between versions of PyTorch, in one place: its newer interfaces, and what stands in for them.

From torch 1.13.1 on the functions, their gradients and the segmenter work. What an older torch cannot do at all
(torch.compile and torch.export of the functions, the kernels) is refused here by name.
"""

from __future__ import annotations

import contextlib
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

TORCH = tuple(int(number) for number in re.findall(r"\d+", str(torch.__version__))[:2])
"""Major and minor number of the installed torch."""

OLDEST_OF_KERNELS = (2, 6)
"""The torch that carries Triton 3.2, the oldest that compiles the kernels."""

HAS_OPERATORS = TORCH >= OLDEST_OF_KERNELS
"""Custom operators, through which torch.compile and torch.export see each divergence as one step. The first torch with
them, 2.4, has a compiler that fails at the map."""

OutOfMemoryError: type[RuntimeError] = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)
"""torch.OutOfMemoryError (2.5), of any device; before, CUDA's alone."""


def version() -> str:
    """Of the installed torch, for messages: ``2.3.1``."""
    return str(torch.__version__).partition("+")[0]


# --- Tracing ------------------------------------------------------------------------------------------------------


_is_tracing: Callable[[], bool] = (
    getattr(getattr(torch, "compiler", None), "is_compiling", None)  # torch 2.3
    or getattr(torch._utils, "is_compiling", None)
    or (lambda: False)  # torch.compile, if there is any, then breaks its graph and is right
)


def is_compiling() -> bool:
    """Whether torch.compile or torch.export traces.

    Raises:
        RuntimeError: it does, and torch is too old for the operators that it would need.
    """
    if HAS_OPERATORS:
        return bool(torch.compiler.is_compiling())
    if _is_tracing():
        require_operators("torch.compile and torch.export")
    return False


def require_operators(tracer: str) -> None:
    """Raise RuntimeError where torch has none of the operators that a tracer or a transform must see."""
    if not HAS_OPERATORS:
        raise RuntimeError(f"{tracer} of cdam_fast: got torch {version()}, takes 2.6 or newer")


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """torch.compile of the function; where there is none, for this torch or this Python, its call says so."""
    try:
        result: Callable[..., Any] = torch.compile(function, **options)
        return result
    except AttributeError:
        reason = f"torch.compile: got torch {version()}, takes 2.0 or newer"
    except RuntimeError as error:
        reason = str(error)

    def refuse(*arguments: Any, **named: Any) -> Any:
        raise RuntimeError(reason)

    return refuse


# --- Tensors and functions ----------------------------------------------------------------------------------------


def refusal_of_dtype(dtype: torch.dtype, device_type: str) -> str | None:
    """Why a model cannot run in this dtype there; None where it can."""
    if dtype == torch.float16 and device_type == "cpu" and TORCH < (2, 3):
        return f"got float16 on a CPU with torch {version()}, takes torch 2.3 or newer, or float32 or bfloat16"
    return None


_UNCHANGED = contextlib.nullcontext()


def without_autocast(device_type: str) -> contextlib.AbstractContextManager[Any]:
    """Arithmetic in the dtypes that are written, whatever autocast surrounds it."""
    if TORCH >= (2, 4) and not is_compiling():  # before, each kind of device had a question of its own
        try:
            if not torch.is_autocast_enabled(device_type):
                return _UNCHANGED
        except RuntimeError:
            return _UNCHANGED
    try:
        return torch.autocast(device_type, enabled=False)
    except (RuntimeError, AssertionError):  # there is none on such a device, and nothing to switch off
        return contextlib.nullcontext()


def scaled_dot_product_attention(
    queries: Tensor, keys: Tensor, values: Tensor, *, scale: float | None = None, bias: Tensor | None = None
) -> Tensor:
    """``softmax(q k^T s + bias) v`` over the last two dims; scale None is ``head_dim^-0.5``, bias None no bias."""
    if TORCH >= (2, 1):
        return functional.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, scale=scale)
    rate = queries.shape[-1] ** -0.5 if scale is None else scale
    scores = queries * rate @ keys.mT
    return torch.softmax(scores if bias is None else scores + bias, dim=-1) @ values


def functional_call(module: torch.nn.Module, state: dict[str, Tensor], **arguments: Any) -> Any:
    """``module(**arguments)`` with other parameters and buffers."""
    if TORCH >= (2, 0):
        return torch.func.functional_call(module, state, (), arguments)
    from torch.nn.utils import stateless

    return stateless.functional_call(module, state, (), arguments)


def load_tensors(path: Path) -> Any:
    """``torch.load(weights_only=True)`` on the CPU.

    Before torch 2.6 it can run code (CVE-2025-32434): what 2.6 refuses is refused there too.

    Raises:
        pickle.UnpicklingError: TorchScript, which it would hand to torch.jit.load, or a tar file, as of before 2017.
            RuntimeError from torch 2.6 on.
    """
    if TORCH < (2, 6):
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"  # as torch tells the formats apart
        if zipped and "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
            raise pickle.UnpicklingError
        if tarfile.is_tarfile(path):
            raise pickle.UnpicklingError
    return torch.load(path, map_location="cpu", weights_only=True)
