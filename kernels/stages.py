"""What a call's launches need besides its tensors, made once for a shape, its options and a device, and kept."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton

from . import configurations
from .distributions import STATISTICS
from .plan import Grid, Plan, divergence_plan, map_plan

CLASS_MULTIPLE = 16
"""Classes are padded to a multiple of this, with zeros, so that the loops over classes need no mask."""


ROUNDING = {"js": 1e-12, "kl": 2.0**-23, "wasserstein": 2.0**-23}
"""Largest divergence that rounding leaves between equal rows. Of js, second order in the rounding of a probability and
in float32, 1e-14 was seen; the others are of first order, in sums of numbers up to 1."""


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


class Launch(NamedTuple):
    """A launch but for the tensors that are new in every call, which come first of its arguments."""

    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    """Tables, then numbers."""
    constants: dict[str, Any]
    """Of the compilation, warps included."""


class Distributed(NamedTuple):
    """The first stage: sizes of its results, and its launch."""

    planes: tuple[int, ...]
    base: tuple[int, ...]
    to_base: tuple[int, ...]
    statistics: tuple[int, ...]
    launch: Launch


class Stages(NamedTuple):
    """The launches of a map, or of a strip of its rows."""

    distributions: Distributed
    pairs: tuple[int, int]
    divergence: Launch
    normalise: Launch | None
    scratch: tuple[int, ...]
    attention: Launch


def _distributed(plan: Plan, batch: int, classes: int, metric: str, target: str, rate: float | None) -> Distributed:
    """Rate is that of the softmax over classes; None leaves it out."""
    padded_classes = _padded_classes(classes)
    n_blocks, n_scales = len(plan.blocks), len(plan.scales)
    tables = (plan.scales, plan.blocks, plan.taps)
    numbers = (1.0 if rate is None else rate, classes, padded_classes, plan.rows, n_blocks, n_scales)
    return Distributed(
        planes=(batch, 2 if metric == "kl" else 1, padded_classes, plan.rows),
        base=(batch, n_scales, padded_classes),
        to_base=(batch, 2, plan.rows),
        statistics=(batch, n_blocks, STATISTICS.value),
        launch=Launch(
            (batch * n_blocks,),
            tables + numbers,
            {"SOFTMAX": rate is not None, "enable_fp_fusion": True, **configurations.distributions(target, metric)},
        ),
    )


def _divergence_launch(plan: Plan, batch: int, classes: int, metric: str, target: str) -> Launch:
    n_tiles = len(plan.tiles)
    tables = (plan.scales, plan.tiles)
    numbers = (classes, _padded_classes(classes), plan.rows, plan.pairs, n_tiles, len(plan.blocks), len(plan.scales))
    constants = {"MIRRORED": plan.mirrored, "enable_fp_fusion": True, **configurations.divergence(target, metric)}
    if _padded_classes(classes) * plan.rows >= 1 << 31:
        constants["LARGE"] = True
    return Launch((batch * n_tiles,), tables + numbers, constants)


@lru_cache(maxsize=128)
def map_stages(
    batch: int, classes: int, full: Grid, strip: Grid | None, options: Options, device: torch.device, target: str
) -> Stages:
    """Everything that `attention_map`, or `attend` for rows strip[0] to strip[1], launches."""
    height, width = full
    metric, official = options.metric, options.order == "official"
    symmetric = metric != "kl" and strip is None
    plan = map_plan(full, options.grids, symmetric, strip, device)
    first, stop = strip or (0, height * width)
    minmax = {"MINMAX_BEFORE": options.minmax[0], "MINMAX_AFTER": options.minmax[1], "enable_fp_fusion": True}
    rate = 1 / options.attention_temperature
    normalise = None
    if not official:
        n_rows = max(grid[0] * grid[1] for grid in options.grids)
        normalise = Launch(
            (batch * n_rows, len(options.grids)),
            (plan.scales, plan.pairs, n_rows, rate, ROUNDING[metric]),
            {**minmax, **configurations.normalise(target, n_rows)},
        )
    config = configurations.attention(target, full)
    rows = stop - first
    resized = [grid for grid in options.grids if grid != full]
    scratch_columns = max((grid[0] * grid[1] for grid in resized), default=1)
    numbers = (height, width, plan.pairs, scratch_columns, first, rows, len(options.grids), rate, ROUNDING[metric])
    return Stages(
        # a strip is of one image, and of the distributions of all its rows
        _distributed(
            plan if strip is None else map_plan(full, options.grids, False, (0, height * width), device),
            batch,
            classes,
            metric,
            target,
            1 / options.temperature if official else None,
        ),
        (batch, plan.pairs),
        _divergence_launch(plan, batch, classes, metric, target),
        normalise,
        (batch, rows, scratch_columns),
        Launch(
            (batch * triton.cdiv(rows, config["BLOCK_ROWS"]),),
            (plan.scales, plan.taps, *numbers),
            {"OFFICIAL": official, "NARROW": any(1 in grid for grid in resized), **minmax, **config},
        ),
    )


@lru_cache(maxsize=64)
def pairwise_stages(
    batch: int, rows: int, columns: int | None, classes: int, metric: str, device: torch.device, target: str
) -> tuple[Distributed, tuple[int, int], Launch]:
    """Everything that `pairwise_divergence` launches."""
    plan = divergence_plan(rows, columns, metric != "kl", device)
    distributions = _distributed(plan, batch, classes, metric, target, None)
    return distributions, (batch, plan.pairs), _divergence_launch(plan, batch, classes, metric, target)


def forget() -> None:
    """Make everything anew in the next call, by what `configurations` then says."""
    map_stages.cache_clear()
    pairwise_stages.cache_clear()
