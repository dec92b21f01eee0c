"""What the page asks for: the labels of a photograph, and where a patch attends. Pictures and tables, or a message."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdam_fast.demo.pictures import heat_picture, shown_size
from cdam_fast.demo.session import Key, Pair, Session, Words, as_words, now
from cdam_fast.models import BASES
from cdam_fast.segmentation import Segmentation
from cdam_fast.segmentation.class_lists import parse_class_list
from cdam_fast.segmentation.images import resize_to, resize_to_patches
from cdam_fast.segmentation.palette import MOST_CLASSES, Colour
from cdam_fast.segmentation.photo_files import read_photo
from cdam_fast.segmentation.pictures import Entry, tinted

LONGEST_TEXT = 20_000  # characters
LARGEST_SIDE = 1600  # pixels of a photograph in work; larger ones are reduced
MOST_PIXELS = 64_000_000
LONGEST_MAP = 4
"""Long side over short side of a photograph whose map is shown: it has a row and a column for every patch."""


class PageError(Exception):
    """What the page says in place of a result: one line, in plain text."""


@dataclass(frozen=True)
class Area:
    """A class in one of the two results."""

    name: str
    colour: Colour
    share: float
    """Of the pixels, 0 to 1."""
    score: float | None
    """Mean probability of the best class in its pixels; None where it has none."""


@dataclass(frozen=True)
class View:
    """A segmentation as it is shown."""

    title: str
    picture: Any
    areas: tuple[Area, ...]


@dataclass(frozen=True)
class Seconds:
    """What was measured, from pixels to labels."""

    whole: float
    """Of the segmentation that was asked for."""
    cdam: float | None
    """Of it, the map and its product with the values; None without CDAM."""


@dataclass(frozen=True)
class Segmented:
    """A photograph's result, and what the map of a patch is made from."""

    photo: Tensor = field(repr=False)
    """``[3, H, W]`` uint8."""
    size: tuple[int, int]
    """Width and height of the file's picture."""
    key: Key
    cdam: bool
    views: tuple[View, ...] = field(repr=False)
    seconds: Seconds
    notes: tuple[str, ...]
    maps: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """By title ``[N, N]``, once they were asked for."""
    grid: list[int] = field(default_factory=list)


def parse_words(text: object) -> Words:
    """Words by commas, synonyms by bars, the paper's lists by name; nothing but the text is looked at.

    Raises:
        PageError: no text, no word, a word of control characters, more than 256 classes.
    """
    if not isinstance(text, str) or not text.strip():
        raise PageError('words: type some, separated by commas, such as "cat, dog, sofa|couch"')
    if len(text) > LONGEST_TEXT:
        raise PageError(f"words: got {len(text)} characters, takes at most {LONGEST_TEXT}")
    lines = (line.strip(" \t,") for line in text.splitlines())
    line = ",".join(filter(None, lines))
    with _said(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the segmenter says it again
        words = as_words(parse_class_list(line))
    if len(words) > MOST_CLASSES:
        raise PageError(f"words: got {len(words)}, takes at most {MOST_CLASSES}")
    return words


def read(path: object, most_bytes: int) -> tuple[Tensor, tuple[int, int]]:
    """``[3, H, W]`` uint8, its long side at most 1600, and width and height of the picture in the file.

    Raises:
        PageError: no path, no file, one over the limit, no picture, a damaged one, too many pixels, a strip.
    """
    if not isinstance(path, str) or not path:
        raise PageError("photograph: drop one first")
    file = Path(path)
    try:
        if (length := file.stat().st_size) > most_bytes:
            raise PageError(f"photograph: got {length / 1e6:.1f} MB, takes at most {most_bytes / 1e6:g} MB")
    except OSError:
        raise PageError("photograph: it is no longer here; drop it again") from None
    try:
        _check_pixels(file)
        photo = read_photo(file)
    except ValueError as error:
        raise PageError(f"photograph: {str(error).replace(str(file), 'the file').partition(chr(10))[0]}") from None
    height, width = photo.shape[-2:]
    if max(height, width) > LARGEST_SIDE:
        reduced = resize_to(photo, max(1, round(LARGEST_SIDE * min(height, width) / max(height, width))))
        photo = (reduced * 255).round().to(torch.uint8)
    return photo, (width, height)


def _check_pixels(file: Path) -> None:
    """Before they are decoded; what else is wrong with a file, `read_photo` says."""
    from PIL import Image

    width = height = 0
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(file) as image:
            width, height = image.size
    if width * height > MOST_PIXELS:
        raise PageError(f"photograph: got {width}x{height} pixels, takes at most {MOST_PIXELS // 10**6} million")


def segment(
    session: Session, path: object, text: object, base: object, *, cdam: bool, threshold: bool, most_bytes: int
) -> Segmented:
    """Labels of a photograph by the base alone, and with CDAM where it is on.

    Raises:
        PageError: see `parse_words` and `read`; a base that there is not, what the model cannot do.
    """
    words = parse_words(text)
    photo, size = read(path, most_bytes)
    with _said(), warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        if not isinstance(base, str) or base not in BASES:
            raise PageError(f"base: got {base!r}, takes one of {', '.join(BASES)}")
        with session.lock:
            key = Key(words, base, threshold)
            pair = session.pair(key)
            results, seconds = _timed(pair, photo, cdam)
    views = tuple(_view(title, photo, result) for title, result in zip((f"{base} alone", f"{base} with CDAM"), results))
    notes = tuple(dict.fromkeys(_of_words(str(one.message)) for one in heard if one.category is UserWarning))
    return Segmented(photo, size, key, cdam, views, seconds, notes)


def _timed(pair: Pair, photo: Tensor, cdam: bool) -> tuple[list[Segmentation], Seconds]:
    device = pair.alone.tower.device
    start = now(device)
    results = [pair.alone(photo)]
    if not cdam:
        return results, Seconds(now(device) - start, None)
    pair.clock.seconds = 0.0
    start = now(device)
    results.append(pair.cdam(photo))
    return results, Seconds(now(device) - start, pair.clock.seconds)


def _view(title: str, photo: Tensor, result: Segmentation) -> View:
    classes = tuple(
        Area(row["class"], tuple(row["colour"]), row["area"], row["score"]) for row in result.to_dict()["classes"]
    )
    largest = sorted(range(len(classes)), key=lambda i: -classes[i].share)
    entries = [Entry(i, classes[i].name, classes[i].share) for i in largest if classes[i].share]
    size = shown_size(photo.shape[2], photo.shape[1])
    picture = tinted(photo, result.labels, [one.colour for one in classes], entries, result.background, size)
    return View(title, picture, classes)


def attend(session: Session, segmented: object, point: object, shown: object = None) -> tuple[list[View], str]:
    """Where the patch at a point attends: by the base's own attention, and by CDAM's map where CDAM is on.

    Args:
        session: the one that segmented.
        segmented: the last result.
        point: x and y in pixels, from left and top.
        shown: width and height of the picture that was clicked; None is the file's own.

    Returns:
        the pictures, and a line on the patch.

    Raises:
        PageError: no result yet, no point in the picture, a strip.
    """
    if not isinstance(segmented, Segmented):
        raise PageError("map: segment a photograph first, then click a place in it")
    width, height = shown if isinstance(shown, (tuple, list)) else segmented.size
    inside = (
        isinstance(point, (tuple, list))
        and len(point) == 2
        and all(isinstance(side, (int, float)) and not isinstance(side, bool) for side in point)
        and 0 <= point[0] < width
        and 0 <= point[1] < height
    )
    if not inside or not isinstance(point, (tuple, list)):
        raise PageError("map: that was outside the picture; click a place in it")
    if max(width, height) > LONGEST_MAP * min(width, height):
        raise PageError(f"map: takes a photograph whose long side is at most {LONGEST_MAP} times the short one")
    if not segmented.maps:
        with _said(), session.lock:
            _make_maps(session.pair(segmented.key), segmented)
    rows, columns = segmented.grid
    patch = (int(point[1] * rows // height), int(point[0] * columns // width))
    views = []
    for title, attention in segmented.maps.items():
        row = attention[patch[0] * columns + patch[1]].reshape(rows, columns)
        views.append(View(title, heat_picture(segmented.photo, row, patch), ()))
    return views, f"the patch in row {patch[0] + 1} of {rows}, column {patch[1] + 1} of {columns}"


def _make_maps(pair: Pair, segmented: Segmented) -> None:
    segmenter = pair.cdam
    photo = segmented.photo.to(segmenter.tower.device)
    pixels = segmenter.normalise(resize_to_patches(photo, segmenter.options.short_side, segmenter.tower.patch))
    segmented.grid[:] = segmenter.tower.grid(pixels)
    segmented.maps[f"{segmented.key.base}'s own attention"] = segmenter.base_attention(pixels)[0].cpu()
    if segmented.cdam:
        segmented.maps["CDAM's map"] = segmenter.attention(pixels)[0].cpu()


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """The package's errors name an argument; the page has other names for two."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as error:
        name, colon, rest = str(error).partition(": ")
        if not colon or not name.partition("[")[0].isidentifier():
            raise
        raise PageError(_of_words(f"{name}: {rest}".splitlines()[0])) from None


def _of_words(message: str) -> str:
    name, colon, rest = message.partition(": ")
    if name == "background":  # whose advice is of arguments
        return 'threshold: off, as none of the words is "background"'
    return f"words: {rest}" if name.partition("[")[0] == "class_names" else name + colon + rest
