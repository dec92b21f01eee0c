"""Class names, their synonyms, and which class is the background."""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cdam_fast.arguments import plain
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
    """The class that a pixel below the threshold becomes."""

    @property
    def synonyms(self) -> tuple[int, ...]:
        """How many words each class has."""
        return tuple(self.classes.count(i) for i in range(len(self.names)))


def check_class_names(class_names: object, background_class: object = None) -> Words:
    """A sequence of strings or of sequences of synonyms, or a path of `read_class_file`'s; the background's class.

    A word twice, letter case aside, is said: in two classes, a pixel of it gets the first.

    Raises:
        TypeError: no sequence, or something else than strings in it. ValueError: no class, a class without a word,
            an empty or overlong word, one of several lines or with control characters, more than 100 synonyms of a
            class, no such background, a file that cannot be read.
    """
    takes = "takes a sequence of strings or of lists of synonyms, or the pathlib.Path of a file of them"
    if isinstance(class_names, os.PathLike):
        class_names = read_class_file(Path(class_names))
    class_names = plain(class_names)
    if isinstance(class_names, str) or not isinstance(class_names, Sequence):
        raise TypeError(f"class_names: got {type(class_names).__name__}, {takes}")
    if not class_names:
        raise ValueError(f"class_names: got no class, {takes}")
    words: list[str] = []
    classes: list[int] = []
    names = []
    for i, entry in enumerate(map(plain, class_names)):
        synonyms = [entry] if isinstance(entry, str) else entry
        if not isinstance(synonyms, Sequence) or not all(isinstance(word, str) for word in synonyms):
            raise TypeError(f"class_names[{i}]: got {entry!r}, {takes}")
        if not synonyms or not all(word.strip() for word in synonyms):
            raise ValueError(f"class_names[{i}]: got {entry!r}, takes at least one word, none of them empty")
        if len(synonyms) > MOST_SYNONYMS:
            raise ValueError(f"class_names[{i}]: got {len(synonyms)} synonyms, takes at most {MOST_SYNONYMS}")
        stripped = [_check_word(i, word.strip()) for word in synonyms]
        names.append(stripped[0])
        words += stripped
        classes += [i] * len(stripped)
    _say_repeated(words, classes, names)
    background = _background_class(plain(background_class), names, words, classes)
    return Words(tuple(names), tuple(words), tuple(classes), background)


def _check_word(i: int, word: str) -> str:
    if len(word) > LONGEST_WORD:
        raise ValueError(f"class_names[{i}]: got a word of {len(word)} characters, takes {LONGEST_WORD}")
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in word):
        raise ValueError(
            f"class_names[{i}]: got {word!r}, takes words of one line without control characters; a file, a class a "
            "line, is given by its path"
        )
    if not word.isascii() and any("\ud800" <= letter <= "\udfff" for letter in word):
        raise ValueError(f"class_names[{i}]: got {word!r}, takes text; these bytes were no UTF-8")
    return word


def _say_repeated(words: Sequence[str], classes: Sequence[int], names: Sequence[str]) -> None:
    first: dict[str, int] = {}
    repeated = {}
    for word, of in zip(words, classes):
        earlier = first.setdefault(word.casefold(), of)
        if earlier != of:
            repeated[word] = f"{word!r} ({names[earlier]}, {names[of]})"
    twice = len(words) - len(first)
    if repeated:
        shown = ", ".join(list(repeated.values())[:5]) + (f" and {len(repeated) - 5} more" if len(repeated) > 5 else "")
        warnings.warn(
            f"class_names: in two classes: {shown}; a pixel of such a word gets the first of them", stacklevel=5
        )
    elif twice:
        warnings.warn(f"class_names: {twice} words are there a second time", stacklevel=5)


def _background_class(
    background_class: object, names: Sequence[str], words: Sequence[str], classes: Sequence[int]
) -> int | None:
    takes = f"takes None, an index from 0 to {len(names) - 1} or a word of class_names"
    if isinstance(background_class, bool) or not isinstance(background_class, (int, str, type(None))):
        raise TypeError(f"background_class: got {background_class!r}, {takes}")
    if isinstance(background_class, int):
        if not 0 <= background_class < len(names):
            raise ValueError(f"background_class: got {background_class}, {takes}")
        return background_class
    wanted = BACKGROUND if background_class is None else background_class.strip().casefold()
    found = next((of for word, of in zip(words, classes) if word.casefold() == wanted), None)
    if found is None and background_class is not None:
        raise ValueError(f"background_class: got {background_class!r}, {takes}")
    return found
