"""What the page shows: a photograph tinted by its labels, and the attention of a patch over it."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

Colour = tuple[int, int, int]

LARGEST = 900  # pixels of a picture's long side, on the page
LEAST = 448

_HEAT = ((0, 0, 4), (59, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191))
"""From none to the largest: brightness grows all the way, so that it reads in grey too."""


def shown_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of a picture on the page: small ones are enlarged, large ones reduced."""
    longest = max(width, height)
    factor = min(max(longest, LEAST), LARGEST) / longest
    return max(1, round(width * factor)), max(1, round(height * factor))


def as_picture(photo: Tensor) -> Any:
    """``[3, H, W]`` uint8 as a PIL image of the page's size."""
    from PIL import Image

    height, width = photo.shape[-2:]
    picture = Image.fromarray(photo.permute(1, 2, 0).cpu().numpy())
    return picture.resize(shown_size(width, height), Image.Resampling.LANCZOS)


def palette(count: int, background: int | None) -> list[Colour]:
    """A colour for each class, neighbours far apart in hue; the background is black."""
    colours: list[Colour] = []
    for i in range(count):
        hue = (0.02 + i * 0.618034) % 1
        saturation, value = ((0.85, 0.95), (0.55, 1.0), (0.95, 0.65))[i // 7 % 3]
        red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    if background is not None:
        colours[background] = (0, 0, 0)
    return colours


def tinted(photo: Tensor, labels: Tensor, colours: Sequence[Colour], background: int | None) -> Any:
    """``[3, H, W]`` uint8 tinted by its labels ``[H, W]``, outlines between classes; a PIL image."""
    from PIL import Image

    picture = as_picture(photo)
    plain = Image.fromarray(labels.cpu().numpy().astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)
    classes = np.asarray(plain)
    strength = np.where(classes == background, 0.35, 0.55)[..., None]
    pixels = np.asarray(picture) * (1 - strength) + np.array(colours)[classes] * strength
    edge = np.zeros(classes.shape, dtype=bool)
    edge[:, 1:] |= classes[:, 1:] != classes[:, :-1]
    edge[1:] |= classes[1:] != classes[:-1]
    pixels[edge] = 255
    return Image.fromarray(pixels.round().astype(np.uint8))


def heat_picture(photo: Tensor, attention: Tensor, patch: tuple[int, int]) -> Any:
    """``[h, w]`` attention of a patch over ``[3, H, W]`` in grey, the patch, (row, column), framed; a PIL image."""
    from PIL import Image, ImageDraw

    grey = as_picture(photo).convert("L")
    width, height = grey.size
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
