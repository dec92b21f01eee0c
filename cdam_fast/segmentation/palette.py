"""Colours of classes that stay apart for every kind of colour vision."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

Colour = tuple[int, int, int]

MOST_CLASSES = 256
"""Of a palette."""

_VISIONS = (
    # linear red, green and blue as they are seen without deviation, then by protanopes, deuteranopes and tritanopes:
    # Machado, Oliveira and Fernandes (2009), severity 1
    ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
)

_TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
_WHITE = (0.9505, 1.0, 1.0890)

_FIRST: tuple[Colour, ...] = (
    # Okabe and Ito (2008), "Color Universal Design": blue, orange, green, purple, sky blue, vermilion, yellow
    *((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66)),
)

_STEPS = 12
"""Of each channel, between colours that may be chosen."""

_LIGHTNESS = (25.0, 90.0)
"""CIE L* of a colour: a darker one is taken for the background, a lighter one is lost on paper."""


def palette(count: int, background: int | None) -> list[Colour]:
    """A colour for each of up to 256 classes; the background is black.

    Seven of Okabe and Ito, then each time the one that is furthest from those before it, in CIELAB, for whichever of
    four visions tells them apart least.
    """
    colours = list(_colours()[: count if background is None else count - 1])
    if background is not None:
        colours.insert(background, (0, 0, 0))
    return colours


@cache
def _colours() -> tuple[Colour, ...]:
    levels = np.linspace(0, 255, _STEPS).round()
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    lightness = seen(candidates)[0, :, 0]
    candidates = candidates[(lightness > _LIGHTNESS[0]) & (lightness < _LIGHTNESS[1])]
    places = seen(candidates)
    before = seen(np.array([(0, 0, 0), *_FIRST], dtype=float))
    nearest = np.linalg.norm(places[:, :, None] - before[:, None], axis=-1).min((0, 2))
    chosen: list[int] = []
    for _ in range(MOST_CLASSES - len(_FIRST)):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(places - places[:, chosen[-1:]], axis=-1).min(0))
    return _FIRST + tuple((int(red), int(green), int(blue)) for red, green, blue in candidates[chosen])


def seen(colours: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """CIELAB of sRGB colours ``[N, 3]`` from 0 to 255 for each of the four visions, ``[4, N, 3]``."""
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    visible = np.clip(linear @ np.swapaxes(np.array(_VISIONS), -1, -2), 0, 1)
    ratio = visible @ np.array(_TO_XYZ).T / np.array(_WHITE)
    x, y, z = np.moveaxis(np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)
