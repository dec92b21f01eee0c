"""What the readers share: where things are, lists of names, and what a mask's values mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from cdam_fast.errors import reason_of
from cdam_fast.evaluation.dataset import INVALID, VOID, Sample
from cdam_fast.segmentation.photo_files import check_regular

Meaning = NDArray[np.int16]


def meaning_of(
    classes: Mapping[int, int], *, void: Iterable[int] = (255,), rest: int = INVALID, values: int = 256
) -> Meaning:
    """``[values]`` int16, `Dataset.meaning`.

    Args:
        classes: of values the class; a value of void or rest may be among them.
        void: values that count for nothing; 255 is mmseg's for every data set.
        rest: of all other values.
        values: how many there can be: 256 in 8 bits.
    """
    meaning = np.full(values, rest, dtype=np.int16)
    meaning[list(void)] = VOID
    meaning[list(classes)] = list(classes.values())
    return meaning


def find(root: Path, what: str, wanted: str, *folders: str) -> Path:
    """The first of the folders below the root (``""`` is the root) that has the wanted file or folder.

    Raises:
        ValueError: none has; where it was looked for.
    """
    places = [root / folder for folder in folders]
    for place in places:
        if (place / wanted).exists():
            return place
    raise ValueError(f"root: got {root}, takes {what}: no {wanted} in {' or '.join(map(str, places))}")


def read_list(path: Path) -> list[str]:
    """Names, one a line; blanks at the ends and blank lines do not count, nor does the system of the line ends.

    Raises:
        ValueError: no text; several entries on a line; a name out of the folder, with its ending or twice; none.
    """
    try:
        check_regular(path)
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"root: cannot read {path}: {reason_of(error)}") from error
    names: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if not name:
            continue
        inside = PurePosixPath(name)
        if len(name.split()) > 1 or inside.is_absolute() or ".." in inside.parts:
            raise ValueError(f"root: {path}, line {number}: got {name!r}, takes the name of one photograph")
        if inside.suffix.lower() in (".jpg", ".jpeg", ".png", ".mat"):
            raise ValueError(f"root: {path}, line {number}: got {name}, takes a name without its ending")
        if name in names:
            raise ValueError(f"root: {path}, line {number}: {name} is in line {names[name]} already")
        names[name] = number
    if not names:
        raise ValueError(f"root: {path} has no name, takes one a line")
    return list(names)


def names_in(folder: Path, ending: str, depth: int = 1, skip: str | None = None) -> set[str]:
    """Of the files with that ending, without it, as paths below the folder; not those that begin with a dot.

    Args:
        folder: where; it need not be there.
        ending: such as "_labelIds.png".
        depth: 1 is the folder's own files, 2 those of its folders.
        skip: leave out endings that have this in them too.
    """
    names = set()
    for path in folder.glob("/".join("*" * depth)):
        if path.name.endswith(ending) and not path.name.startswith(".") and not (skip and path.name.endswith(skip)):
            names.add(path.relative_to(folder).as_posix()[: -len(ending)])
    return names


def samples_of(names: Iterable[str], photos: Path, photo: str, masks: Path, mask: str) -> tuple[Sample, ...]:
    """A sample for each name, whether its files are there or not: one that lacks a file fails when it is read.

    Args:
        names: of the samples.
        photos, masks: the folders.
        photo, mask: what follows a name in the name of its file.
    """
    return tuple(Sample(name, photos / f"{name}{photo}", masks / f"{name}{mask}") for name in names)


def count_note(samples: tuple[Sample, ...], usual: int) -> str:
    """Empty where the data set is whole."""
    return "" if len(samples) == usual else f"{len(samples)} images; the whole set has {usual}"


def notes(*parts: str) -> str:
    """Those that say something, as one line."""
    return "; ".join(filter(None, parts))
