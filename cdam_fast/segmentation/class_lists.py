"""Lists of classes as a person types them."""

from __future__ import annotations

from collections.abc import Callable

from cdam_fast.prompts import CLASS_LISTS
from cdam_fast.segmentation.class_files import ClassNames


def parse_class_list(text: str, read: Callable[[str], ClassNames | None] | None = None) -> ClassNames:
    """``cat,dog,sofa|couch``: classes by commas, synonyms by bars; VOC21 and its kin by their names.

    Args:
        text: the list.
        read: what it returns for an item are that item's classes, and None leaves it a word; so the command line
            reads files. Without it nothing but the text is looked at.

    Raises:
        ValueError: an item without a word.
    """
    by_name = {name.lower(): words for name, words in CLASS_LISTS.items()}
    names: ClassNames = []
    for item in (part.strip() for part in text.split(",")):
        synonyms = [word.strip() for word in item.split("|")]
        if item.lower() in by_name:
            names += by_name[item.lower()]
            continue
        if not all(synonyms):
            takes = "takes words separated by commas, synonyms by bars" + (", or a file" if read else "")
            raise ValueError(f"class_names: got {text!r}, {takes}")
        found = read(item) if read else None
        names += found if found is not None else [synonyms[0] if len(synonyms) == 1 else synonyms]
    return names
