"""What only the page shows: the attention of a patch over its photograph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

LARGEST = 900  # pixels of a picture's long side, on the page
LEAST = 448

_HEAT = ((0, 0, 4), (59, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191))
"""From none to the largest: brightness grows all the way, so that it reads in grey too."""


def shown_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of a picture on the page: small ones are enlarged, large ones reduced."""
    longest = max(width, height)
    factor = min(max(longest, LEAST), LARGEST) / longest
    return max(1, round(width * factor)), max(1, round(height * factor))


def heat_picture(photo: Tensor, attention: Tensor, patch: tuple[int, int]) -> Any:
    """``[h, w]`` attention of a patch over ``[3, H, W]`` in grey, the patch, (row, column), framed; a PIL image."""
    from PIL import Image, ImageDraw

    width, height = shown_size(photo.shape[2], photo.shape[1])
    whole = Image.fromarray(photo.permute(1, 2, 0).cpu().numpy()).convert("L")
    grey = whole.resize((width, height), Image.Resampling.LANCZOS)
    values = functional.interpolate(attention[None, None].float().cpu(), size=(height, width), mode="bilinear")[0, 0]
    share = (values / max(float(attention.max()), 1e-12)).clamp(0, 1).numpy()
    steps = np.linspace(0, 1, len(_HEAT))
    colour = np.stack([np.interp(share, steps, channel) for channel in zip(*_HEAT)], -1)
    mixed = 0.35 * np.asarray(grey, dtype=np.float32)[..., None] + 0.65 * colour
    picture = Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    (row, column), (rows, columns) = patch, attention.shape
    left, top = column * width / columns, row * height / rows
    box = (left, top, left + width / columns - 1, top + height / rows - 1)
    draw.rectangle(tuple(side + grow for side, grow in zip(box, (-2, -2, 2, 2))), outline=(0, 0, 0), width=2)
    draw.rectangle(box, outline=(255, 255, 255), width=2)
    return picture


def heat_scale() -> str:
    """The colours as a CSS gradient."""
    return f"linear-gradient(90deg, {', '.join(css(colour) for colour in _HEAT)})"


def css(colour: Sequence[int]) -> str:
    """``#rrggbb``."""
    return "#" + "".join(f"{channel:02x}" for channel in colour)
