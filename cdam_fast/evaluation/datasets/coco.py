"""COCO val2017, 5,000 images: COCO-Stuff's 171 classes, and COCO-Object, background and the 80 classes of things.

Masks of either are ``*_labelTrainIds.png`` as mmseg converts them (0 to 170, 255 void), or the pixel maps of the
download stuffthingmaps (0 to 181, eleven of which were dropped, 255 unlabelled). COCO-Object also takes the
``*_instanceTrainIds.png`` that GroupViT's converter makes of those maps: 0 background, 1 to 80 the things. There
what is unlabelled becomes background as stuff does, so nothing is void, and the other two are read the same way.
Polygons of ``instances_val2017.json`` are not read: they make other masks at the borders, and where things overlap.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cdam_fast.evaluation.dataset import Dataset
from cdam_fast.evaluation.datasets.classes import CLASSES
from cdam_fast.evaluation.datasets.layout import Meaning, count_note, meaning_of, names_in, notes, samples_of

_HOMES = ("", "coco_stuff164k", "coco")
_PHOTOS = ("images/val2017", "val2017")
_MASKS = ("annotations/val2017", "stuffthingmaps/val2017", "annotations/stuffthingmaps/val2017")
_CONVERTED = "TrainIds.png"

_DROPPED = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
"""Values of the maps, one less than their number in COCO-Stuff's labels.txt, that no pixel has."""

_MAPS = [value for value in range(182) if value not in _DROPPED]
"""Of each of the 171 classes its value in the maps."""


class _Masks(NamedTuple):
    ending: str
    meaning: Meaning
    note: str = ""


_STUFF_MASKS = (
    _Masks("_labelTrainIds.png", meaning_of({i: i for i in range(171)})),
    _Masks(".png", meaning_of({value: i for i, value in enumerate(_MAPS)}), "ids of stuffthingmaps to 171 classes"),
)
_OBJECT_MASKS = (
    _Masks("_instanceTrainIds.png", meaning_of({i: i for i in range(81)})),
    _Masks(
        ".png",
        meaning_of({value: i + 1 if i < 80 else 0 for i, value in enumerate(_MAPS)} | {255: 0}),
        "things of stuffthingmaps, all else background",
    ),
    _Masks(
        "_labelTrainIds.png",
        meaning_of({i: i + 1 if i < 80 else 0 for i in range(171)} | {255: 0}),
        "things of the 171 classes, all else background",
    ),
)


def coco_stuff(root: Path) -> Dataset:
    """80 classes of things and 91 of stuff."""
    return _open("coco-stuff", root, _STUFF_MASKS, None)


def coco_object(root: Path) -> Dataset:
    """Background and 80 classes of things."""
    return _open("coco-object", root, _OBJECT_MASKS, 0)


def _open(name: str, root: Path, kinds: tuple[_Masks, ...], background: int | None) -> Dataset:
    what = "coco_stuff164k or the folder above it"
    places = [(home, photos) for home in _HOMES for photos in _PHOTOS]
    found = next((place for place in places if root.joinpath(*place).is_dir()), None)
    if found is None:
        looked = " or ".join(str(root.joinpath(*place)) for place in places)
        raise ValueError(f"root: got {root}, takes {what}: no photographs, there is no {looked}")
    home, photos = root / found[0], root.joinpath(*found)
    for kind in kinds:
        for folder in (home / masks for masks in _MASKS):
            names = names_in(folder, kind.ending, skip=_CONVERTED if kind.ending == ".png" else None)
            if names:
                names |= names_in(photos, ".jpg")
                samples = samples_of(sorted(names), photos, ".jpg", folder, kind.ending)
                note = notes(count_note(samples, 5000), kind.note)
                return Dataset(name, CLASSES[name], samples, kind.meaning, background, note)
    endings = " or ".join(f"*{kind.ending}" for kind in kinds)
    instead = "; the polygons of instances_val2017.json are not read" if name == "coco-object" else ""
    raise ValueError(f"root: got {root}, takes {what}: no {endings} in {' or '.join(_MASKS)} of {home}{instead}")
