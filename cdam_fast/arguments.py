"""Checks of the public functions' arguments. Each error names the argument, what it got and what it takes."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from functools import lru_cache
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cdam_fast.compat import is_compiling
from cdam_fast.constants import (
    ATTENTION_TEMPERATURE,
    BACKENDS,
    METRICS,
    ORDERS,
    SCALES,
    TEMPERATURE,
    scaled_grid,
)

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class MapOptions(NamedTuple):
    """The options of the attention map, with their defaults; the backends take them checked."""

    scales: Sequence[float] = SCALES
    temperature: float = TEMPERATURE
    attention_temperature: float = ATTENTION_TEMPERATURE
    metric: str = "js"
    order: str = "official"
    minmax: tuple[bool, bool] = (True, True)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Arithmetic is in float64 for float64 input and in float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def working_similarity(similarity: Tensor) -> Tensor:
    """The similarity in the working dtype, with infinities as NaN: a softmax would make -inf a silent 0."""
    work = similarity.to(working_dtype(similarity.dtype))
    return torch.where(work.isfinite(), work, torch.nan)


def plain(value: object) -> object:
    """A NumPy scalar or array as Python's own value or list; anything else as it is.

    Tensors are not: a knob that could require gradients would lose them silently.
    """
    numpy = sys.modules.get("numpy")  # where it is not imported, nothing is of it
    if numpy is not None and isinstance(value, (numpy.generic, numpy.ndarray)):
        unpacked: object = value.tolist()
        return unpacked
    return value


def _names(dtypes: Sequence[torch.dtype]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def _check_tensor(name: str, value: object, least_dims: int, shape: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: got {type(value).__name__}, takes a torch.Tensor of shape {shape}")
    if value.dtype not in FLOATING:
        raise TypeError(f"{name}: got dtype {value.dtype}, takes {_names(FLOATING)}")
    if value.dim() < least_dims:
        raise ValueError(f"{name}: got shape {tuple(value.shape)}, takes {shape}")
    return value


def _check_choice(name: str, value: object, choices: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: got {value!r}, takes one of {', '.join(map(repr, choices))}")
    return value


def check_positive(name: str, value: object) -> float:
    """A positive finite number."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: got {type(value).__name__}, takes a positive number")
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: got {value!r}, takes a positive finite number")
    return float(value)


def check_metric(metric: object) -> str:
    """One of the three metrics of Table 8."""
    return _check_choice("metric", metric, METRICS)


def check_backend(backend: object) -> str:
    """One of the four names; whether it can serve the call is for the caller to say."""
    return _check_choice("backend", backend, BACKENDS)


def check_target(target: object) -> str | None:
    """A kind of GPU as Triton's compiler names it, or None."""
    if target is None:
        return None
    takes = "the name of a GPU: 'sm_90', 'gfx942', 'xpu' or the like"
    if not isinstance(target, str):
        raise TypeError(f"target: got {type(target).__name__}, takes {takes}")
    if not re.fullmatch(r"sm_\d{2,3}|gfx[\da-f]{3,4}|xpu", target):
        raise ValueError(f"target: got {target!r}, takes {takes}")
    return target


def check_similarity(similarity: object) -> Tensor:
    """``[..., C, h, w]``, floating, at least one class and one patch."""
    shape = "[..., C, h, w]"
    checked = _check_tensor("similarity", similarity, 3, shape)
    if checked.shape[-3] == 0:
        raise ValueError(f"similarity: got shape {tuple(checked.shape)} with no class, takes {shape} with C >= 1")
    if 0 in checked.shape[-2:]:
        raise ValueError(f"similarity: got shape {tuple(checked.shape)} with no patch, takes {shape} with h, w >= 1")
    return checked


def check_options(similarity: Tensor, given: MapOptions) -> MapOptions:
    """The options of the attention map, checked against the similarity's patch grid."""
    height, width = similarity.shape[-2:]
    scales, temperature, attention_temperature, metric, order, minmax = given
    # sizes that are symbols or tensors are a tracer's
    if (
        type(height) is int is type(width)
        and not is_compiling()
        and isinstance(scales, (tuple, list))
        and isinstance(minmax, (tuple, list))
    ):
        factors, flags = tuple(scales), tuple(minmax)
        kinds = tuple(map(type, factors + flags))
        try:
            return _known_options(
                height, width, kinds, factors, temperature, attention_temperature, metric, order, flags
            )
        except (TypeError, ValueError):
            pass  # something that has no hash, or is wrong
    return _check_options(height, width, given)


@lru_cache(maxsize=256, typed=True)
def _known_options(height: int, width: int, kinds: tuple[type, ...], *given: Any) -> MapOptions:
    """Kinds and ``typed`` keep 1, 1.0 and True apart, which are equal."""
    return _check_options(height, width, MapOptions(*given))


def _check_options(height: int, width: int, given: MapOptions) -> MapOptions:
    scales, minmax = plain(given.scales), plain(given.minmax)
    if isinstance(scales, str) or not isinstance(scales, Sequence):
        raise TypeError(f"scales: got {type(scales).__name__}, takes a sequence of positive numbers")
    if len(scales) == 0:
        raise ValueError("scales: got an empty sequence, takes at least one scale")
    checked_scales = tuple(check_positive(f"scales[{i}]", scale) for i, scale in enumerate(scales))
    for i, scale in enumerate(checked_scales):
        if 0 in scaled_grid(height, width, scale):
            raise ValueError(
                f"scales[{i}]: got {scale}, which leaves no patch of the {height}x{width} grid; "
                f"takes at least {1 / min(height, width):.4g} here"
            )
    flags = [plain(flag) for flag in minmax] if isinstance(minmax, Sequence) else []
    if len(flags) != 2 or not (isinstance(flags[0], bool) and isinstance(flags[1], bool)):
        raise TypeError(f"minmax: got {minmax!r}, takes two booleans (before the softmax, after the softmax)")
    return MapOptions(
        checked_scales,
        check_positive("temperature", given.temperature),
        check_positive("attention_temperature", given.attention_temperature),
        check_metric(given.metric),
        _check_choice("order", given.order, ORDERS),
        (flags[0], flags[1]),
    )


def check_out_dtype(out_dtype: object, default: torch.dtype) -> torch.dtype:
    """A floating dtype, or None for the default."""
    if out_dtype is None:
        return default
    if not isinstance(out_dtype, torch.dtype) or out_dtype not in FLOATING:
        raise TypeError(f"out_dtype: got {out_dtype!r}, takes None or one of {_names(FLOATING)}")
    return out_dtype


def check_values(values: object, similarity: Tensor) -> Tensor:
    """``[..., N, D]`` with the similarity's batch dims, device and N = h * w rows."""
    shape = "[..., N, D]"
    checked = _check_tensor("values", values, 2, shape)
    patches = similarity.shape[-2] * similarity.shape[-1]
    if checked.shape[-2] != patches:
        raise ValueError(
            f"values: got {checked.shape[-2]} rows (shape {tuple(checked.shape)}), takes N = {patches} rows, "
            f"one for each patch of the {similarity.shape[-2]}x{similarity.shape[-1]} grid"
        )
    if checked.shape[:-2] != similarity.shape[:-3]:
        raise ValueError(
            f"values: got batch dims {tuple(checked.shape[:-2])}, takes those of similarity, "
            f"{tuple(similarity.shape[:-3])}"
        )
    if checked.device != similarity.device:
        raise ValueError(f"values: got device {checked.device}, takes that of similarity, {similarity.device}")
    return checked


def check_distributions(p: object, q: object) -> tuple[Tensor, Tensor | None]:
    """``p [..., N, C]`` and, unless None, ``q [..., M, C]`` of the same batch dims, dtype, device and classes."""
    first = _check_tensor("p", p, 2, "[..., N, C]")
    if first.shape[-1] == 0:
        raise ValueError(f"p: got shape {tuple(first.shape)} with no class, takes [..., N, C] with C >= 1")
    if q is None:
        return first, None
    second = _check_tensor("q", q, 2, "[..., M, C]")
    if second.shape[-1] != first.shape[-1]:
        raise ValueError(f"q: got {second.shape[-1]} classes, takes as many as p, {first.shape[-1]}")
    if second.shape[:-2] != first.shape[:-2]:
        raise ValueError(f"q: got batch dims {tuple(second.shape[:-2])}, takes those of p, {tuple(first.shape[:-2])}")
    if second.device != first.device:
        raise ValueError(f"q: got device {second.device}, takes that of p, {first.device}")
    if second.dtype != first.dtype:
        raise TypeError(f"q: got dtype {second.dtype}, takes that of p, {first.dtype}")
    return first, second


def check_origin(base: object, p: Tensor) -> Tensor | None:
    """None, or ``[C]``, floating, with the classes and the device of p."""
    if base is None:
        return None
    checked = _check_tensor("base", base, 1, "[C]")
    if checked.shape != p.shape[-1:]:
        raise ValueError(f"base: got shape {tuple(checked.shape)}, takes [C] with the C = {p.shape[-1]} classes of p")
    if checked.device != p.device:
        raise ValueError(f"base: got device {checked.device}, takes that of p, {p.device}")
    return checked


def check_rtol(rtol: object, least: float) -> float:
    """A number from the least to below 1."""
    checked = check_positive("rtol", rtol)
    if not least <= checked < 1:
        raise ValueError(f"rtol: got {checked!r}, takes a number from {least} to less than 1")
    return checked


def check_logits(logits: object) -> Tensor:
    """``[..., C, N]``, floating, at least one class and one patch."""
    shape = "[..., C, N]"
    checked = _check_tensor("logits", logits, 2, shape)
    if 0 in checked.shape[-2:]:
        raise ValueError(f"logits: got shape {tuple(checked.shape)}, takes {shape} with C, N >= 1")
    return checked


def check_attention(attention: object) -> Tensor:
    """``[..., N, N]``, floating."""
    shape = "[..., N, N]"
    checked = _check_tensor("attention", attention, 2, shape)
    if checked.shape[-1] != checked.shape[-2]:
        raise ValueError(f"attention: got shape {tuple(checked.shape)}, takes {shape}")
    return checked


def check_heads(heads: object) -> int | None:
    """None, or an integer of at least 1."""
    if heads is None:
        return None
    if isinstance(heads, bool) or not isinstance(heads, Integral):
        raise TypeError(f"heads: got {heads!r} ({type(heads).__name__}), takes None or an integer of at least 1")
    if heads < 1:
        raise ValueError(f"heads: got {heads}, takes None or an integer of at least 1")
    return int(heads)
