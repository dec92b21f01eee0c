"""The field's data sets as they lie on disk, and one's own: a reader for each family."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cdam_fast.errors import reason_of
from cdam_fast.evaluation.checks import check_path
from cdam_fast.evaluation.dataset import Dataset, Sample
from cdam_fast.evaluation.datasets.ade20k import ade20k
from cdam_fast.evaluation.datasets.cityscapes import cityscapes
from cdam_fast.evaluation.datasets.coco import coco_object, coco_stuff
from cdam_fast.evaluation.datasets.context import context59, context60
from cdam_fast.evaluation.datasets.custom import custom
from cdam_fast.evaluation.datasets.voc import voc20, voc21

_READERS: dict[str, Callable[[Path], Dataset]] = {
    "voc21": voc21,
    "voc20": voc20,
    "context60": context60,
    "context59": context59,
    "coco-object": coco_object,
    "coco-stuff": coco_stuff,
    "cityscapes": cityscapes,
    "ade20k": ade20k,
}

DATASETS: tuple[str, ...] = tuple(_READERS)
"""Names of the field's data sets; `open_dataset` takes "custom" too."""


def open_dataset(name: str, root: str | os.PathLike[str], *, classes: str | os.PathLike[str] | None = None) -> Dataset:
    """The validation images of a data set on disk, converted for mmseg or as it is downloaded.

    The names of the classes are in `cdam_fast.evaluation.datasets.classes`.

    ========================= ==========================================================================================
    name                      what the root has; it may be a folder above too
    ========================= ==========================================================================================
    voc21, voc20              ``VOCdevkit/VOC2012``: JPEGImages, SegmentationClass, ImageSets/Segmentation/val.txt
    context60, context59      ``VOCdevkit/VOC2010``: JPEGImages, and either SegmentationClassContext with
                              ImageSets/SegmentationContext/val.txt, or ``trainval/*.mat``, which take scipy, with
                              ImageSets/Main/val.txt
    coco-object, coco-stuff   ``coco_stuff164k``: images/val2017 or val2017; in annotations/val2017 or
                              stuffthingmaps/val2017 the maps of stuffthingmaps, ``*_labelTrainIds.png``, or for
                              coco-object ``*_instanceTrainIds.png``
    cityscapes                leftImg8bit/val and gtFine/val with ``*_labelTrainIds.png`` or ``*_labelIds.png``
    ade20k                    ``ADEChallengeData2016``: images/validation, annotations/validation
    custom                    images, and masks or annotations
    ========================= ==========================================================================================

    Only lists and names of files are read here. An image whose photograph or mask is missing, or is not what it should
    be, fails when it is read.

    Args:
        name: of `DATASETS`, or "custom".
        root: its folder; ``~`` is the home of the user.
        classes: of "custom" only: a file as `read_class_file` takes it. The first word of a line is the class's name,
            a mask's value is the place of the class, from 0; `CDAMSegmenter` takes the same file for its words.
            Void is 255, or 65535; see `cdam_fast.evaluation.datasets.custom`.

    Raises:
        TypeError: a root or a class file that is no path. ValueError: no such data set; a root or file that is not what
            it should be, with what was looked for, and where; not one photograph with its mask. ModuleNotFoundError: no
            scipy.
    """
    if not isinstance(name, str) or name not in (*_READERS, "custom"):
        raise ValueError(f"name: got {name!r}, takes one of {', '.join(_READERS)}, custom")
    class_file = None if classes is None else check_path("classes", classes, "a file, a class a line")
    if (class_file is None) == (name == "custom"):
        takes = "the file of its classes" if class_file is None else "None"
        raise ValueError(f"classes: got {class_file}, takes {takes} with {name}")
    root = Path(os.path.expanduser(check_path("root", root, "a folder")))  # noqa: PTH111 - Path.expanduser raises where there is no home
    try:
        if not root.is_dir():
            raise ValueError(f"root: {root} {'is a file' if root.exists() else 'is not there'}, takes a folder")
        dataset = _READERS[name](root) if class_file is None else custom(root, class_file)
    except OSError as error:
        raise ValueError(f"root: cannot read {error.filename or root}: {reason_of(error)}") from error
    _check_pairs(dataset.samples)
    return dataset


def _check_pairs(samples: tuple[Sample, ...]) -> None:
    """Some photograph has its mask: else the folder is not what it should be, and each image would say so."""
    there = os.path.exists  # that of a Path raises
    if not any(there(sample.photo) and there(sample.mask) for sample in samples):
        first = samples[0].mask if there(samples[0].photo) else samples[0].photo
        raise ValueError(f"root: not one of {len(samples)} images has photograph and mask; there is no {first}")
