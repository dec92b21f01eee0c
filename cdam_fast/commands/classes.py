"""``--classes``: words, the paper's lists, and files."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from cdam_fast.errors import UsageError
from cdam_fast.segmentation.class_files import ClassNames, read_class_file
from cdam_fast.segmentation.class_lists import parse_class_list
from cdam_fast.segmentation.palette import MOST_CLASSES
from cdam_fast.segmentation.words import check_class_names

_SEPARATORS = tuple(filter(None, ("/", os.sep, os.altsep)))


def parse_classes(text: str) -> ClassNames:
    """``cat,dog,"sofa|couch"``: classes by commas, synonyms by bars; a file, a class a line; VOC21 and its kin.

    A file wins over a word of its name. What looks like a file, by a separator or by its ending, is never a word.
    """
    try:
        is_file = os.path.isfile(text)  # noqa: PTH113 - Path.is_file raises for a name that is too long
        names = read_class_file(Path(text)) if is_file else parse_class_list(text, _of_file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the segmenter says it again
            check_class_names(names)
    except (TypeError, ValueError) as error:
        raise UsageError("--classes:" + str(error).partition(":")[2]) from None
    if len(names) > MOST_CLASSES:
        raise UsageError(f"--classes: got {len(names)} classes, takes at most {MOST_CLASSES}")
    return names


def _of_file(item: str) -> ClassNames | None:
    if item.lower().endswith(".txt") or any(separator in item for separator in _SEPARATORS):
        return read_class_file(Path(item))
    return None
