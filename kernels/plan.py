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

BLOCK_ROWS = 32
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
    taps: Tensor
    """int64: for each place of an axis, the first of the two places of the other grid that it lies between, and in the
    upper half the bits of the second's share, a float32. Down to a scale the lower half holds twice the first, plus
    how far the second is from it, 0 or 1; up from a scale it holds the patches before the first, and the second is the
    next one, if the axis has 2."""
    rows: int
    """Padded rows of all scales."""
    pairs: int
    """Pairs of all scales."""
    mirrored: bool
    """Whether a tile right of the diagonal also fills its mirror image."""


def _padded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


class RowLayout(NamedTuple):
    """How a row of the map lies in the attention's registers: slots of whole rows of patches."""

    lanes: int
    """Places of a slot, a power of 2; those after its rows of patches are idle."""
    patch_rows: int
    """Rows of patches of a slot."""
    used: int
    """Slots. Some more than the map has, so that maps of several heights share one compilation."""

    @property
    def slots(self) -> int:
        """``used``, to a power of 2."""
        return _power_of_2(self.used)

    @property
    def step(self) -> int:
        """Heights between one compilation and the next, in slots."""
        return max(1, self.slots // 16)


def row_layout(full: Grid) -> RowLayout:
    """The layout that takes the fewest instructions, of those with as many slots as a thread can hold."""
    height, width = full
    layouts = []
    lanes = _power_of_2(max(32, width))
    while not layouts or lanes <= 512:
        patch_rows = min(lanes // width, height)
        layout = RowLayout(lanes, patch_rows, -(-height // patch_rows))
        layout = layout._replace(used=_padded(layout.used, layout.step))
        if layout.slots <= 32 or lanes >= 512:
            layouts.append(layout)
        lanes *= 2
    # what a warp does once for a scale is as much as 10 slots of it
    return min(layouts, key=lambda layout: layout.lanes * (layout.used + 10))


def _power_of_2(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _down_taps(size_out: int, size_in: int) -> list[tuple[int, float]]:
    """Neighbours of a bilinear resize with align_corners=False, in integers so that rounding moves no tap."""
    taps = []
    for i in range(size_out):
        low, remainder = divmod(max(0, (2 * i + 1) * size_in - size_out), 2 * size_out)
        step = int(remainder > 0 and low + 1 < size_in)
        taps.append((2 * low + step, remainder / (2 * size_out) if step else 0.0))
    return taps


def _up_taps(size_out: int, size_in: int) -> list[tuple[int, float]]:
    """The same with the second neighbour always next to the first: at the far end its share is 1."""
    taps = []
    for low, weight in _down_taps(size_out, size_in):
        first = max(0, min(low // 2, size_in - 2))
        taps.append((first, weight + low // 2 - first))
    return taps


def _needed_rows(low_grid: Grid, full: Grid, first: int, stop: int) -> tuple[int, int]:
    """First and last-plus-one row of a scale that the map's rows first to stop are interpolated from."""
    taps = _up_taps(full[0], low_grid[0])
    top, bottom = taps[first // full[1]][0], taps[(stop - 1) // full[1]][0]
    return top * low_grid[1], min(bottom + 2, low_grid[0]) * low_grid[1]


@lru_cache(maxsize=64)
def map_plan(full: Grid, grids: tuple[Grid, ...], symmetric: bool, strip: Grid | None, device: torch.device) -> Plan:
    """Tables for the map over ``full``, or for its rows ``strip[0]`` to ``strip[1]``."""
    taps: list[tuple[int, float]] = []
    layout = row_layout(full)
    padding = layout.used * layout.patch_rows - full[0]

    def add_taps(added: list[tuple[int, float]]) -> int:
        taps.extend(added)
        return len(taps) - len(added)

    entries, blocks, tiles = [], [], []
    rows = pairs = 0
    mirrored = symmetric and strip is None
    for scale, grid in enumerate(grids):
        count = grid[0] * grid[1]
        first, stop = (0, count) if strip is None else _needed_rows(grid, full, *strip)
        down = add_taps(_down_taps(grid[0], full[0])), add_taps(_down_taps(grid[1], full[1]))
        up_y = [(low * grid[1], weight) for low, weight in _up_taps(full[0], grid[0])]
        up = add_taps(up_y + up_y[-1:] * padding), add_taps(_up_taps(full[1], grid[1]))
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
    identity = [(2 * i, 0.0) for i in range(height)] + [(0, 0.0)]
    return _on_device([entry], blocks, tiles, identity, padded, rows * width, mirrored, device)


def _on_device(
    entries: list[list[int]],
    blocks: list[tuple[int, int]],
    tiles: list[tuple[int, int, int]],
    taps: Sequence[tuple[int, float]],
    rows: int,
    pairs: int,
    mirrored: bool,
    device: torch.device,
) -> Plan:
    low, weight = zip(*taps)
    with torch.inference_mode(False):
        bits = torch.tensor(weight, dtype=torch.float32).view(torch.int32).long()
        packed = torch.tensor(low, dtype=torch.int64) | bits << 32
        return Plan(
            torch.tensor(entries, dtype=torch.int64, device=device),
            torch.tensor(blocks, dtype=torch.int32, device=device),
            torch.tensor(tiles, dtype=torch.int32, device=device),
            packed.to(device),
            rows,
            pairs,
            mirrored,
        )
