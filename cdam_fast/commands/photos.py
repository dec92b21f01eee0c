"""Photographs named on the command line."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from cdam_fast.commands.results import made_with
from cdam_fast.errors import UsageError, reason_of
from cdam_fast.segmentation.photo_files import NEEDS, read_photo, readable_endings


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
        matches = [file for file in files if file.suffix.lower() in readable_endings()]
        unread_here = Counter(
            file.suffix.lower() for file in files if file.suffix.lower() in NEEDS.keys() - readable_endings()
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
    return "; ".join(f"{count} {ending}, {NEEDS[ending]}" for ending, count in sorted(unread.items()))


def check_photo(option: str, path: str) -> Tensor:
    """`read_photo`; UsageError names the option."""
    try:
        return read_photo(Path(path))
    except ValueError as error:
        raise UsageError(f"{option}: {path}: {error}") from None
