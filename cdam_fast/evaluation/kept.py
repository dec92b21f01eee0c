"""Results of single images in a folder, so that a run that was ended goes on."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from cdam_fast.errors import UsageError, reason_of
from cdam_fast.evaluation.dataset import Sample
from cdam_fast.evaluation.reading import Identity, identity_of
from cdam_fast.files import check_room, json_text, readable, write_whole

SETTINGS, RESULT, _IMAGES = "settings.json", "result.json", "images-{}.jsonl"
_FORMAT = "cdam_fast evaluation 1"

TEXTS, ANSWER = "features of the texts", "logits of a test picture"
"""Of the settings those that are measured, so that they differ by rounding."""

_ROUNDING = 5e-5
"""Two kinds of GPU may differ by more in half precision, not measured: they refuse each other's results then."""


class Row(NamedTuple):
    """One image."""

    image: str
    identity: Identity | None
    confusion: Tensor
    """``[C, C]`` int64."""
    seconds: float


class Kept:
    """The folder of one evaluation: its settings, a file of rows for each process, the result.

    A row is a line that is handed to the system at once, at the end of whatever is there by then. What is left of one
    by a process that was ended is dropped.

    Args:
        folder: made where it is missing.
        settings: what decides the results.
        first: whether this process writes the settings; the others come later.

    Raises:
        ValueError: a folder that cannot be written, with something else in it, with other settings, or that another
            run works in.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], *, first: bool) -> None:
        self.folder = folder
        self._file: BinaryIO | None = None
        self._held: BinaryIO | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            check_room(folder / RESULT)
            self._check_settings(settings, first)
            if first:
                self._held = _held_alone(folder / SETTINGS)
        except (OSError, ValueError, UsageError) as error:
            said = str(error).startswith("out: ")
            raise ValueError(str(error) if said else f"out: cannot write {folder}: {reason_of(error)}") from None

    def _check_settings(self, settings: dict[str, Any], first: bool) -> None:
        path = self.folder / SETTINGS
        mine = json.loads(json_text({"format": _FORMAT, "settings": settings}))
        if not path.is_file():
            others = sorted(entry.name for entry in self.folder.iterdir() if not entry.name.startswith("."))
            if others:
                raise ValueError(f"out: {self.folder} holds something else, {others[0]}; takes a folder of its own")
            if first:
                write_whole(path, json_text(mine), "out")
            return
        try:
            there = json.loads(path.read_bytes())
        except ValueError:
            there = None
        if not isinstance(there, dict) or there.get("format") != _FORMAT or not isinstance(there.get("settings"), dict):
            raise ValueError(f"out: {path} is of something else; takes a folder of its own")
        different = difference(there["settings"], mine["settings"])
        if different:
            raise ValueError(f"out: {self.folder} has results with {different}; takes another folder for these")

    def rows(self, samples: Sequence[Sample], classes: int) -> Iterator[Row]:
        """Of the samples whose files are as they were; all files are read before the first.

        Raises:
            ValueError: a file that cannot be read.
        """
        found: dict[str, dict[str, Any]] = {}
        for path in sorted(self.folder.glob(_IMAGES.format("*"))):
            try:
                lines = path.read_bytes().splitlines(keepends=True)
            except OSError as error:
                raise ValueError(f"out: cannot read {path}: {reason_of(error)}") from None
            for line in lines:
                row = _parse(line)
                if row is not None:
                    found[row["image"]] = row
        for sample in samples:
            row = found.get(readable(sample.name))
            identity = identity_of(sample.photo, sample.mask)
            if row is not None and [row["photo"], row["mask"]] == identity:
                confusion = torch.zeros(classes, classes, dtype=torch.int64, device="cpu")
                try:
                    for truth, label, count in row["counts"]:
                        confusion[truth, label] = count
                except (TypeError, ValueError, IndexError, RuntimeError):  # somebody has written in it
                    continue
                yield Row(sample.name, identity, confusion, row["seconds"])

    def add(self, row: Row, rank: int) -> None:
        """Of this process.

        Raises:
            RuntimeError: the folder takes nothing more.
        """
        places = row.confusion.nonzero()
        counts = [[*place, int(row.confusion[tuple(place)])] for place in places.tolist()]
        photo, mask = row.identity or (None, None)
        content = {"image": readable(row.image), "photo": photo, "mask": mask, "counts": counts, "seconds": row.seconds}
        line = json.dumps(content, ensure_ascii=False).encode() + b"\n"
        try:
            if self._file is None:
                self._file = _at_end(self.folder / _IMAGES.format(rank))
            while line:  # a disk that is nearly full takes a part
                line = line[self._file.write(line) :]
        except OSError as error:
            raise RuntimeError(f"out: cannot write {self.folder}: {reason_of(error)}") from None

    def finish(self, result: dict[str, Any]) -> None:
        """Write what came out.

        Raises:
            RuntimeError: the folder takes nothing more.
        """
        try:
            write_whole(self.folder / RESULT, json_text(result), "out")
        except UsageError as error:
            raise RuntimeError(str(error)) from None

    def close(self) -> None:
        """Of this process's rows; another run may work in the folder from here on."""
        for file in (self._file, self._held):
            if file is not None:
                file.close()
        self._file = self._held = None


def _held_alone(path: Path) -> BinaryIO | None:
    """Until it is closed, or this process ends in whatever way; None where the system cannot tell.

    Raises:
        ValueError: another process holds it.
    """
    try:
        import fcntl

        file = path.open("r+b")
    except (ImportError, OSError):  # Windows; or somebody else's file
        return None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, which the processes that read would keep
    except OSError as error:  # also where the file system has no locks
        file.close()
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise ValueError(f"out: another run works in {path.parent}; takes a folder of its own") from None
        return None
    return file


def _at_end(path: Path) -> BinaryIO:
    """Unbuffered, on a line of its own."""
    file = path.open("a+b", buffering=0)
    with contextlib.suppress(OSError):  # an empty one
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
    return file


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(row, dict) and {"image", "photo", "mask", "counts", "seconds"} <= row.keys()
    return row if whole and isinstance(row["image"], str) and isinstance(row["seconds"], (int, float)) else None


def difference(there: dict[str, Any], here: dict[str, Any], path: str = "") -> str:
    """The first setting that is not the same: its name, what it is there, and what it would be here; else empty."""
    for name in [*here, *(name for name in there if name not in here)]:
        old, new = there.get(name), here.get(name)
        if old == new or (name in (TEXTS, ANSWER) and _near(old, new)):
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            return difference(old, new, f"{path}{name}.")
        return f"{path}{name} {_short(old)}, not {_short(new)}"
    return ""


def _near(old: Any, new: Any) -> bool:
    numbers = isinstance(old, list) and isinstance(new, list) and len(old) == len(new)
    return numbers and all(abs(one - other) <= _ROUNDING for one, other in zip(old, new))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
