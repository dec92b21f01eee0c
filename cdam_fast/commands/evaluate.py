"""``cdam-fast evaluate``: its options, and what it prints."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cdam_fast.commands.devices import add_device
from cdam_fast.commands.messages import named_errors, plain_messages
from cdam_fast.commands.model_options import DTYPES
from cdam_fast.commands.progress import counted
from cdam_fast.commands.streams import say, show, tell
from cdam_fast.errors import UsageError
from cdam_fast.models import BASES
from cdam_fast.processes import Processes, Stopped, joined

SIDES = ("short_side", "window", "stride")


def add_command(commands: Any) -> None:
    """Add it to argparse's."""
    evaluate = commands.add_parser(
        "evaluate",
        help="mean intersection over union on a data set, under a protocol that is part of the result",
        description="Segment the validation images of a data set and print the intersection over union of each class, "
        "their mean, the protocol, and the published number where there is one for it. Under torchrun each process "
        "does its share of the images. The exit status is 1 where an image failed.",
    )
    evaluate.add_argument(
        "dataset",
        metavar="DATASET",
        help="voc21, voc20, context60, context59, coco-object, coco-stuff, cityscapes, ade20k; or custom: photographs "
        "in images, masks in masks, and --classes",
    )
    evaluate.add_argument("--root", required=True, metavar="DIR", help="its folder, or one above")
    evaluate.add_argument(
        "--classes", metavar="FILE", help="of custom: a class a line, in the order of the masks' values, with synonyms"
    )
    evaluate.add_argument(
        "--protocol",
        default="paper",
        metavar="NAME|FILE",
        help="paper, released, sclip, or a file of one's own: weights, words of the classes, sizes, threshold "
        "(default: %(default)s); the options below are in place of what it says",
    )
    evaluate.add_argument("--base", metavar="NAME", help=f"{', '.join(BASES)} (default: the protocol's first)")
    evaluate.add_argument("--no-cdam", action="store_true", help="the base method alone")
    evaluate.add_argument("--model", metavar="NAME|FILE.json", help="model of open_clip, or tiny, with its own sides")
    evaluate.add_argument("--pretrained", metavar="TAG|FILE", help="its weights")
    for name in SIDES:
        evaluate.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="PIXELS", help="of the windows")
    evaluate.add_argument(
        "--background", metavar="entropy|none|P", help="threshold of the background: Eq. 4, none, or a probability"
    )
    evaluate.add_argument("--limit", type=int, metavar="N", help="the first N images only")
    evaluate.add_argument(
        "--out", metavar="DIR", help="keep each image's counts there: a run that was ended goes on with the others"
    )
    evaluate.add_argument("--json", metavar="FILE", help="write the result as JSON")
    evaluate.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that read and resize images (default: one for each core that is left over, at most 4)",
    )
    evaluate.add_argument("--batch-size", type=int, default=8, metavar="B", help="windows at once (default: 8)")
    add_device(evaluate)
    evaluate.add_argument("--dtype", choices=tuple(DTYPES), default="float32", help="default: %(default)s")
    evaluate.add_argument(
        "--amp",
        action="store_true",
        help="the blocks before the last in bfloat16, on a GPU in float16; the map and the logits stay in float32. On "
        "100 generated scenes, with the tiny model on a CPU, it changed no label beyond 201 in a million",
    )
    evaluate.add_argument("--strict", action="store_true", help="end at the first image that fails")
    evaluate.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    """The exit status: 0, or 1 where an image failed."""
    try:
        with plain_messages(parsed, once=True), joined(at_the_end=True) as processes:
            return _evaluate(parsed, processes)
    except (KeyboardInterrupt, Stopped):
        from cdam_fast.evaluation.kept import SETTINGS

        if parsed.out is not None and (Path(parsed.out) / SETTINGS).is_file():
            tell(f"cdam-fast evaluate: what is done is kept in {parsed.out}; the same command goes on there")
        raise


def _evaluate(parsed: argparse.Namespace, processes: Processes) -> int:
    import torchmetrics  # noqa: F401 - said before any work

    from cdam_fast.commands.evaluation_table import protocol_lines, table
    from cdam_fast.commands.protocol_options import chosen_segmenter, described
    from cdam_fast.evaluation import ImageFailedError, evaluate
    from cdam_fast.measuring.report import check_writable, write_json

    if parsed.json is not None and processes.first:
        check_writable("--json", parsed.json)
    if parsed.limit is not None and parsed.limit < 1:
        raise UsageError(f"--limit: got {parsed.limit}, takes a whole number from 1")
    dataset = _dataset(parsed)
    if dataset.note and processes.first:
        tell(f"{dataset.name}: {dataset.note}")
    with processes.first_alone():
        segmenter, chosen = chosen_segmenter(parsed, dataset, processes)
    if processes.first:
        tell(described(chosen))
    try:
        with _progress(len(dataset.samples[: parsed.limit]), processes) as on_image, named_errors(parsed):
            result = evaluate(
                segmenter,
                dataset,
                limit=parsed.limit,
                out=parsed.out,
                workers=parsed.workers,
                settings=chosen.identity,
                strict=parsed.strict,
                protocol=chosen.as_json(),
                published=chosen.published,
                processes=processes,
                on_image=on_image,
            )
    except ImageFailedError as error:
        tell(f"cdam-fast evaluate: error: {error} (--strict)")
        if processes.count > 1:
            raise Stopped(f"{processes.name}: an image failed") from None
        return 1
    if processes.first:
        for name, reason in result.failed:
            tell(f"failed: {name}: {reason}")
        show(table(result, chosen))
        for line in protocol_lines(result, chosen):
            say(line)
        say(f"{result.images} images, {len(result.failed)} failed, {result.seconds:.2f} s an image")
        if parsed.json is not None:
            write_json(result.as_json(), parsed.json)
    return 1 if result.failed else 0


@contextlib.contextmanager
def _progress(images: int, processes: Processes) -> Iterator[Any]:
    """What hears of each image: of those of the first process, a line with the mean so far."""
    with contextlib.ExitStack() as stack:
        line: list[Any] = []

        def on_image(name: str, so_far: Any) -> None:
            if not processes.first:
                return
            if not line:  # by now it is known how many were done before
                left = len(processes.share(range(images - so_far.done_before)))
                line.append(stack.enter_context(counted(left, "evaluating")))
            if so_far.failed and so_far.failed[-1][0] == name:
                line[0](f"{name}: {so_far.failed[-1][1]}")
            else:
                line[0](f"{name}: mIoU so far {100 * (so_far.miou or 0):.2f} %")

        yield on_image


def _dataset(parsed: argparse.Namespace) -> Any:
    from cdam_fast.evaluation import open_dataset

    try:
        return open_dataset(parsed.dataset, parsed.root, classes=parsed.classes)
    except ValueError as error:
        option, _, rest = str(error).partition(":")
        names = {"name": "DATASET", "root": "--root", "classes": "--classes"}
        raise UsageError(f"{names.get(option, option)}:{rest}") from None
