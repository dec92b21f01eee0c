"""Where everything lies in the kernels' buffers, for one patch grid: small tables that the kernels read.

Every scale's patches ("rows") lie one after the other, each scale's padded to a multiple of `TILE` with copies of
its last row, so that the divergence loads whole tiles. Every scale's pairs lie one after the other, unpadded.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

TILE = 64
"""Rows and columns of a tile of pairs."""

BLOCK_ROWS = 16
"""Rows whose distributions one program computes."""

Grid = tuple[int, int]

FIELDS = 14
"""Fields of a scale: 0, 1 height and width of its grid; 2 its first row; 3 its first pair; 4, 5 first and last-plus-one
row of which pairs are kept; 6, 7 taps down to its grid, for the two axes; 8, 9 taps up from it; 10, 11 first block
of its distributions and their number; 12, 13 first row and number of its columns."""


class Plan(NamedTuple):
    """Tables on the device, and the sizes of the buffers for one image."""

    scales: Tensor
    """int64 ``[S, FIELDS]``: the fields below, for each scale."""
    blocks: Tensor
    """int32 ``[blocks, 2]``: scale and first row of each program of the distributions."""
    tiles: Tensor
    """int32 ``[tiles, 3]``: scale, first row and first column of each tile of pairs."""
    tap_low: Tensor
    """int32: for each place of an axis, the first of the two places of the other grid that it lies between,"""
    tap_step: Tensor
    """int32: how far the second is from the first, 0 or 1,"""
    tap_weight: Tensor
    """float32: and the second's share."""
    rows: int
    """Padded rows of all scales."""
    pairs: int
    """Pairs of all scales."""
    mirrored: bool
    """Whether a tile right of the diagonal also fills its mirror image."""


def _padded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _taps(size_out: int, size_in: int) -> list[tuple[int, int, float]]:
    """Neighbours of a bilinear resize with align_corners=False, in integers so that rounding moves no tap."""
    taps = []
    for i in range(size_out):
        low, remainder = divmod(max(0, (2 * i + 1) * size_in - size_out), 2 * size_out)
        step = int(remainder > 0 and low + 1 < size_in)
        taps.append((low, step, remainder / (2 * size_out) if step else 0.0))
    return taps


def _needed_rows(low_grid: Grid, full: Grid, first: int, stop: int) -> tuple[int, int]:
    """First and last-plus-one row of a scale that the map's rows first to stop are interpolated from."""
    taps = _taps(full[0], low_grid[0])
    top, bottom = taps[first // full[1]], taps[(stop - 1) // full[1]]
    return top[0] * low_grid[1], (bottom[0] + bottom[1] + 1) * low_grid[1]


@lru_cache(maxsize=64)
def map_plan(full: Grid, grids: tuple[Grid, ...], symmetric: bool, strip: Grid | None, device: torch.device) -> Plan:
    """Tables for the map over ``full``, or for its rows ``strip[0]`` to ``strip[1]``."""
    taps: list[tuple[int, int, float]] = []

    def add_taps(size_out: int, size_in: int) -> int:
        taps.extend(_taps(size_out, size_in))
        return len(taps) - size_out

    entries, blocks, tiles = [], [], []
    rows = pairs = 0
    mirrored = symmetric and strip is None
    for scale, grid in enumerate(grids):
        count = grid[0] * grid[1]
        first, stop = (0, count) if strip is None else _needed_rows(grid, full, *strip)
        down = add_taps(grid[0], full[0]), add_taps(grid[1], full[1])
        up = add_taps(full[0], grid[0]), add_taps(full[1], grid[1])
        padded = _padded(count, TILE)
        entries.append(
            [*grid, rows, pairs, first, stop, *down, *up, len(blocks), padded // BLOCK_ROWS, rows, count],
        )
        blocks += [(scale, row) for row in range(0, padded, BLOCK_ROWS)]
        for i in range(first // TILE * TILE, stop, TILE):
            tiles += [(scale, i, j) for j in range(i if mirrored else 0, count, TILE)]
        rows += padded
        pairs += (stop - first) * count
    return _on_device(entries, blocks, tiles, taps, rows, pairs, mirrored, device)


@lru_cache(maxsize=64)
def divergence_plan(rows: int, columns: int | None, symmetric: bool, device: torch.device) -> Plan:
    """Tables for ``rows`` distributions against each other, or against ``columns`` more that follow the padded rows."""
    height = rows if columns is None else _padded(rows, TILE) + columns
    first_column = 0 if columns is None else height - columns
    padded = _padded(height, TILE)
    width = rows if columns is None else columns
    mirrored = symmetric and columns is None
    entry = [height, 1, 0, 0, 0, rows, 0, height, 0, height, 0, padded // BLOCK_ROWS, first_column, width]
    blocks = [(0, row) for row in range(0, padded, BLOCK_ROWS)]
    tiles = [(0, i, j) for i in range(0, rows, TILE) for j in range(i if mirrored else 0, width, TILE)]
    identity = [(i, 0, 0.0) for i in range(height)] + [(0, 0, 0.0)]
    return _on_device([entry], blocks, tiles, identity, padded, rows * width, mirrored, device)


def _on_device(
    entries: list[list[int]],
    blocks: list[tuple[int, int]],
    tiles: list[tuple[int, int, int]],
    taps: Sequence[tuple[int, int, float]],
    rows: int,
    pairs: int,
    mirrored: bool,
    device: torch.device,
) -> Plan:
    low, step, weight = zip(*taps)
    with torch.inference_mode(False):
        return Plan(
            torch.tensor(entries, dtype=torch.int64, device=device),
            torch.tensor(blocks, dtype=torch.int32, device=device),
            torch.tensor(tiles, dtype=torch.int32, device=device),
            torch.tensor(low, dtype=torch.int32, device=device),
            torch.tensor(step, dtype=torch.int32, device=device),
            torch.tensor(weight, dtype=torch.float32, device=device),
            rows,
            pairs,
            mirrored,
        )
