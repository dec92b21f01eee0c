"""Host side: allocate the buffers, pick the configurations, launch the three stages."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from . import configurations
from .attention import attention_kernel, normalise_kernel
from .distributions import STATISTICS, distributions_kernel
from .divergence import divergence_kernel
from .plan import TILE, Grid, Plan, divergence_plan, map_plan

CLASS_MULTIPLE = 16
"""Classes are padded to a multiple of this, with zeros, so that the loops over classes need no mask."""

STRIP_BYTES = 1 << 28
"""Scratch that `attend` allows itself before it goes in strips of rows: 256 MB."""

INTERPRETED = not isinstance(attention_kernel, triton.runtime.JITFunction)
"""Whether ``TRITON_INTERPRET=1`` was set: the kernels then run on CPU tensors, slowly."""


class Options(NamedTuple):
    """The knobs of the map, checked by the caller."""

    grids: tuple[Grid, ...]
    """Patch grid of each scale."""
    temperature: float
    attention_temperature: float
    metric: str
    order: str
    minmax: tuple[bool, bool]


def _padded_classes(classes: int) -> int:
    return -(-classes // CLASS_MULTIPLE) * CLASS_MULTIPLE


def _guard(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Makes the tensors' device current, which is where Triton launches."""
    module = getattr(torch, device.type, None)
    return module.device(device) if device.type != "cpu" else contextlib.nullcontext()


class _Distributions(NamedTuple):
    """What the first stage leaves for the second."""

    planes: Tensor
    base: Tensor
    to_base: Tensor
    statistics: Tensor


def _distributions(similarity: Tensor, plan: Plan, metric: str, softmax: bool, temperature: float) -> _Distributions:
    """``similarity [B, C, h, w]`` -> the class distributions of every row of the plan."""
    batch, classes = similarity.shape[:2]
    padded_classes = _padded_classes(classes)
    n_blocks, n_scales = len(plan.blocks), len(plan.scales)

    def scratch(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=similarity.device)

    result = _Distributions(
        scratch(batch, 2 if metric == "kl" else 1, padded_classes, plan.rows),
        scratch(batch, n_scales, padded_classes),
        scratch(batch, 2, plan.rows),
        scratch(batch, n_blocks, STATISTICS.value),
    )
    distributions_kernel[(batch * n_blocks,)](
        similarity,
        *similarity.stride(),
        *result,
        plan.scales,
        plan.blocks,
        plan.taps,
        1 / temperature,
        classes,
        padded_classes,
        plan.rows,
        n_blocks,
        n_scales,
        SOFTMAX=softmax,
        enable_fp_fusion=True,
        **configurations.distributions(configurations.target_of(similarity.device), metric),
    )
    return result


def _divergence(distributions: _Distributions, plan: Plan, pairs: Tensor, classes: int, metric: str) -> None:
    """The divergence of every pair of the plan, into ``pairs [B, pairs]``."""
    batch = distributions.planes.shape[0]
    n_tiles = len(plan.tiles)
    divergence_kernel[(batch * n_tiles,)](
        *distributions,
        pairs,
        plan.scales,
        plan.tiles,
        classes,
        distributions.planes.shape[2],
        plan.rows,
        plan.pairs,
        n_tiles,
        len(plan.blocks),
        len(plan.scales),
        MIRRORED=plan.mirrored,
        enable_fp_fusion=True,
        **configurations.divergence(configurations.target_of(pairs.device), metric),
    )


def _attention(pairs: Tensor, plan: Plan, full: Grid, strip: Grid, out: Tensor, options: Options) -> None:
    """Rows strip[0] to strip[1] of the map, into ``out [B, rows, N]``."""
    batch, (height, width) = pairs.shape[0], full
    target = configurations.target_of(pairs.device)
    inverse_temperature = 1 / options.attention_temperature
    minmax = {"MINMAX_BEFORE": options.minmax[0], "MINMAX_AFTER": options.minmax[1]}
    if options.order == "paper":
        n_rows = max(grid[0] * grid[1] for grid in options.grids)
        normalise_kernel[(batch * n_rows, len(options.grids))](
            pairs,
            plan.scales,
            plan.pairs,
            n_rows,
            inverse_temperature,
            **minmax,
            enable_fp_fusion=True,
            **configurations.normalise(target, n_rows),
        )
    config = configurations.attention(target, full)
    rows = strip[1] - strip[0]
    blocks = triton.cdiv(rows, config["BLOCK_ROWS"])
    resized = [grid for grid in options.grids if grid != full]
    scratch_columns = max((grid[0] * grid[1] for grid in resized), default=1)
    scratch = torch.empty(batch, rows, scratch_columns, dtype=torch.float32, device=pairs.device)
    attention_kernel[(batch * blocks,)](
        pairs,
        scratch,
        out,
        plan.scales,
        plan.taps,
        height,
        width,
        plan.pairs,
        scratch_columns,
        strip[0],
        rows,
        len(options.grids),
        inverse_temperature,
        OFFICIAL=options.order == "official",
        NARROW=any(1 in grid for grid in resized),
        **minmax,
        enable_fp_fusion=True,
        **config,
    )


def _prepared(similarity: Tensor, options: Options) -> tuple[Tensor, bool]:
    """What the first stage takes, and whether it takes the softmax; the paper's order resizes probabilities."""
    if options.order == "official":
        return similarity, True
    exact = torch.float32 if options.metric == "js" else torch.float64
    finite = torch.where(similarity.isfinite(), similarity.to(exact), torch.nan)
    return torch.softmax(finite / options.temperature, dim=1), False


def _allocate_map(
    batch: int, count: int, plan: Plan, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The map and the pairs, before anything is launched."""
    try:
        out = torch.empty(batch, count, count, dtype=dtype, device=device)
        return out, torch.empty(batch, plan.pairs, dtype=torch.float32, device=device)
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        needed = batch * (count * count * dtype.itemsize + plan.pairs * 4) / 2**30
        raise torch.OutOfMemoryError(
            f"similarity: got {batch} maps of {count} x {count} patches, which need {needed:.1f} GiB with their "
            f"scratch; takes what {device} can allocate (cdam_attend does without the maps, a smaller batch with less)"
        ) from error


def attention_map(similarity: Tensor, options: Options, out_dtype: torch.dtype) -> Tensor:
    """``similarity [B, C, h, w]`` (float16, bfloat16 or float32, any strides) -> ``[B, N, N]``."""
    full = (similarity.shape[2], similarity.shape[3])
    batch, count = similarity.shape[0], full[0] * full[1]
    if batch == 0:
        return similarity.new_empty(0, count, count, dtype=out_dtype)
    plan = map_plan(full, options.grids, options.metric != "kl", None, similarity.device)
    # the interpreter truncates to bfloat16 instead of rounding
    stored = torch.float32 if INTERPRETED and out_dtype == torch.bfloat16 else out_dtype
    out, pairs = _allocate_map(batch, count, plan, stored, similarity.device)
    prepared, softmax = _prepared(similarity, options)
    with _guard(similarity.device):
        distributions = _distributions(prepared, plan, options.metric, softmax, options.temperature)
        _divergence(distributions, plan, pairs, similarity.shape[1], options.metric)
        del distributions
        _attention(pairs, plan, full, (0, count), out, options)
    return out.to(out_dtype)


def attend(similarity: Tensor, values: Tensor, options: Options, out_dtype: torch.dtype) -> Tensor:
    """The map applied to ``values [B, N, D]``, ``[B, N, D]``; in strips of rows where the map would be large."""
    full = (similarity.shape[2], similarity.shape[3])
    batch, count = similarity.shape[0], full[0] * full[1]
    all_pairs = count * count + sum((grid[0] * grid[1]) ** 2 for grid in options.grids)
    if batch * all_pairs * 4 <= STRIP_BYTES:
        return (attention_map(similarity, options, torch.float32) @ values.float()).to(out_dtype)
    prepared, softmax = _prepared(similarity, options)
    device = similarity.device
    out = torch.empty(values.shape, dtype=out_dtype, device=device)
    step = max(1, count * STRIP_BYTES // (4 * all_pairs))
    step = max(1, step // full[1]) * full[1]  # whole rows of patches: the strips then share few of the scales' rows
    with _guard(device):
        for b in range(batch):
            everything = map_plan(full, options.grids, False, (0, count), device)
            image = prepared[b : b + 1]
            distributions = _distributions(image, everything, options.metric, softmax, options.temperature)
            for first in range(0, count, step):
                strip = (first, min(first + step, count))
                plan = map_plan(full, options.grids, False, strip, device)
                pairs = torch.empty(1, plan.pairs, dtype=torch.float32, device=device)
                _divergence(distributions, plan, pairs, similarity.shape[1], options.metric)
                rows = torch.empty(1, strip[1] - first, count, dtype=torch.float32, device=device)
                _attention(pairs, plan, full, strip, rows, options)
                out[b, first : strip[1]] = rows[0] @ values[b].float()
    return out


def pairwise_divergence(p: Tensor, q: Tensor | None, metric: str) -> Tensor:
    """``p [B, N, C]``, ``q [B, M, C]`` -> ``[B, N, M]`` in p's dtype."""
    batch, rows, classes = p.shape
    columns = None if q is None else q.shape[1]
    if 0 in (batch, rows, columns):
        return p.new_empty(batch, rows, rows if columns is None else columns)
    plan = divergence_plan(rows, columns, metric != "kl", p.device)
    pairs = torch.empty(batch, plan.pairs, dtype=torch.float32, device=p.device)
    joined = p
    if q is not None:  # q's rows start on a tile of their own, and copies of p's last row fill the gap
        gap = -rows % TILE
        joined = torch.cat((p, p[:, -1:].expand(-1, gap, -1), q), dim=1)
    with _guard(p.device):
        distributions = _distributions(joined.mT[..., None], plan, metric, False, 1.0)
        _divergence(distributions, plan, pairs, classes, metric)
    return pairs.view(batch, rows, -1).to(p.dtype)
