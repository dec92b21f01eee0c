"""Cityscapes, its 500 images of validation, fine masks."""

from __future__ import annotations

from pathlib import Path

from cdam_fast.evaluation.dataset import VOID, Dataset
from cdam_fast.evaluation.datasets.classes import CLASSES
from cdam_fast.evaluation.datasets.layout import count_note, find, meaning_of, names_in, notes, samples_of

_WHAT = "the folder of Cityscapes or the one above it"
_PHOTO = "_leftImg8bit.png"
_TRAIN_IDS, _IDS = "_gtFine_labelTrainIds.png", "_gtFine_labelIds.png"

_NUMBERS = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)
"""Of the 19 classes the id; the other ids, 0 to 33, are void."""


def cityscapes(root: Path) -> Dataset:
    """19 classes; masks of train ids, or, where there are none, of ids."""
    home = find(root, _WHAT, "leftImg8bit/val", "", "cityscapes")
    find(home, _WHAT, "gtFine/val", "")
    photos, masks = home / "leftImg8bit/val", home / "gtFine/val"
    ending, meaning, note = _TRAIN_IDS, meaning_of({i: i for i in range(19)}), ""
    names = names_in(masks, ending, depth=2)
    if not names:
        ids = {number: i for i, number in enumerate(_NUMBERS)}
        ending, meaning, note = _IDS, meaning_of({i: ids.get(i, VOID) for i in range(34)}), "ids to 19 classes"
        names = names_in(masks, ending, depth=2)
    if not names:
        raise ValueError(f"root: got {root}, takes {_WHAT}: no *{_TRAIN_IDS} or *{_IDS} in the folders of {masks}")
    names |= names_in(photos, _PHOTO, depth=2)
    samples = samples_of(sorted(names), photos, _PHOTO, masks, ending)
    return Dataset("cityscapes", CLASSES["cityscapes"], samples, meaning, None, notes(count_note(samples, 500), note))
