"""PASCAL Context, the validation images of VOC 2010: 5,105, or 5,104 as mmseg's conversion lists them."""

from __future__ import annotations

from pathlib import Path

from cdam_fast.evaluation.dataset import VOID, Dataset
from cdam_fast.evaluation.datasets.classes import CLASSES
from cdam_fast.evaluation.datasets.layout import find, meaning_of, notes, read_list, samples_of

_WHAT = "VOCdevkit/VOC2010 or a folder above it"
_FOLDERS = ("", "VOC2010", "VOCdevkit/VOC2010")
_LIST = "ImageSets/SegmentationContext/val.txt"
_MAIN = "ImageSets/Main/val.txt"
_MASKS = "SegmentationClassContext"

# fmt: off
_LABELS = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159,
    162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397,
    415, 416, 420, 424, 427, 440, 445, 454, 458,
)
# fmt: on
"""Of the 59 classes, in their order: the number among the 459 labels of the data set's own labels.txt, from 1."""


def context60(root: Path) -> Dataset:
    """Background and the 59 frequent classes; what is labelled otherwise is background."""
    return _open("context60", root, background=True)


def context59(root: Path) -> Dataset:
    """The 59 classes: background is void."""
    return _open("context59", root, background=False)


def _open(name: str, root: Path, background: bool) -> Dataset:
    home = find(root, _WHAT, "JPEGImages", *_FOLDERS)
    converted = (home / _MASKS).is_dir()
    if not converted and not (home / "trainval").is_dir():
        raise ValueError(
            f"root: got {root}, takes {_WHAT}: no {_MASKS} in {home}, nor trainval with the .mat files; mmseg's "
            "tools/dataset_converters/pascal_context.py makes the first from trainval_merged.json"
        )
    if not converted:
        import scipy.io  # noqa: F401 - whose lack is said now, not image by image
    listed = _LIST if converted or (home / _LIST).exists() else _MAIN
    find(home, "VOC2010 with the list of its images", listed, "")
    masks, ending = (_MASKS, ".png") if converted else ("trainval", ".mat")
    samples = samples_of(read_list(home / listed), home / "JPEGImages", ".jpg", home / masks, ending)
    values = range(1, 60) if converted else _LABELS
    numbers = {value: i + background for i, value in enumerate(values)}
    other = 0 if background else VOID
    meaning = meaning_of({0: other, **numbers}) if converted else meaning_of(numbers, void=(), rest=other, values=460)
    note = notes(
        f"{len(samples)} images by {listed}; lists of 5105 and of 5104 are in use",
        "" if converted else "59 classes taken from the 459 of the .mat files",
    )
    return Dataset(name, CLASSES[name], samples, meaning, 0 if background else None, note)
