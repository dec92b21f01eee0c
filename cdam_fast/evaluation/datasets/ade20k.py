"""ADE20K with 150 classes, its 2,000 images of validation, as ADEChallengeData2016 has them."""

from __future__ import annotations

from pathlib import Path

from cdam_fast.evaluation.dataset import Dataset
from cdam_fast.evaluation.datasets.classes import CLASSES
from cdam_fast.evaluation.datasets.layout import count_note, find, meaning_of, names_in, samples_of

_WHAT = "ADEChallengeData2016 or a folder above it"


def ade20k(root: Path) -> Dataset:
    """150 classes: 1 to 150 in a mask; 0, what is none of them, is void."""
    home = find(root, _WHAT, "images/validation", "", "ADEChallengeData2016", "ade/ADEChallengeData2016")
    find(home, _WHAT, "annotations/validation", "")
    photos, masks = home / "images/validation", home / "annotations/validation"
    names = names_in(masks, ".png")
    if not names:
        raise ValueError(f"root: got {root}, takes {_WHAT}: no *.png in {masks}")
    samples = samples_of(sorted(names | names_in(photos, ".jpg")), photos, ".jpg", masks, ".png")
    meaning = meaning_of({i + 1: i for i in range(150)}, void=(0, 255))
    return Dataset("ade20k", CLASSES["ade20k"], samples, meaning, None, count_note(samples, 2000))
