"""The kernels as operators of this build's own namespace, and what they can serve."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._ops import add_op_namespace_prefix, ops
from .arguments import MapOptions, _names
from .ops import (
    _OPTIONS,
    DTYPES,
    LARGEST_MAP,
    _attend,
    _divergence,
    _fake_attend,
    _fake_divergence,
    _fake_map,
    _kernel_options,
    _launch,
    _map,
    _plain,
    _refusal_of_device,
)
from .tracing import as_batch, has_func_gradients, has_tangents, is_compiling, is_traced

# --- What the kernels serve -------------------------------------------------------------------------------------


def check_dtype(name: str, value: object) -> None:
    """Raise TypeError for a tensor of a dtype that is not served."""
    if isinstance(value, Tensor) and value.dtype not in DTYPES:
        raise TypeError(f"{name}: got dtype {value.dtype}, takes {_names(DTYPES)}")


def check_served(patches: int = 0, **tensors: Tensor | None) -> None:
    """Raise ValueError or RuntimeError for checked arguments, and a map of so many patches, that are not served."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        tracked = tensor.requires_grad and torch.is_grad_enabled()
        if tracked or has_func_gradients(tensor) or has_tangents(tensor):
            raise ValueError(
                f"{name}: got a tensor that requires gradients, takes one without (detached, or under "
                "torch.no_grad()); the kernels have no derivatives"
            )
    name, first = next((name, tensor) for name, tensor in tensors.items() if tensor is not None)
    if patches > LARGEST_MAP:
        raise ValueError(f"{name}: got a map of {patches} patches, takes {LARGEST_MAP} at most")
    reason = None if is_compiling() else _refusal_of_device(first.device)
    if reason is not None:
        raise RuntimeError(f"{name}: {reason}")


# --- Operators --------------------------------------------------------------------------------------------------


@torch.library.custom_op(
    add_op_namespace_prefix("attention"), mutates_args=(), schema=f"(Tensor similarity, {_OPTIONS}) -> Tensor"
)
def _attention_operator(similarity: Tensor, *options: Any) -> Tensor:
    return _map(similarity, *options)


@torch.library.custom_op(
    add_op_namespace_prefix("attend"),
    mutates_args=(),
    schema=f"(Tensor similarity, Tensor values, {_OPTIONS}) -> Tensor",
)
def _attend_operator(similarity: Tensor, values: Tensor, *options: Any) -> Tensor:
    return _attend(similarity, values, *options)


@torch.library.custom_op(
    add_op_namespace_prefix("divergence"), mutates_args=(), schema="(Tensor p, Tensor? q, str metric) -> Tensor"
)
def _divergence_operator(p: Tensor, q: Tensor | None, metric: str) -> Tensor:
    return _divergence(p, q, metric)


_attention_operator.register_fake(_fake_map)
_attend_operator.register_fake(_fake_attend)
_divergence_operator.register_fake(_fake_divergence)


# --- Calls: through an operator, which costs 0.1 ms, only where something traces ----------------------------------


def attention(similarity: Tensor, options: MapOptions, out_dtype: torch.dtype) -> Tensor:
    """``[..., C, h, w]`` -> ``[..., N, N]``."""
    images = as_batch(similarity, 3)
    if is_traced(similarity):
        maps = ops.attention(images, *_plain(options), out_dtype)
    else:
        maps = _launch().attention_map(images, _kernel_options(*images.shape[2:], options), out_dtype)
    return maps.reshape(*similarity.shape[:-3], *maps.shape[1:])


def attend(similarity: Tensor, values: Tensor, options: MapOptions, out_dtype: torch.dtype) -> Tensor:
    """``[..., C, h, w]`` and ``[..., N, D]`` -> ``[..., N, D]``."""
    images, flat = as_batch(similarity, 3), as_batch(values, 2)
    if is_traced(similarity, values):
        result = ops.attend(images, flat, *_plain(options), out_dtype)
    else:
        result = _launch().attend(images, flat, _kernel_options(*images.shape[2:], options), out_dtype)
    return result.reshape(values.shape)


def divergence(p: Tensor, q: Tensor | None, metric: str) -> Tensor:
    """``[..., N, C]`` and ``[..., M, C]`` -> ``[..., N, M]``."""
    flat_p, flat_q = as_batch(p, 2), None if q is None else as_batch(q, 2)
    result = (ops.divergence if is_traced(p, q) else _divergence)(flat_p, flat_q, metric)
    return result.reshape(*p.shape[:-2], *result.shape[1:])
