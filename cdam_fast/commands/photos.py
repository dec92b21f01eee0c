"""Photographs named on the command line."""

from __future__ import annotations

import contextlib
import glob
import importlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from cdam_fast.commands.results import made_with
from cdam_fast.errors import UsageError, reason_of
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
_NEEDS = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "takes pip install pillow-heif"),
    **dict.fromkeys((".avif", ".avifs"), "takes Pillow 11.3 or newer, or pip install pillow-avif-plugin"),
    ".jxl": "takes pip install pillow-jxl-plugin",
    **dict.fromkeys(_RAW, _EXPORT),
}
"""Endings of photographs that Pillow does not open by itself: what they take."""


def find_photos(arguments: Sequence[str], note: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Files, the photographs directly in folders, and what glob patterns match, each once.

    Pictures that were written by these commands are left out, and so are, in folders, hidden files and what is no
    photograph by its ending; ``note`` hears a line of what was left out though it is one.
    """
    found: dict[str, Path] = {}
    unread: Counter[str] = Counter()
    for argument in arguments:
        matches = _matches(argument, unread)
        found.update({os.path.abspath(match): match for match in matches})  # noqa: PTH100 - without the links
    photos = [path for path in found.values() if path.suffix.lower() != ".png" or made_with(path) is None]
    if unread:
        note("left out: " + _said(unread))
    if not photos:
        raise UsageError(f"PHOTO: got only pictures that cdam-fast made: {', '.join(arguments)}")
    return photos


def _matches(argument: str, unread: Counter[str]) -> list[Path]:
    path = Path(argument)
    if os.path.isdir(argument):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
        try:
            entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        except OSError as error:
            raise UsageError(f"PHOTO: cannot read the folder {argument}: {reason_of(error)}") from None
        files = [entry for entry in entries if os.path.isfile(entry)]  # noqa: PTH113 - as above
        matches = [file for file in files if file.suffix.lower() in _endings()]
        unread_here = Counter(
            file.suffix.lower() for file in files if file.suffix.lower() in _NEEDS.keys() - _endings()
        )
        unread.update(unread_here)
        if not matches:
            left_out = f" ({_said(unread_here)})" if unread_here else ""
            raise UsageError(f"PHOTO: there is no photograph in the folder {argument} that can be read here{left_out}")
        return matches
    if os.path.lexists(argument) or not glob.has_magic(argument):
        return [path]  # a missing file is one of the files that fail
    found = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    matches = [Path(match) for match in found if os.path.isfile(match)]  # noqa: PTH113 - as above
    if not matches:
        raise UsageError(f"PHOTO: nothing matches {argument}")
    return matches


def _said(unread: Counter[str]) -> str:
    return "; ".join(f"{count} {ending}, {_NEEDS[ending]}" for ending, count in sorted(unread.items()))


@cache
def _endings() -> frozenset[str]:
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
    _endings()  # registers the plugins
    try:
        _check_regular(path)
        with Image.open(path) as image:
            pixels = as_tensor(image, "photograph")
    except UnidentifiedImageError:
        hint = f"; {ending} {_NEEDS[ending]}" if ending in _NEEDS.keys() - _endings() else ""
        raise ValueError(f"not an image that Pillow can read{hint}") from None
    except Exception as error:
        raise ValueError(f"cannot be read: {reason_of(error)}") from error
    check_sides(pixels.shape[-2], pixels.shape[-1])
    return pixels if pixels.dtype == torch.uint8 else (pixels * 255).round().to(torch.uint8)


def check_photo(option: str, path: str) -> Tensor:
    """`read_photo`; UsageError names the option."""
    try:
        return read_photo(Path(path))
    except ValueError as error:
        raise UsageError(f"{option}: {path}: {error}") from None


def _check_regular(path: Path) -> None:
    """A pipe or a device would be waited for."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise ValueError(f"it is {kinds.get(stat.S_IFMT(mode), 'a device')}, takes a file")
