"""A photograph's file to pixels."""

from __future__ import annotations

import contextlib
import importlib
import stat
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from cdam_fast.errors import reason_of
from cdam_fast.segmentation.images import as_tensor, check_sides

_NO_PHOTOGRAPHS = frozenset(
    ("BUFR", "DCX", "EPS", "FITS", "FLI", "GRIB", "HDF5", "IPTC", "MCIDAS", "MPEG", "PALM", "PDF", "SPIDER", "WMF")
)
"""Formats of Pillow's that hold documents, films and measurements."""

_RAW = frozenset(
    f".{ending}"
    for line in (
        "3fr arw cr2 cr3 crw dcr dng erf iiq kdc mef mos mrw",
        "nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f",
    )
    for ending in line.split()
)
_EXPORT = "a camera's raw file: export it as JPEG or TIFF"
NEEDS = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "takes pip install pillow-heif"),
    **dict.fromkeys((".avif", ".avifs"), "takes Pillow 11.3 or newer, or pip install pillow-avif-plugin"),
    ".jxl": "takes pip install pillow-jxl-plugin",
    **dict.fromkeys(_RAW, _EXPORT),
}
"""Endings of photographs that Pillow does not open by itself: what they take."""


@cache
def readable_endings() -> frozenset[str]:
    """Of the photographs that Pillow opens here, with the plugins that are installed."""
    from PIL import Image, features

    for plugin in ("pillow_heif", "pillow_avif", "pillow_jxl"):
        with contextlib.suppress(Exception):  # one that is not there or does not work here is named with its files
            module = importlib.import_module(plugin)
            getattr(module, "register_heif_opener", lambda: None)()
    endings = Image.registered_extensions()
    missing = {
        format for format in ("WEBP", "AVIF") if format in endings.values() and not features.check(format.lower())
    }
    return (
        frozenset(
            ending
            for ending, format in endings.items()
            if (format in Image.OPEN or format == "MPO") and format not in _NO_PHOTOGRAPHS | missing
        )
        - _RAW
    )


def read_photo(path: Path) -> Tensor:
    """``[3, H, W]`` uint8.

    Raises:
        ValueError: what is wrong with the file, in one line.
    """
    from PIL import Image, UnidentifiedImageError

    ending = path.suffix.lower()
    if ending in _RAW:
        raise ValueError(_EXPORT)
    readable_endings()  # registers the plugins
    try:
        check_regular(path)
        with Image.open(path) as image:
            pixels = as_tensor(image, "photograph")
    except UnidentifiedImageError:
        hint = f"; {ending} {NEEDS[ending]}" if ending in NEEDS.keys() - readable_endings() else ""
        raise ValueError(f"not an image that Pillow can read{hint}") from None
    except Exception as error:
        raise ValueError(f"cannot be read: {reason_of(error)}") from error
    check_sides(pixels.shape[-2], pixels.shape[-1])
    return pixels if pixels.dtype == torch.uint8 else (pixels * 255).round().to(torch.uint8)


def check_regular(path: Path) -> None:
    """ValueError for what is no file: a pipe or a device would be waited for."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise ValueError(f"it is {kinds.get(stat.S_IFMT(mode), 'a device')}, takes a file")
