"""Letters for the legend: the first font here that has those of a name."""

from __future__ import annotations

import importlib.util
import warnings
from functools import cache
from pathlib import Path
from typing import Any

_SYSTEM = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "Arial Unicode.ttf",
    "arial.ttf",
    "Arial.ttf",
    "segoeui.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKjp-Regular.otf",
    "wqy-microhei.ttc",
    "Hiragino Sans GB.ttc",
    "PingFang.ttc",
    "msgothic.ttc",
    "msyh.ttc",
    "malgun.ttf",
    "NotoSansArabic-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "Nirmala.ttf",
)
"""Names by which Pillow finds fonts where a system keeps them, from the most letters of the most languages."""

_NONE = "\U0010ffff"
"""A character that no font has."""


def font_for(text: str, size: int) -> Any:
    """The first of Pillow's fonts that has all letters, or None, with a warning, where none has."""
    for font in _fonts(size):
        if all(_has(font, char) for char in set(text)):
            return font
    warnings.warn(f"legend: no font here has the letters of {text!r}, so its number stands there", stacklevel=2)
    return None


def plain_font(size: int) -> Any:
    """For numbers and English."""
    return _fonts(size)[0]


@cache
def _fonts(size: int) -> tuple[Any, ...]:
    from PIL import ImageFont

    return (*(ImageFont.truetype(name, size) for name in _names()), _builtin(size))


@cache
def _names() -> tuple[str, ...]:
    """Of the fonts that are there: matplotlib carries DejaVu Sans."""
    from PIL import ImageFont

    spec = importlib.util.find_spec("matplotlib")
    folders = (spec and spec.submodule_search_locations) or ()
    carried = [str(Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf") for folder in folders]
    found = []
    for name in (*carried, *_SYSTEM):
        try:
            ImageFont.truetype(name, 16)
        except Exception:  # not there, damaged, or a Pillow without FreeType
            continue
        found.append(name)
    return tuple(found)


def _builtin(size: int) -> Any:
    """Pillow's own: with FreeType and from 10.1 of any size, else 11 pixels high."""
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError):
        return ImageFont.load_default()


def _has(font: Any, char: str) -> bool:
    if char.isspace():
        return True
    if not hasattr(font, "getname"):  # the bitmap font
        return char.isascii()
    return bytes(font.getmask(char)) != _missing(font)


@cache
def _missing(font: Any) -> bytes:
    """How a font draws what it lacks."""
    return bytes(font.getmask(_NONE))
