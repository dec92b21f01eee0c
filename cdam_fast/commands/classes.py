"""``--classes``: words, the paper's lists, and files."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from cdam_fast.errors import UsageError
from cdam_fast.prompts import CLASS_LISTS
from cdam_fast.segmentation.class_files import ClassNames, read_class_file
from cdam_fast.segmentation.palette import MOST_CLASSES
from cdam_fast.segmentation.words import check_class_names

_SEPARATORS = tuple(filter(None, ("/", os.sep, os.altsep)))


def parse_classes(text: str) -> ClassNames:
    """``cat,dog,"sofa|couch"``: classes by commas, synonyms by bars; a file, a class a line; VOC21 and its kin.

    A file wins over a word of its name. What looks like a file, by a separator or by its ending, is never a word.
    """
    try:
        names = read_class_file(Path(text)) if os.path.isfile(text) else _parse_list(text)  # noqa: PTH113 - never raises
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the segmenter says it again
            check_class_names(names)
    except (TypeError, ValueError) as error:
        raise UsageError("--classes:" + str(error).partition(":")[2]) from None
    if len(names) > MOST_CLASSES:
        raise UsageError(f"--classes: got {len(names)} classes, takes at most {MOST_CLASSES}")
    return names


def _parse_list(text: str) -> ClassNames:
    by_name = {name.lower(): words for name, words in CLASS_LISTS.items()}
    names: ClassNames = []
    for item in (part.strip() for part in text.split(",")):
        synonyms = [word.strip() for word in item.split("|")]
        if item.lower() in by_name:
            names += by_name[item.lower()]
        elif not all(synonyms):
            raise UsageError(f"--classes: got {text!r}, takes words separated by commas, synonyms by bars, or a file")
        elif item.lower().endswith(".txt") or any(separator in item for separator in _SEPARATORS):
            names += read_class_file(Path(item))
        else:
            names.append(synonyms[0] if len(synonyms) == 1 else synonyms)
    return names
