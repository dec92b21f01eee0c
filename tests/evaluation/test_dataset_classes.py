"""Names of classes against the public lists, by hashes of those."""

import hashlib

import pytest

from cdam_fast.evaluation import DATASETS
from cdam_fast.evaluation.datasets.classes import CLASSES

COUNTS = dict(zip(DATASETS, (21, 20, 60, 59, 81, 171, 19, 150)))

PUBLIC = {
    "wangf3014/SCLIP custom_datasets.py PascalVOC20Dataset": ("voc20", "7d877f185c807bc5"),
    "wangf3014/SCLIP custom_datasets.py PascalContext60Dataset": ("context60", "e29ff1a0eaea71eb"),
    "wangf3014/SCLIP custom_datasets.py PascalContext59Dataset": ("context59", "cd808465f06a1616"),
    "NVlabs/GroupViT segmentation/datasets/coco_object.py": ("coco-object", "ecfeb9856a0576d6"),
    "nightrome/cocostuff labels.txt without unlabeled and the eleven": ("coco-stuff", "fb98709b9ab1baff"),
    "wangf3014/SCLIP configs/cls_city_scapes.txt": ("cityscapes", "6f6782fc1bf92bfd"),
    "wangf3014/SCLIP configs/cls_ade20k.txt": ("ade20k", "e53ded02c488bdb9"),
}
"""Of public files: the first 16 digits of the SHA-256 of the names, blanks taken out, one a line."""


def digest(names):
    return hashlib.sha256("\n".join(name.replace(" ", "") for name in names).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", DATASETS)
def test_counts(name):
    assert len(CLASSES[name]) == COUNTS[name]
    assert len(set(CLASSES[name])) == COUNTS[name]
    assert all(word == word.strip() and word for word in CLASSES[name])


@pytest.mark.parametrize("source", PUBLIC)
def test_public_lists(source):
    names, expected = PUBLIC[source]
    assert digest(CLASSES[names]) == expected


def test_lists_agree_with_each_other():
    assert CLASSES["voc21"] == ("background", *CLASSES["voc20"])
    assert CLASSES["context60"] == ("background", *CLASSES["context59"])
    assert CLASSES["coco-object"][1:] == CLASSES["coco-stuff"][:80]
    assert sorted(CLASSES["context59"]) == list(CLASSES["context59"])  # as labels.txt of the data set has them
