"""Pictures of a segmentation: the palette PNG, and the overlay with its legend."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from cdam_fast.segmentation.fonts import font_for, plain_font
from cdam_fast.segmentation.palette import Colour

_LEAST_WIDTH, _LARGEST = 720, 2400  # pixels of the overlay: a legend that can be read, a file that opens
_TINT = 0.55
_INK, _PAPER, _FAINT = (24, 24, 27), (255, 255, 255), (113, 113, 122)


def label_picture(labels: Tensor, colours: Sequence[Colour]) -> Any:
    """``[H, W]`` labels as a palette image: the class is the pixel's index."""
    from PIL import Image

    height, width = labels.shape
    picture = Image.frombytes("P", (width, height), labels.cpu().numpy().astype(np.uint8).tobytes())
    picture.putpalette([channel for colour in colours for channel in colour])
    return picture


@dataclass(frozen=True)
class Entry:
    """A line of the legend."""

    label: int
    name: str
    share: float
    """Of the pixels, 0 to 1."""


def overlay(
    photo: Tensor, labels: Tensor, colours: Sequence[Colour], entries: Sequence[Entry], background: int | None
) -> Any:
    """The photograph tinted by class, outlines between classes, names in them, a legend below; a PIL image.

    Small photographs are enlarged and large ones reduced, so that lines and letters have a readable size.
    """
    size = _readable_size(*labels.shape)
    return _above_legend(tinted(photo, labels, colours, entries, background, size), colours, entries)


def tinted(
    photo: Tensor,
    labels: Tensor,
    colours: Sequence[Colour],
    entries: Sequence[Entry],
    background: int | None,
    size: tuple[int, int],
) -> Any:
    """`overlay` without its legend, of this width and height."""
    from PIL import Image

    image = Image.fromarray(photo.permute(1, 2, 0).cpu().numpy()).resize(size, Image.Resampling.LANCZOS)
    plain = label_picture(labels, colours).resize(size, Image.Resampling.NEAREST)
    classes = np.asarray(plain)
    pixels = np.asarray(image).astype(np.float32)
    tint = np.asarray(plain.convert("RGB")).astype(np.float32)
    strength = np.where(classes == background, 0.35, _TINT)[..., None]
    pixels = pixels * (1 - strength) + tint * strength
    pixels[_outline(classes, max(1, round(size[0] / 700)))] = 255
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    _name_regions(picture, classes, [entry for entry in entries if entry.label != background])
    return picture


def label_figure(labels: Tensor, colours: Sequence[Colour], entries: Sequence[Entry], background: int | None) -> Any:
    """The labels in their colours, the names in them and a legend below; a PIL image."""
    from PIL import Image

    plain = label_picture(labels, colours)
    size = _readable_size(*labels.shape)
    plain = plain.resize(size, Image.Resampling.NEAREST)
    picture = plain.convert("RGB")
    _name_regions(picture, np.asarray(plain), [entry for entry in entries if entry.label != background])
    return _above_legend(picture, colours, entries)


def as_png(image: Any) -> bytes:
    """A PIL image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=image.mode == "P")
    return buffer.getvalue()


def _readable_size(height: int, width: int) -> tuple[int, int]:
    factor = min(max(1.0, _LEAST_WIDTH / width), _LARGEST / max(height, width))
    return max(1, round(width * factor)), max(1, round(height * factor))


def _above_legend(picture: Any, colours: Sequence[Colour], entries: Sequence[Entry]) -> Any:
    from PIL import Image

    legend = _legend(max(picture.width, _LEAST_WIDTH), colours, entries)
    whole = Image.new("RGB", (legend.width, picture.height + legend.height), _PAPER)
    whole.paste(picture, ((legend.width - picture.width) // 2, 0))
    whole.paste(legend, (0, picture.height))
    return whole


def _outline(classes: np.ndarray[Any, Any], thickness: int) -> np.ndarray[Any, Any]:
    edge = np.zeros(classes.shape, dtype=bool)
    for shift in range(1, thickness + 1):
        edge[:, shift:] |= classes[:, shift:] != classes[:, :-shift]
        edge[shift:] |= classes[shift:] != classes[:-shift]
    return edge


def _name_regions(image: Any, classes: np.ndarray[Any, Any], entries: Sequence[Entry]) -> None:
    """The name of each class where most of it is around, so that nobody needs the colours to tell classes apart."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(image)
    letter = max(13, round(image.width / 50))
    step = max(1, round(max(classes.shape) / 96))
    for entry in entries:
        name, font = _drawable(entry, letter)
        row, column, around = _deepest(classes[::step, ::step] == entry.label)
        width = font.getlength(name)
        if around * step < letter / 2 or width > image.width:
            continue
        left = min(max(column * step - width / 2, 4), image.width - width - 4)
        middle = min(max(row * step, letter), image.height - letter)
        draw.rounded_rectangle(
            (left - 4, middle - 0.75 * letter, left + width + 4, middle + 0.75 * letter), letter / 3, _INK
        )
        _write(draw, left, middle, name, _PAPER, font)


def _deepest(mask: np.ndarray[Any, Any]) -> tuple[int, int, int]:
    """Row and column of the place in the mask that is furthest from its edge, and how far that is."""
    inside, depth = np.pad(mask, 1), 0
    left = inside
    while left.any():
        inside, depth = left, depth + 1
        left = inside.copy()
        for axis in (0, 1):
            for shift in (-1, 1):
                left &= np.roll(inside, shift, axis)
    places = np.argwhere(inside)
    if len(places) == 0:
        return 0, 0, 0
    row, column = places[len(places) // 2] - 1
    return int(row), int(column), depth


def _legend(width: int, colours: Sequence[Colour], entries: Sequence[Entry]) -> Any:
    """Swatch, name and share of each class, in as many columns as the longest name leaves room for."""
    from PIL import Image, ImageDraw

    letter = max(16, round(width / 46))
    plain, margin, line = plain_font(letter), letter, round(1.7 * letter)
    texts = [(*_drawable(entry, letter), _percent(entry.share)) for entry in entries]
    widths = [font.getlength(name) + plain.getlength(f"  {share}") for name, font, share in texts]
    cell = round(max(widths)) + 3 * letter
    columns = max(1, min(len(entries), (width - 2 * margin) // cell))
    rows = math.ceil(len(entries) / columns)
    picture = Image.new("RGB", (max(width, cell + 2 * margin), rows * line + 2 * margin), _PAPER)
    draw = ImageDraw.Draw(picture)
    for i, (entry, (name, font, share)) in enumerate(zip(entries, texts)):
        left, top = margin + i // rows * cell, margin + i % rows * line
        draw.rectangle((left, top, left + letter, top + letter), colours[entry.label], _INK)
        _write(draw, left + 1.6 * letter, top + letter / 2, name, _INK, font)
        shift = font.getlength(name) + plain.getlength("  ")
        _write(draw, left + 1.6 * letter + shift, top + letter / 2, share, _FAINT, plain)
    return picture


def _drawable(entry: Entry, letter: int) -> tuple[str, Any]:
    """What stands in the legend, and its font: a name whose letters no font has is the number of its label."""
    name = _shortened(entry.name)
    font = font_for(name, letter)
    return (name, font) if font is not None else (f"#{entry.label}", plain_font(letter))


def _write(draw: Any, left: float, middle: float, text: str, colour: Colour, font: Any) -> None:
    """From the left, about a middle line; Pillow's bitmap font knows no anchor."""
    if hasattr(font, "getname"):
        draw.text((left, middle), text, colour, font, anchor="lm")
    else:
        draw.text((left, middle - font.getbbox(text)[3] / 2), text, colour, font)


def _shortened(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:39]}…"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"
