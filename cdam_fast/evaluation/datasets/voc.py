"""PASCAL VOC 2012, its 1,449 images of validation."""

from __future__ import annotations

from pathlib import Path

from cdam_fast.evaluation.dataset import Dataset
from cdam_fast.evaluation.datasets.classes import CLASSES
from cdam_fast.evaluation.datasets.layout import count_note, find, meaning_of, read_list, samples_of

_LIST = "ImageSets/Segmentation/val.txt"
_MASKS = "SegmentationClass"


def voc21(root: Path) -> Dataset:
    """Background and 20 classes: a mask's palette has 0 to 20, and 255 as void along the borders."""
    return _open("voc21", root, first=0)


def voc20(root: Path) -> Dataset:
    """The 20 classes: background is void too."""
    return _open("voc20", root, first=1)


def _open(name: str, root: Path, first: int) -> Dataset:
    """first: the value of the first class in a mask."""
    home = find(root, "VOCdevkit/VOC2012 or a folder above it", _LIST, "", "VOC2012", "VOCdevkit/VOC2012")
    for folder in ("JPEGImages", _MASKS):
        find(home, "VOC2012 with its photographs and masks", folder, "")
    samples = samples_of(read_list(home / _LIST), home / "JPEGImages", ".jpg", home / _MASKS, ".png")
    classes = CLASSES[name]
    meaning = meaning_of({first + i: i for i in range(len(classes))}, void=(*range(first), 255))
    return Dataset(name, classes, samples, meaning, None if first else 0, count_note(samples, 1449))
