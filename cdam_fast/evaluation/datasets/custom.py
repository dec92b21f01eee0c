"""A data set of one's own: a folder of photographs, one of masks, and a file of classes."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path

from cdam_fast.evaluation.dataset import Dataset, Sample
from cdam_fast.evaluation.datasets.layout import find, meaning_of
from cdam_fast.segmentation.class_files import read_class_file
from cdam_fast.segmentation.photo_files import NEEDS, readable_endings
from cdam_fast.segmentation.words import BACKGROUND

_PHOTOS = "images"
_MASKS = ("masks", "annotations")
_ENDINGS = (".png", ".tif", ".tiff", ".bmp")
"""Of masks: formats that keep each value."""

_MOST_CLASSES = 32767


def custom(root: Path, class_file: Path) -> Dataset:
    """``images/`` and ``masks/`` (or ``annotations/``) below the root, without folders of their own.

    A mask has its photograph's name but for the ending, which is .png, .tif, .tiff or .bmp. Its values are the places
    of the classes in the file, from 0, blank lines not counted. 255 is void, and 65535 in a mask of 16 bits. With
    more than 255 classes, which take 16 bits, 255 is a class and 65535 alone is void.
    """
    words = _read_classes(class_file)
    classes = tuple(one[0] for one in words)
    what = f"a folder with {_PHOTOS} and {' or '.join(_MASKS)}"
    photos = _files(find(root, what, _PHOTOS, "") / _PHOTOS, readable_endings() | NEEDS.keys(), "photograph")
    there = [folder for folder in _MASKS if (root / folder).is_dir()]
    if len(there) != 1:
        found = " and ".join(there) if there else f"no {' or '.join(_MASKS)}"
        raise ValueError(f"root: got {root}, takes {what}: there is {found}")
    masks = _files(root / there[0], _ENDINGS, "mask")
    samples = tuple(
        Sample(
            name,
            photos.get(name, root / _PHOTOS / f"{name}.jpg"),
            masks.get(name, root / there[0] / f"{name}.png"),
        )
        for name in sorted(photos.keys() | masks.keys())
    )
    void = (65535,) if len(classes) > 255 else (255, 65535)
    meaning = meaning_of({i: i for i in range(len(classes))}, void=void, values=65536)
    background = next((i for i, one in enumerate(words) if BACKGROUND in map(str.casefold, one)), None)
    return Dataset("custom", classes, samples, meaning, background)


def _read_classes(path: Path) -> list[list[str]]:
    """The words of each class, its name first."""
    try:
        words = [[one] if isinstance(one, str) else one for one in read_class_file(path)]
    except ValueError as error:
        raise ValueError(str(error).replace("class_names:", "classes:", 1)) from None
    ((name, count),) = Counter(one[0] for one in words).most_common(1)
    if count > 1:
        raise ValueError(f"classes: {path} has {count} classes of the name {name!r}")
    if len(words) > _MOST_CLASSES:
        raise ValueError(f"classes: {path} has {len(words)} classes, takes at most {_MOST_CLASSES}")
    return words


def _files(folder: Path, endings: frozenset[str] | tuple[str, ...], what: str) -> dict[str, Path]:
    """By name, composed as Unicode's NFC: some systems take the accents of file names apart."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in endings and not path.name.startswith("."):
            name = unicodedata.normalize("NFC", path.stem)
            if name in found:
                raise ValueError(f"root: {folder} has two {what}s of one name: {found[name].name} and {path.name}")
            found[name] = path
    if not found:
        raise ValueError(f"root: no {what} in {folder}, takes files ending in {', '.join(sorted(endings)[:8])} ...")
    return found
