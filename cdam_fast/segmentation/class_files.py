"""Lists of classes in text files, as SCLIP's and ClearCLIP's repositories keep them."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Union

ClassNames = list[Union[str, list[str]]]

_LARGEST = 1 << 20  # bytes; the lists of the field have a few thousand
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_class_file(path: Path) -> ClassNames:
    """A class a line, its synonyms after ",", ";" or "|"; blank lines are left out.

    UTF-8 with or without a byte order mark, UTF-16 with one; line ends of any system.

    Raises:
        ValueError: no such file, no text, a line without a word, no class.
    """
    try:
        if not path.is_file():
            reason = "is no file of text" if path.exists() else "is not there"
            raise ValueError(f"class_names: {path} {reason}; takes a file, a class a line")
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ValueError(f"class_names: {path} has over {_LARGEST} bytes, takes a list of classes")
        text = content.decode("utf-16" if content.startswith(_UTF16) else "utf-8-sig")
    except OSError as error:
        raise ValueError(f"class_names: cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"class_names: {path} is no text in UTF-8 (byte {error.start})") from None
    names: ClassNames = []
    for number, line in enumerate(text.splitlines(), 1):
        synonyms = [word for word in map(str.strip, re.split("[,;|]", line)) if word]
        if line.strip() and not synonyms:
            raise ValueError(f"class_names: {path}, line {number}: got {line!r}, takes a word, synonyms after commas")
        if synonyms:
            names.append(synonyms[0] if len(synonyms) == 1 else synonyms)
    if not names:
        raise ValueError(f"class_names: {path} has no class, takes one a line")
    return names
