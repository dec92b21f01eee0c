"""What is written of a photograph: names that no other photograph takes, files that appear whole."""

from __future__ import annotations

import hashlib
import io
import json
import os
import unicodedata
from pathlib import Path
from typing import Any

from cdam_fast.errors import UsageError
from cdam_fast.files import check_room, readable_entries

LABELS, OVERLAY, MAP = "_labels.png", "_overlay.png", "_map.png"
SETTINGS = "cdam_fast"
"""Key of the PNG text in which a picture says what it was made with."""

IDENTITY = "identity"
"""Key in there of the photograph's."""

_STEM_BYTES, _DIGITS = 150, 10
"""Of a name in UTF-8: with the endings it stays below the 255 bytes that file systems take."""

_FORBIDDEN = frozenset('<>:"/\\|?*')
"""On one file system or another."""


def identity(photo: Path) -> str:
    """32 hexadecimal digits that stand for a file name in a folder, by whatever way the folder is named."""
    place = os.path.join(os.path.realpath(photo.parent), photo.name)  # noqa: PTH118 - Path.resolve follows the file's own link
    return hashlib.sha256(os.fsencode(place)).hexdigest()[:32]


def result_name(photo: Path) -> str:
    """Name of what is written, without its ending: the photograph's, shortened, and digits of its identity.

    It depends on the photograph's place alone, so that no other one's result has it, on a file system that ignores
    letter case, normalises Unicode or drops trailing characters too.
    """
    plain = "".join("_" if _is_forbidden(char) else char for char in photo.stem)
    short = plain.encode()[:_STEM_BYTES].decode(errors="ignore")
    return f"{short}-{identity(photo)[:_DIGITS]}"


def _is_forbidden(char: str) -> bool:
    return char in _FORBIDDEN or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")


def make_folder(path: str) -> Path:
    """The folder of ``--out``, made where it is missing."""
    folder = Path(path)
    if not path:
        raise UsageError("--out: got an empty name, takes a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_room(folder / "name")
    except (OSError, ValueError) as error:
        raise UsageError(f"--out: cannot write {path}: {getattr(error, 'strerror', None) or error}") from None
    return folder


def png(image: Any, settings: dict[str, Any]) -> bytes:
    """A PIL image as PNG that carries what it was made with."""
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text(SETTINGS, json.dumps(readable_entries(settings), sort_keys=True))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=text, optimize=image.mode == "P")
    return buffer.getvalue()


def made_with(path: Path) -> dict[str, Any] | None:
    """The settings in a picture or a JSON file of ours; None for any other file."""
    from PIL import Image

    if not path.is_file():
        return None
    try:
        if path.suffix == ".json":
            found = json.loads(path.read_bytes())["settings"]
        else:
            with Image.open(path, formats=["PNG"]) as image:
                found = json.loads(image.info[SETTINGS])
    except Exception:  # damaged, or somebody else's
        return None
    return found if isinstance(found, dict) else None


def is_made_with(path: Path, settings: dict[str, Any]) -> bool:
    """Whether this is ours, made with the same settings of the same file."""
    return bool(made_with(path) == json.loads(json.dumps(readable_entries(settings))))


def check_own(path: Path, photo: Path) -> None:
    """Raise where writing would replace what was made from another photograph."""
    other = (made_with(path) or {}).get(IDENTITY)
    if other not in (None, identity(photo)):
        raise UsageError(f"--out: {path} was made from another photograph and is kept; take another folder")
