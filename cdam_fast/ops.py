"""Operators of the Triton backend: schemas, fakes, gradients, and what the kernels can serve.

Triton and `cdam_fast.kernels` are imported by the first call, not by this module.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from cdam_fast import compat, opaque, portable
from cdam_fast.arguments import MapOptions, working_similarity
from cdam_fast.constants import scaled_grid
from cdam_fast.divergence import divergence_backward
from cdam_fast.tracing import as_batch, is_compiling, is_differentiated, is_traced

OLDEST_TRITON = (3, 2)
OLDEST_CAPABILITY = (7, 5)
LARGEST_MAP = 8192
"""Most patches of a map: the kernels hold whole rows of it."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32)

_OPTIONS = (
    "float[] scales, float temperature, float attention_temperature, str metric, str order, bool minmax_before, "
    "bool minmax_after, ScalarType out_dtype"  # torch.jit.trace takes no list of bool
)


# --- What the kernels serve -------------------------------------------------------------------------------------


def refusal(tensor: Tensor, patches: int = 0) -> str | None:
    """Why the kernels cannot serve a tensor, and a map of so many patches; None where they can.

    What needs a look at the machine is left to the first call while torch.compile traces.
    """
    if tensor.dtype not in DTYPES:
        return f"got {tensor.dtype} input, takes float16, bfloat16 or float32; 'portable' takes float64"
    if patches > LARGEST_MAP:
        return f"got a map of {patches} patches, takes {LARGEST_MAP} at most; 'portable' takes more"
    return None if is_compiling() else _refusal_of_device(tensor.device)


@cache
def _refusal_of_device(device: torch.device) -> str | None:
    if compat.TORCH < compat.OLDEST_OF_KERNELS:
        return f"got torch {compat.version()}, takes torch 2.6 or newer with Triton 3.2 or newer"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; takes triton 3.2 or newer"
    version = _triton_version()
    if tuple(int(number) for number in re.findall(r"\d+", version)[:2]) < OLDEST_TRITON:
        return f"got Triton {version}, takes 3.2 or newer"
    if device.type == "cpu":
        return None if _interpreted() else "got CPU tensors, takes GPU tensors (or TRITON_INTERPRET=1, for tests)"
    if device.type not in ("cuda", "xpu"):
        return f"got {device.type} tensors, takes CUDA, ROCm or XPU tensors"
    if device.type == "cuda" and torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device)
        if capability < OLDEST_CAPABILITY:
            return f"got a GPU of compute capability {capability[0]}.{capability[1]}, takes 7.5 or newer"
    return None


def _triton_version() -> str:
    """Of the module: its distribution has other names on ROCm, on XPU and in nightly builds."""
    return str(importlib.import_module("triton").__version__)


def _interpreted() -> bool:
    return bool(_launch().INTERPRETED)


@cache
def _launch() -> Any:
    """The kernels' host side; what is imported already costs a call a microsecond otherwise."""
    from cdam_fast.kernels import launch

    return launch


# --- The attention map ------------------------------------------------------------------------------------------


def cdam_attention(similarity: Tensor, options: MapOptions, out_dtype: torch.dtype) -> Tensor:
    """``[..., C, h, w]`` -> ``[..., N, N]`` in out_dtype; differentiable once, stage by stage."""
    images = as_batch(similarity, 3)
    if _is_plain(similarity):
        maps: Tensor = _launch().attention_map(images, _kernel_options(*images.shape[2:], options), out_dtype)
    elif is_differentiated(similarity):
        # the kernels that keep nothing for a backward pass leave all but the divergence to PyTorch
        divergence = pairwise_divergence if options.metric == "js" else portable.pairwise_divergence
        return portable.cdam_attention(working_similarity(similarity), options, divergence).to(out_dtype)
    else:
        maps = _map_operator(images, *_plain(options), out_dtype)
    return maps if images is similarity else maps.reshape(*similarity.shape[:-3], *maps.shape[1:])


def choices(similarity: Tensor, options: MapOptions, target: str | None, default: str) -> tuple[str, Any]:
    """The target, and the path of each image and scale of ``[B, C, h, w]`` there; None where the metric has but one.

    A target of None is the tensor's device, and the default where that is no GPU.
    """
    own = _target_of(similarity.device)
    chosen = target or (default if own == "cpu" else own)
    if options.metric != "js":
        return chosen, None
    return chosen, _launch().choices(similarity, _kernel_options(*similarity.shape[2:], options), chosen)


def _target_of(device: torch.device) -> str:
    from cdam_fast.kernels import configurations

    return str(configurations.target_of(device))


def cdam_attend(similarity: Tensor, values: Tensor, options: MapOptions, out_dtype: torch.dtype) -> Tensor:
    """The map applied to ``values [..., N, D]``; without an N x N tensor where that would be large and no gradient."""
    images, flat = as_batch(similarity, 3), as_batch(values, 2)
    if _is_plain(similarity, values):
        kernel_options = _kernel_options(*images.shape[2:], options)
        result: Tensor = _launch().attend(images, flat, kernel_options, out_dtype)
    elif is_differentiated(similarity, values):
        attention = cdam_attention(similarity, options, torch.float32)
        return (attention @ values.to(torch.float32)).to(out_dtype)
    else:
        result = _attend_operator(images, flat, *_plain(options), out_dtype)
    return result if images is similarity else result.reshape(*similarity.shape[:-3], *result.shape[1:])


def pairwise_divergence(p: Tensor, q: Tensor | None = None, *, metric: str) -> Tensor:
    """``p [..., N, C]``, ``q [..., M, C]`` -> ``[..., N, M]`` in p's dtype; differentiable once."""
    flat_p, flat_q = as_batch(p, 2), None if q is None else as_batch(q, 2)
    plain = _is_plain(p, q)
    result: Tensor = (_divergence if plain else _divergence_operator)(flat_p, flat_q, metric)
    return result if flat_p is p else result.reshape(*p.shape[:-2], *result.shape[1:])


def _is_plain(*tensors: Tensor | None) -> bool:
    """Whether neither autograd nor a tracer needs to see an operator, which costs 0.1 ms."""
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        return False
    return not is_traced(*tensors)


def _plain(options: MapOptions) -> tuple[Any, ...]:
    scales, temperature, attention_temperature, metric, order, (before, after) = options  # torch 2.6 traces no slice
    return scales, temperature, attention_temperature, metric, order, before, after


def _from_plain(
    similarity: Tensor,
    scales: Sequence[float],
    temperature: float,
    attention_temperature: float,
    metric: str,
    order: str,
    before: bool,
    after: bool,
) -> Any:
    """The kernels' options for a similarity, from what an operator is given."""
    options = MapOptions(tuple(scales), temperature, attention_temperature, metric, order, (before, after))
    return _kernel_options(*similarity.shape[2:], options)


@lru_cache(maxsize=256)
def _kernel_options(height: int, width: int, options: MapOptions) -> Any:
    return _launch().Options(tuple(scaled_grid(height, width, scale) for scale in options.scales), *options[1:])


def _map(similarity: Tensor, *options: Any) -> Tensor:
    result: Tensor = _launch().attention_map(similarity, _from_plain(similarity, *options[:-1]), options[-1])
    return result


def _fake_map(similarity: Tensor, *options: Any) -> Tensor:
    batch, _, height, width = similarity.shape
    return similarity.new_empty(batch, height * width, height * width, dtype=options[-1])


_map_operator = opaque.operator("triton_map", f"(Tensor similarity, {_OPTIONS}) -> Tensor", _map, _fake_map)


def _attend(similarity: Tensor, values: Tensor, *options: Any) -> Tensor:
    result: Tensor = _launch().attend(similarity, values, _from_plain(similarity, *options[:-1]), options[-1])
    return result


def _fake_attend(similarity: Tensor, values: Tensor, *options: Any) -> Tensor:
    return values.new_empty(values.shape, dtype=options[-1])


def _attend_over(operator: Any, size: int, in_dims: Sequence[int | None], *inputs: Any) -> tuple[Tensor, int]:
    """The rule of torch.vmap: one map serves all values that are mapped over it, as columns side by side."""
    if in_dims[0] is not None:
        return cast("tuple[Tensor, int]", opaque.over_batch(operator, size, in_dims, *inputs))
    similarity, values, *options = inputs
    columns = values.movedim(in_dims[1], -1)  # [B, N, D, size]
    result: Tensor = operator(similarity, columns.flatten(2), *options)
    return result.reshape(columns.shape), 3


_attend_operator = opaque.operator(
    "triton_attend",
    f"(Tensor similarity, Tensor values, {_OPTIONS}) -> Tensor",
    _attend,
    _fake_attend,
    over=_attend_over,
)


# --- Divergence -------------------------------------------------------------------------------------------------


def _divergence(p: Tensor, q: Tensor | None, metric: str) -> Tensor:
    result: Tensor = _launch().pairwise_divergence(p, q, metric)
    return result


def _fake_divergence(p: Tensor, q: Tensor | None, metric: str) -> Tensor:
    return p.new_empty(p.shape[0], p.shape[1], p.shape[1] if q is None else q.shape[1])


def _divergence_setup(ctx: Any, inputs: tuple[Tensor, Tensor | None, str], output: Tensor) -> None:
    p, q, ctx.metric = inputs
    ctx.save_for_backward(p, q)


def _divergence_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
    p, q = ctx.saved_tensors
    second = None if q is None else q.float()
    grad_p, grad_q = divergence_backward(grad.float(), p.float(), second, ctx.metric)
    return grad_p.to(p.dtype), None if q is None else grad_q.to(q.dtype), None


_divergence_operator = opaque.operator(
    "triton_divergence",
    "(Tensor p, Tensor? q, str metric) -> Tensor",
    _divergence,
    _fake_divergence,
    _divergence_setup,
    _divergence_gradient,
)
