"""``cdam-fast segment`` and ``cdam-fast map``: their options, and what they print."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cdam_fast.evaluation.errors import UsageError, require_matplotlib
from cdam_fast.evaluation.messages import named_errors, note, plain_messages
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
        "--background-class",
        metavar="N|WORD",
        help='number, from 0, or a word of the class that is the background (default: the one with "background")',
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


def add_device(parser: Any, default: str | None = "auto") -> None:
    """Add ``--device``; a default of None is auto for a command that tells whether it was given."""
    parser.add_argument(
        "--device",
        default=default,
        help="auto, cpu, cuda, cuda:1, mps, xpu; auto is the first that is there of cuda, mps, xpu and cpu "
        "(default: auto)",
    )


_OF_MODEL = {"short_side": 448, "window": 448, "stride": 224, "logit_scale": 50.0}
"""Side of the resized photograph, of the windows over it, the step from window to window, and the factor of the
cosines: what they are for every model but the tiny one, which has its own."""

_MODEL, _PRETRAINED = "ViT-B-16", "laion2b_s34b_b88k"


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default=_MODEL,
        metavar="NAME|FILE.json",
        help="model of open_clip, or tiny, which comes with the package and needs no network (default: %(default)s)",
    )
    parser.add_argument(
        "--pretrained",
        metavar="TAG|FILE",
        help="its weights: a tag of open_clip, downloaded on first use, or a safetensors file "
        f"(default: {_PRETRAINED} for {_MODEL}; none for models that come with their weights)",
    )
    parser.add_argument(
        "--base", default="maskclip", metavar="NAME", help="maskclip, sclip, clearclip or gem (default: %(default)s)"
    )
    for name, default in _OF_MODEL.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default),
            metavar="K" if name == "logit_scale" else "PIXELS",
            help=("factor of the cosines before the softmax, " if name == "logit_scale" else "")
            + f"default: {default:g}, and the model's own for tiny",
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
    with plain_messages(parsed):
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
        "background_class": _background_class(parsed.background_class),
        "threshold_over": parsed.threshold_over,
        "alpha": parsed.alpha,
        "batch_size": parsed.batch_size,
    }
    segmenter = _segmenter(parsed, classes, options, left_out)
    settings = {
        "classes": classes,
        "model": _known(parsed.model),
        "weights": _known(_pretrained(parsed)),
        "base": parsed.base,
        **{name: value for name, value in options.items() if name != "batch_size"},
        **{name: getattr(segmenter.options, name) for name in _OF_MODEL},
        "augmented_prompts": not parsed.no_augmented,
        "dtype": parsed.dtype,
    }
    with counted(len(photos), "segmenting") as on_photo:
        outcome = run_segment(segmenter, photos, out, settings, as_json=parsed.json, on_photo=on_photo)
    for photo, reason in outcome.failed:
        tell(f"failed: {photo}: {reason}")
    say(f"{len(outcome.written)} written to {out}, {len(outcome.skipped)} done before, {len(outcome.failed)} failed")
    return 1 if outcome.failed else 0


def _map(parsed: argparse.Namespace) -> int:
    from cdam_fast.evaluation.classes import parse_classes
    from cdam_fast.evaluation.mapping import check_points, map_figure, map_name, parse_point
    from cdam_fast.evaluation.photos import check_photo
    from cdam_fast.evaluation.results import IDENTITY, check_own, identity, make_folder, write_whole

    require_matplotlib("map")
    points = [parse_point(text) for text in parsed.point]
    classes = parse_classes(parsed.classes)
    photo = Path(parsed.photo)
    pixels = check_photo("PHOTO", parsed.photo)
    check_points(points, pixels)
    path = make_folder(parsed.out) / map_name(photo, points)
    check_own(path, photo)
    segmenter = _segmenter(parsed, classes, {"background": None})
    with named_errors(parsed):
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
        note(parsed, line)
    with named_errors(parsed):
        return CDAMSegmenter.from_pretrained(
            parsed.model,
            _pretrained(parsed),
            classes,
            base=parsed.base,
            augmented_prompts=not parsed.no_augmented,
            **{name: getattr(parsed, name) for name in _OF_MODEL if getattr(parsed, name) is not None},
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


def _background_class(text: str | None) -> str | int | None:
    return int(text) if text is not None and text.isdecimal() else text


def _pretrained(parsed: argparse.Namespace) -> str | None:
    """The weights asked for; those of the default model where neither is."""
    given: str | None = parsed.pretrained
    return _PRETRAINED if given is None and parsed.model == _MODEL else given


def _known(name: str | None) -> list[Any]:
    """Of a file name, size and time, and of a folder those of its files, so that other content is seen."""
    path = Path(name or "")
    if name is None or not (os.path.isfile(name) or os.path.isdir(name)):  # noqa: PTH112, PTH113 - never raise
        return [name]
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [path.name, *([file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file())]
