"""``cdam-fast segment``: its options, and what it prints."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from cdam_fast.commands.messages import plain_messages
from cdam_fast.commands.model_options import OF_MODEL, add_model_options, known, make_segmenter, pretrained_of
from cdam_fast.commands.streams import say, tell
from cdam_fast.errors import UsageError
from cdam_fast.processes import Processes, joined


def add_command(commands: Any) -> None:
    """Add it to argparse's."""
    segment = commands.add_parser(
        "segment",
        help="label every pixel of photographs with one of the words that you give",
        description="Label every pixel of photographs with one of the words that you give. Writes NAME_labels.png "
        "(a palette image, the index is the class) and NAME_overlay.png (the photograph, tinted, with a legend); NAME "
        "is the photograph's with ten digits for its folder, so that no photograph's results replace another's. "
        "Pictures that these commands wrote are never taken as photographs. Under torchrun each process does its "
        "share.",
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
    segment.add_argument(
        "--refine", action="store_true", help="move the edges of labels to the photograph's (PAMR); takes a few seconds"
    )
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
    add_model_options(segment)
    segment.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    """The exit status: 0, or 1 where a photograph failed."""
    with plain_messages(parsed), joined(at_the_end=True) as processes:
        return _segment(parsed, processes)


def _segment(parsed: argparse.Namespace, processes: Processes) -> int:
    from cdam_fast.commands.classes import parse_classes
    from cdam_fast.commands.photos import find_photos
    from cdam_fast.commands.progress import counted
    from cdam_fast.commands.results import make_folder
    from cdam_fast.commands.segment_files import run_segment

    classes = parse_classes(parsed.classes)
    left_out: list[str] = []
    found = find_photos(parsed.photos, left_out.append)
    photos = [Path(name) for name in processes.gather([str(photo) for photo in found])[0]]  # the same list for all
    out = make_folder(parsed.out)
    options = {
        "cdam": not parsed.no_cdam,
        "background": parse_background(parsed.background),
        "background_class": _background_class(parsed.background_class),
        "threshold_over": parsed.threshold_over,
        "alpha": parsed.alpha,
        "refine": parsed.refine,
        "batch_size": parsed.batch_size,
    }
    with processes.first_alone():
        segmenter = make_segmenter(parsed, classes, options, left_out, quiet=not processes.first)
    settings = {
        "classes": classes,
        "model": known(parsed.model),
        "weights": known(pretrained_of(parsed)),
        "base": parsed.base,
        **{name: value for name, value in options.items() if name != "batch_size"},
        **{name: getattr(segmenter.options, name) for name in OF_MODEL},
        "augmented_prompts": not parsed.no_augmented,
        "dtype": parsed.dtype,
    }
    share = processes.share(photos)
    with counted(len(share), "segmenting") if processes.first else nullcontext(lambda line: None) as on_photo:
        outcome = run_segment(segmenter, share, out, settings, as_json=parsed.json, on_photo=on_photo)
    failed = [(str(photo), reason) for photo, reason in outcome.failed]
    parts = processes.gather([len(outcome.written), len(outcome.skipped), failed])
    written, skipped = (sum(part[i] for part in parts) for i in (0, 1))
    failed = [image for part in parts for image in part[2]]
    if processes.first:
        for photo, reason in failed:
            tell(f"failed: {photo}: {reason}")
        say(f"{written} written to {out}, {skipped} done before, {len(failed)} failed")
    return 1 if failed else 0


def parse_background(text: str) -> str | float | None:
    """Of ``--background``."""
    if text in ("entropy", "none"):
        return None if text == "none" else text
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--background: got {text!r}, takes entropy, none or a probability") from None


def _background_class(text: str | None) -> str | int | None:
    return int(text) if text is not None and text.isdecimal() else text
