"""Class names and their synonyms."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cdam_fast.segmentation.class_files import read_class_file

MOST_SYNONYMS = 100
LONGEST_WORD = 200  # characters; CLIP reads 77 tokens, template included

BACKGROUND = "background"


class Words(NamedTuple):
    """The words of all classes in a row."""

    names: tuple[str, ...]
    """Of the C classes: the first synonym of each."""
    words: tuple[str, ...]
    """All synonyms of the first class, then of the second, ..."""
    classes: tuple[int, ...]
    """Class of each word."""
    background: int | None
    """The class that has "background" among its synonyms."""

    @property
    def synonyms(self) -> tuple[int, ...]:
        """How many words each class has."""
        return tuple(self.classes.count(i) for i in range(len(self.names)))


def check_class_names(class_names: object) -> Words:
    """A sequence of strings or of sequences of synonyms; no word twice, letter case aside.

    Raises:
        TypeError: no sequence, or something else than strings in it. ValueError: no class, a class without a word,
            an empty, overlong or repeated word, more than 100 synonyms of a class.
    """
    takes = "takes a sequence of strings or of lists of synonyms"
    if isinstance(class_names, os.PathLike):
        class_names = read_class_file(Path(class_names))
    if isinstance(class_names, str) or not isinstance(class_names, Sequence):
        raise TypeError(f"class_names: got {type(class_names).__name__}, {takes}")
    if not class_names:
        raise ValueError(f"class_names: got no class, {takes}")
    words: list[str] = []
    classes: list[int] = []
    first_words = []
    for i, entry in enumerate(class_names):
        synonyms = [entry] if isinstance(entry, str) else entry
        if not isinstance(synonyms, Sequence) or not all(isinstance(word, str) for word in synonyms):
            raise TypeError(f"class_names[{i}]: got {entry!r}, {takes}")
        if not synonyms or not all(word.strip() for word in synonyms):
            raise ValueError(f"class_names[{i}]: got {entry!r}, takes at least one word, none of them empty")
        if len(synonyms) > MOST_SYNONYMS:
            raise ValueError(f"class_names[{i}]: got {len(synonyms)} synonyms, takes at most {MOST_SYNONYMS}")
        first_words.append(synonyms[0].strip())
        for word in map(str.strip, synonyms):
            if len(word) > LONGEST_WORD:
                raise ValueError(f"class_names[{i}]: got a word of {len(word)} characters, takes {LONGEST_WORD}")
            if word.casefold() in map(str.casefold, words):
                raise ValueError(f"class_names[{i}]: got {word!r} a second time, takes each word once")
            words.append(word)
            classes.append(i)
    background = next((of for word, of in zip(words, classes) if word.casefold() == BACKGROUND), None)
    return Words(tuple(first_words), tuple(words), tuple(classes), background)
