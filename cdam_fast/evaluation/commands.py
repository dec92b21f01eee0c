"""``cdam-fast segment`` and ``cdam-fast map``: their options, and what they print."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from cdam_fast.evaluation.errors import UsageError, require_matplotlib
from cdam_fast.evaluation.streams import say, tell

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def add_commands(commands: Any) -> None:
    """Add both commands to argparse's."""
    segment = commands.add_parser(
        "segment",
        help="label every pixel of photographs with one of the words that you give",
        description="Label every pixel of photographs with one of the words that you give. Writes NAME_labels.png "
        "(a palette image, the index is the class) and NAME_overlay.png (the photograph, tinted, with a legend); NAME "
        "is the photograph's with ten digits for its folder, so that no photograph's results replace another's. "
        "Pictures that these commands wrote are never taken as photographs.",
    )
    segment.add_argument("photos", nargs="+", metavar="PHOTO", help="files, folders or quoted patterns")
    segment.add_argument(
        "--classes",
        required=True,
        metavar="LIST|FILE",
        help='words by commas, synonyms by bars: background,cat,"sofa|couch"; or VOC21, Context60, COCO-Object; or a '
        "text file, a class a line, synonyms after commas. "
        'Without a word "background" every pixel gets one of the others',
    )
    segment.add_argument("--json", action="store_true", help="write NAME.json too: area and score of each class")
    segment.add_argument("--no-cdam", action="store_true", help="the base method alone")
    segment.add_argument(
        "--background",
        default="entropy",
        metavar="entropy|none|P",
        help="threshold below which a pixel is background: Eq. 4 of the paper, none, or a probability "
        "(default: %(default)s)",
    )
    segment.add_argument(
        "--threshold-over", choices=("image", "window", "last_window"), default="image", help="default: %(default)s"
    )
    segment.add_argument(
        "--alpha", type=float, metavar="A", help="of Eq. 4 (default: 2.5, and 2.0 for 32-pixel patches)"
    )
    segment.add_argument(
        "--batch-size", type=int, default=8, metavar="B", help="windows at once (default: %(default)s)"
    )
    _add_common(segment)
    show = commands.add_parser(
        "map",
        help="draw where chosen patches of a photograph attend, with and without CDAM and at each scale",
        description="Draw where chosen patches of a photograph attend: by the base method, by CDAM, and by CDAM at "
        "each scale. Writes NAME_X-Y_map.png.",
    )
    show.add_argument("photo", metavar="PHOTO")
    show.add_argument(
        "--point", action="append", required=True, metavar="X,Y", help="pixels from left and top; may be repeated"
    )
    show.add_argument("--classes", default="VOC21", metavar="LIST|FILE", help="as for segment (default: %(default)s)")
    _add_common(show)


def add_device(parser: Any) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda, cuda:1, mps, xpu; auto is the first that is there of cuda, mps, xpu and cpu "
        "(default: %(default)s)",
    )


_SIDES = {"short_side": 448, "window": 448, "stride": 224}
"""Side of the resized photograph, of the windows over it, and the step from window to window."""


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="ViT-B-16", metavar="NAME|FILE.json", help="model of open_clip (default: %(default)s)"
    )
    parser.add_argument(
        "--pretrained",
        default="laion2b_s34b_b88k",
        metavar="TAG|FILE",
        help="its weights: a tag of open_clip, downloaded on first use, or a safetensors file (default: %(default)s)",
    )
    parser.add_argument(
        "--base", default="maskclip", metavar="NAME", help="maskclip, sclip, clearclip or gem (default: %(default)s)"
    )
    for name, default in _SIDES.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=default, metavar="PIXELS", help="default: %(default)s"
        )
    parser.add_argument("--no-augmented", action="store_true", help="leave out the 80 augmented text prompts")
    parser.add_argument(
        "--out", default="cdam-fast-out", metavar="DIR", help="folder to write to (default: %(default)s)"
    )
    add_device(parser)
    parser.add_argument("--dtype", choices=tuple(_DTYPES), default="float32", help="default: %(default)s")
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    """The exit status: 0, or 1 where a photograph failed."""
    with _plain_messages(parsed.command):
        return _segment(parsed) if parsed.command == "segment" else _map(parsed)


def _segment(parsed: argparse.Namespace) -> int:
    from cdam_fast.evaluation.classes import parse_classes
    from cdam_fast.evaluation.photos import find_photos
    from cdam_fast.evaluation.progress import counted
    from cdam_fast.evaluation.results import make_folder
    from cdam_fast.evaluation.segment import run_segment

    classes = parse_classes(parsed.classes)
    left_out: list[str] = []
    photos = find_photos(parsed.photos, left_out.append)
    out = make_folder(parsed.out)
    options = {
        "cdam": not parsed.no_cdam,
        "background": _background(parsed.background),
        "threshold_over": parsed.threshold_over,
        "alpha": parsed.alpha,
        "batch_size": parsed.batch_size,
    }
    segmenter = _segmenter(parsed, classes, options, left_out)
    settings = {"classes": classes, "model": parsed.model, "weights": _weights(parsed.pretrained), "base": parsed.base}
    settings |= {name: value for name, value in options.items() if name != "batch_size"}
    settings |= {name: getattr(parsed, name) for name in _SIDES}
    settings |= {"augmented_prompts": not parsed.no_augmented, "dtype": parsed.dtype}
    with counted(len(photos), "segmenting") as on_photo:
        outcome = run_segment(segmenter, photos, out, settings, as_json=parsed.json, on_photo=on_photo)
    for photo, reason in outcome.failed:
        tell(f"failed: {photo}: {reason}")
    say(f"{len(outcome.written)} written to {out}, {len(outcome.skipped)} done before, {len(outcome.failed)} failed")
    return 1 if outcome.failed else 0


def _map(parsed: argparse.Namespace) -> int:
    from cdam_fast.evaluation.classes import parse_classes
    from cdam_fast.evaluation.mapping import check_points, map_figure, map_name, parse_point
    from cdam_fast.evaluation.photos import read_photo
    from cdam_fast.evaluation.results import IDENTITY, check_own, identity, make_folder, write_whole

    require_matplotlib("map")
    points = [parse_point(text) for text in parsed.point]
    classes = parse_classes(parsed.classes)
    photo = Path(parsed.photo)
    try:
        pixels = read_photo(photo)
    except ValueError as error:
        raise UsageError(f"PHOTO: {photo}: {error}") from None
    check_points(points, pixels)
    path = make_folder(parsed.out) / map_name(photo, points)
    check_own(path, photo)
    segmenter = _segmenter(parsed, classes, {"background": None})
    with _named_errors():
        content = map_figure(segmenter, pixels, points, {"photo": photo.name, IDENTITY: identity(photo)})
    write_whole(path, content)
    say(f"written to {path}")
    return 0


def _segmenter(parsed: argparse.Namespace, classes: Any, options: dict[str, Any], notes: Sequence[str] = ()) -> Any:
    from cdam_fast.evaluation.devices import describe_device, parse_device
    from cdam_fast.segmentation import CDAMSegmenter

    device = parse_device(parsed.device)
    tell(describe_device(device))
    for line in notes:
        _note(parsed.command)(line)
    with _named_errors():
        return CDAMSegmenter.from_pretrained(
            parsed.model,
            parsed.pretrained,
            classes,
            base=parsed.base,
            augmented_prompts=not parsed.no_augmented,
            **{name: getattr(parsed, name) for name in _SIDES},
            device=device,
            dtype=_DTYPES[parsed.dtype],
            **options,
        )


def _background(text: str) -> str | float | None:
    if text in ("entropy", "none"):
        return None if text == "none" else text
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--background: got {text!r}, takes entropy, none or a probability") from None


def _weights(pretrained: str) -> list[Any]:
    """A file is known by its name, size and time, so that other weights under the same name are seen."""
    path = Path(pretrained)
    if not path.is_file():
        return [pretrained]
    return [path.name, path.stat().st_size, path.stat().st_mtime_ns]


_OPTIONS = {
    "class_names": "--classes",
    "model_name": "--model",
    "batch_size": "--batch-size",
    "short_side": "--short-side",
}


@contextlib.contextmanager
def _named_errors() -> Iterator[None]:
    """The package's errors name an argument; here it is an option."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as error:
        name, colon, rest = str(error).partition(":")
        if not colon or not name.replace("_", "").split("[")[0].isalpha():
            raise
        option = next((option for start, option in _OPTIONS.items() if name.startswith(start)), f"--{name}")
        raise UsageError(f"{option}:{rest}") from None


_OURS = "background:|batch_size:|cache:|class_names|legend:|threshold:|QuickGELU"
"""How the warnings begin that are worth a line."""


def _note(command: str) -> Callable[[str], None]:
    return lambda line: tell(f"cdam-fast {command}: note: {line}")


@contextlib.contextmanager
def _plain_messages(command: str) -> Iterator[None]:
    """A line for each of our warnings; libraries' remarks on random weights and deprecated imports stay away."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", message=_OURS, category=UserWarning)

            note = _note(command)
            warnings.showwarning = lambda message, *args, **options: note(str(message))
            yield
    finally:
        logging.disable(previous)
