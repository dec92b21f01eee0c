"""Photographs named on the command line, what they are written to, and files that appear whole."""

from __future__ import annotations

import glob
import io
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdam_fast.evaluation.errors import UsageError
from cdam_fast.segmentation.images import as_tensor, check_sides

LABELS, OVERLAY, MAP = "_labels.png", "_overlay.png", "_map.png"
SETTINGS = "cdam_fast"
"""Key of the PNG text in which a picture says what it was made with."""


def find_photos(arguments: Sequence[str]) -> list[Path]:
    """Files, the images directly in folders, and what glob patterns match; each once, our own pictures left out."""
    from PIL import Image

    known = set(Image.registered_extensions())
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            entries = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in known)
            matches = [entry for entry in entries if not entry.name.endswith((LABELS, OVERLAY, MAP))]
            if not matches:
                raise UsageError(f"PHOTO: there is no image in the folder {argument}")
        elif path.exists() or not glob.has_magic(argument):
            matches = [path]  # a missing file is one of the files that fail
        else:
            found_here = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
            matches = [Path(match) for match in found_here if Path(match).is_file()]
            if not matches:
                raise UsageError(f"PHOTO: nothing matches {argument}")
        found |= dict.fromkeys(matches)
    return list(found)


def output_names(photos: Sequence[Path]) -> list[str]:
    """A name for what is written of each photograph: its stem, or folder and name where two stems are the same."""
    stems = Counter(photo.stem for photo in photos)
    names: list[str] = []
    for photo in photos:
        name = photo.stem if stems[photo.stem] == 1 else f"{photo.absolute().parent.name}-{photo.name}"
        taken = sum(name == other or other.startswith(f"{name}-again") for other in names)
        names.append(f"{name}-again{taken}" if taken else name)
    return names


def read_photo(path: Path) -> Tensor:
    """``[3, H, W]`` uint8.

    Raises:
        ValueError: what is wrong with the file, in one line.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            pixels = as_tensor(image)
    except UnidentifiedImageError:
        raise ValueError("not an image that Pillow can read") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    check_sides(pixels.shape[-2], pixels.shape[-1])
    return pixels if pixels.dtype == torch.uint8 else (pixels * 255).round().to(torch.uint8)


def make_folder(path: str) -> Path:
    """The folder of ``--out``, made where it is missing."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".cdam-fast-"):
            return Path(path)
    except OSError as error:
        raise UsageError(f"--out: cannot write {path}: {error.strerror or error}") from None


def write_whole(path: Path, content: bytes) -> None:
    """Write by rename, so that nobody sees half a file."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise UsageError(f"--out: cannot write {path}: {error.strerror or error}") from None


def png(image: Any, settings: dict[str, Any]) -> bytes:
    """A PIL image as PNG that carries what it was made with."""
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text(SETTINGS, json.dumps(settings, sort_keys=True))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=text, optimize=image.mode == "P")
    return buffer.getvalue()


def made_with(path: Path, settings: dict[str, Any]) -> bool:
    """Whether this is our picture, made with the same settings of the same file."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            recorded = json.loads(getattr(image, "text", {})[SETTINGS])
    except (OSError, KeyError, ValueError, SyntaxError):
        return False
    return bool(recorded == json.loads(json.dumps(settings)))
