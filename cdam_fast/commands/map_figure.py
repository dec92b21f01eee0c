"""``cdam-fast map``: where chosen patches attend, with and without CDAM, and at each scale (Figure 5 of the paper)."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from cdam_fast.commands.results import MAP, SETTINGS, result_name
from cdam_fast.errors import UsageError
from cdam_fast.segmentation import CDAMSegmenter
from cdam_fast.segmentation.images import resize_to_patches

LONGEST = 4
"""Long side over short side, at most: the map has a row and a column for every patch."""

_LONGEST_POINTS = 60  # characters of a file name

_COLUMNS, _PANEL = 5, 3.2  # panels in a line; inches

Point = tuple[int, int]


def parse_point(text: str) -> Point:
    """``"X,Y"``: pixels of the photograph from its left and top edge, as it is seen."""
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"--point: got {text!r}, takes X,Y, two whole numbers of pixels")
    return int(parts[0]), int(parts[1])


def check_points(points: Sequence[Point], photo: Tensor) -> None:
    """Inside a photograph ``[3, H, W]`` that is no strip."""
    height, width = photo.shape[-2:]
    for x, y in points:
        if x >= width or y >= height:
            raise UsageError(f"--point: got {x},{y}, takes X below {width} and Y below {height} for this photograph")
    if max(height, width) > LONGEST * min(height, width):
        raise UsageError(
            f"PHOTO: got {width}x{height} pixels, takes a long side of at most {LONGEST} times the short one"
        )


def prepare(segmenter: CDAMSegmenter, photo: Tensor) -> Tensor:
    """``[3, H, W]`` uint8 -> ``[1, 3, H', W']`` normalised, whole patches, the short side as the segmenter's."""
    pixels = photo.to(segmenter.tower.device)
    return segmenter.normalise(resize_to_patches(pixels, segmenter.options.short_side, segmenter.tower.patch))


def map_figure(segmenter: CDAMSegmenter, photo: Tensor, points: Sequence[Point], settings: dict[str, Any]) -> bytes:
    """A PNG, the settings in its text, a row for each point: photograph, base's attention, CDAM's map, each scale's."""
    pixels = prepare(segmenter, photo)
    grid = segmenter.tower.grid(pixels)
    scales = segmenter.options.map["scales"]
    base = f"{segmenter.base.name}'s own attention"
    maps = {base: segmenter.base_attention(pixels)[0], "CDAM, all scales": segmenter.attention(pixels)[0]}
    if len(scales) > 1:
        maps |= {f"scale {scale:g}": segmenter.attention(pixels, scales=(scale,))[0] for scale in scales}
    patches = [_patch_of(point, photo, grid) for point in points]
    rows = [
        {title: attention[row * grid[1] + column].reshape(grid).float().cpu() for title, attention in maps.items()}
        for row, column in patches
    ]
    return _draw(photo, grid, patches, rows, json.dumps(settings, sort_keys=True))


def _patch_of(point: Point, photo: Tensor, grid: tuple[int, int]) -> tuple[int, int]:
    height, width = photo.shape[-2:]
    return point[1] * grid[0] // height, point[0] * grid[1] // width


def _draw(
    photo: Tensor, grid: tuple[int, int], patches: Sequence[tuple[int, int]], rows: list[dict[str, Tensor]], text: str
) -> bytes:
    from matplotlib.figure import Figure

    picture = photo.permute(1, 2, 0).cpu().numpy()
    extent = (0, picture.shape[1], picture.shape[0], 0)
    panels = [(patch, title, maps.get(title)) for patch, maps in zip(patches, rows) for title in _titles(maps)]
    lines = len(panels) // _COLUMNS
    height = _PANEL * picture.shape[0] / picture.shape[1] + 0.35
    figure = Figure(figsize=(_PANEL * _COLUMNS, height * lines + 0.5), layout="constrained")
    for panel, (patch, title, values) in zip(figure.subplots(lines, _COLUMNS, squeeze=False).flat, panels):
        panel.set_axis_off()
        if title:
            panel.set_title(title, fontsize=11)
            # grey below a map, whose colours would mix with the photograph's
            panel.imshow(picture if values is None else picture.mean(2), cmap="gray", extent=extent)
            _mark(panel, patch, grid, picture.shape[:2])
        if values is not None:
            heat = panel.imshow(_smooth(values, picture.shape[:2]), cmap="cividis", extent=extent, alpha=0.6)
            heat.set_clim(0, max(float(values.max()), 1e-12))
    figure.suptitle("where the marked patch attends: none (dark blue) to its largest (yellow)", fontsize=12)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={SETTINGS: text})
    return buffer.getvalue()


def _titles(maps: dict[str, Tensor]) -> list[str]:
    """A point's panels, with empty ones to fill its last line."""
    titles = ["photograph", *maps]
    return titles + [""] * (-len(titles) % _COLUMNS)


def _smooth(values: Tensor, size: Sequence[int]) -> np.ndarray[Any, Any]:
    largest = max(1, max(size) // 600)  # enough for the figure
    small = [max(1, side // largest) for side in size]
    resized = functional.interpolate(values[None, None], size=small, mode="bilinear")[0, 0]
    return np.asarray(resized.numpy())


def _mark(panel: Any, patch: tuple[int, int], grid: tuple[int, int], size: Sequence[int]) -> None:
    from matplotlib.patches import Rectangle

    height, width = size[0] / grid[0], size[1] / grid[1]
    corner = (patch[1] * width, patch[0] * height)
    for colour, line in (("black", 2.4), ("white", 1.2)):
        panel.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=line))


def map_name(photo: Path, points: Sequence[Point]) -> str:
    """File name of the picture: the photograph's, the points, or digits that stand for them where they are many."""
    shown = "".join(f"_{x}-{y}" for x, y in points)
    if len(shown) > _LONGEST_POINTS:
        shown = f"_{len(points)}-points-{hashlib.sha256(shown.encode()).hexdigest()[:10]}"
    return f"{result_name(photo)}{shown}{MAP}"
