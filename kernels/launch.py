"""Host side of a call: allocate the buffers, launch the three stages that `stages` holds ready."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from . import choice, configurations
from .attention import attention_kernel, normalise_kernel
from .distributions import distributions_kernel
from .divergence import divergence_kernel
from .plan import TILE
from .stages import Distributed, Launch, Options, Stages, map_stages, pairwise_stages

STRIP_BYTES = 1 << 28
"""Scratch that `attend` allows itself before it goes in strips of rows: 256 MB."""

INTERPRETED = not isinstance(attention_kernel, triton.runtime.JITFunction)
"""Whether ``TRITON_INTERPRET=1`` was set: the kernels then run on CPU tensors, slowly."""


_RECORDED: list[Any] = []
"""Launches whose tables a CUDA graph reads: kept for good, since nobody knows how long the graph will be replayed."""

_HERE = contextlib.nullcontext()


def _keep_recorded(stages: Any, device: torch.device) -> None:
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        _RECORDED.append(stages)


def _guard(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Makes the tensors' device current, which is where Triton launches."""
    if device.type == "cpu":
        return _HERE
    module = getattr(torch, device.type)
    return _HERE if module.current_device() == device.index else module.device(device)


class _Distributions(NamedTuple):
    """What the first stage leaves for the second."""

    planes: Tensor
    base: Tensor
    to_base: Tensor
    statistics: Tensor


def _distributions(similarity: Tensor, stage: Distributed) -> _Distributions:
    """``similarity [B, C, h, w]`` -> the class distributions of every row of the plan."""
    device, single = similarity.device, torch.float32
    result = _Distributions(
        torch.empty(stage.planes, dtype=single, device=device),
        torch.empty(stage.base, dtype=single, device=device),
        torch.empty(stage.to_base, dtype=single, device=device),
        torch.empty(stage.statistics, dtype=single, device=device),
    )
    grid, arguments, constants = stage.launch
    distributions_kernel[grid](similarity, *similarity.stride(), *result, *arguments, **constants)
    return result


def _divergence(distributions: _Distributions, pairs: Tensor, launch: Launch) -> None:
    """The divergence of every pair of the plan, into ``pairs [B, pairs]``."""
    divergence_kernel[launch.grid](*distributions, pairs, *launch.arguments, **launch.constants)


def _attention(pairs: Tensor, out: Tensor, stages: Stages) -> None:
    """The map's rows, into ``out [B, rows, N]``."""
    if stages.normalise is not None:
        grid, arguments, constants = stages.normalise
        normalise_kernel[grid](pairs, *arguments, **constants)
    scratch = torch.empty(stages.scratch, dtype=torch.float32, device=pairs.device)
    grid, arguments, constants = stages.attention
    attention_kernel[grid](pairs, scratch, out, *arguments, **constants)


def _prepared(similarity: Tensor, options: Options) -> Tensor:
    """What the first stage takes: the paper's order resizes probabilities."""
    if options.order == "official":
        return similarity
    exact = torch.float32 if options.metric == "js" else torch.float64
    finite = torch.where(similarity.isfinite(), similarity.to(exact), torch.nan)
    return torch.softmax(finite / options.temperature, dim=1)


def _allocate_map(
    count: int, pairs: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The map and the pairs, before anything is launched."""
    batch = pairs[0]
    try:
        out = torch.empty((batch, count, count), dtype=dtype, device=device)
        return out, torch.empty(pairs, dtype=torch.float32, device=device)
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        needed = batch * (count * count * dtype.itemsize + pairs[1] * 4) / 2**30
        raise torch.OutOfMemoryError(
            f"similarity: got {batch} maps of {count} x {count} patches, which need {needed:.1f} GiB with their "
            f"scratch; takes what {device} can allocate (cdam_attend does without the maps, a smaller batch with less)"
        ) from error


def attention_map(similarity: Tensor, options: Options, out_dtype: torch.dtype) -> Tensor:
    """``similarity [B, C, h, w]`` (float16, bfloat16 or float32, any strides) -> ``[B, N, N]``."""
    batch, classes, height, width = similarity.shape
    count, device = height * width, similarity.device
    if batch == 0:
        return similarity.new_empty(0, count, count, dtype=out_dtype)
    stages = map_stages(batch, classes, (height, width), None, options, device, configurations.target_of(device))
    _keep_recorded(stages, device)
    # the interpreter truncates to bfloat16 instead of rounding
    stored = torch.float32 if INTERPRETED and out_dtype == torch.bfloat16 else out_dtype
    out, pairs = _allocate_map(count, stages.pairs, stored, device)
    prepared = _prepared(similarity, options)
    with _guard(device):
        distributions = _distributions(prepared, stages.distributions)
        _divergence(distributions, pairs, stages.divergence)
        del distributions
        _attention(pairs, out, stages)
    return out if stored == out_dtype else out.to(out_dtype)


def attend(similarity: Tensor, values: Tensor, options: Options, out_dtype: torch.dtype) -> Tensor:
    """The map applied to ``values [B, N, D]``, ``[B, N, D]``; in strips of rows where the map would be large."""
    batch, classes, height, width = similarity.shape
    count, device = height * width, similarity.device
    all_pairs = count * count + sum((grid[0] * grid[1]) ** 2 for grid in options.grids)
    if batch * all_pairs * 4 <= STRIP_BYTES:
        return (attention_map(similarity, options, torch.float32) @ values.float()).to(out_dtype)
    prepared = _prepared(similarity, options)
    target = configurations.target_of(device)
    out = torch.empty(values.shape, dtype=out_dtype, device=device)
    step = max(1, count * STRIP_BYTES // (4 * all_pairs))
    step = max(1, step // width) * width  # whole rows of patches: the strips then share few of the scales' rows
    strips = [(first, min(first + step, count)) for first in range(0, count, step)]
    with _guard(device):
        for b in range(batch):
            distributions = None
            for strip in strips:
                stages = map_stages(1, classes, (height, width), strip, options, device, target)
                _keep_recorded(stages, device)
                if distributions is None:  # of all rows
                    distributions = _distributions(prepared[b : b + 1], stages.distributions)
                pairs = torch.empty(stages.pairs, dtype=torch.float32, device=device)
                _divergence(distributions, pairs, stages.divergence)
                rows = torch.empty((1, strip[1] - strip[0], count), dtype=torch.float32, device=device)
                _attention(pairs, rows, stages)
                out[b, strip[0] : strip[1]] = rows[0] @ values[b].float()
    return out


def pairwise_divergence(p: Tensor, q: Tensor | None, metric: str) -> Tensor:
    """``p [B, N, C]``, ``q [B, M, C]`` -> ``[B, N, M]`` in p's dtype."""
    batch, rows, classes = p.shape
    columns = None if q is None else q.shape[1]
    if 0 in (batch, rows, columns):
        return p.new_empty(batch, rows, rows if columns is None else columns)
    target = configurations.target_of(p.device)
    prepared = pairwise_stages(batch, rows, columns, classes, metric, p.device, target)
    _keep_recorded(prepared, p.device)
    first, sizes, second = prepared
    pairs = torch.empty(sizes, dtype=torch.float32, device=p.device)
    joined = p
    if q is not None:  # q's rows start on a tile of their own, and copies of p's last row fill the gap
        gap = -rows % TILE
        joined = torch.cat((p, p[:, -1:].expand(-1, gap, -1), q), dim=1)
    with _guard(p.device):
        _divergence(_distributions(joined.mT[..., None], first), pairs, second)
    return pairs.view(batch, rows, -1).to(p.dtype)


def choices(similarity: Tensor, options: Options, target: str) -> list[list[choice.Choice]]:
    """The path that each scale of each image of ``similarity [B, C, h, w]`` takes on a target, by Jensen-Shannon.

    The first stage runs here, on the tensor's device; the host waits for it.
    """
    batch, classes, height, width = similarity.shape
    if batch == 0:
        return []
    device, scales = similarity.device, len(options.grids)
    first = map_stages(batch, classes, (height, width), None, options, device, configurations.target_of(device))
    numbers = torch.empty((batch, scales, choice.NUMBERS.value), dtype=torch.float32, device=device)
    prepared = _prepared(similarity, options)
    table = first.distributions.launch.arguments[0]
    with _guard(device):
        statistics = _distributions(prepared, first.distributions).statistics
        choice.choice_kernel[(batch * scales,)](
            statistics,
            numbers,
            table,
            classes,
            statistics.shape[1],
            scales,
            FEATURES_FIRST=configurations.divergence(target, "js")["FEATURES_FIRST"],
        )
    return choice.named(numbers)
