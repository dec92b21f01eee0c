"""``cdam-fast tables``: its options, and what it prints."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cdam_fast.commands.devices import add_device, describe_device, parse_device
from cdam_fast.commands.messages import named_errors, plain_messages
from cdam_fast.commands.model_options import known
from cdam_fast.commands.streams import say, tell
from cdam_fast.errors import UsageError, reason_of

NUMBERS = (1, 2, 3, 5, 6, 8, 11, 13, 14, 15, 16, 17, 18)
"""Of the paper's tables that are measured."""

_LATENCY, _OTHER_MODEL, _SUPERVISED = {5, 6}, {16}, {18}
_TAKERS = {
    "root": set(NUMBERS) - _LATENCY - _SUPERVISED,
    "scores": _SUPERVISED,
    "limit": set(NUMBERS) - _LATENCY,
    "model": set(NUMBERS) - _LATENCY - _OTHER_MODEL - _SUPERVISED,
    "pretrained": set(NUMBERS) - _OTHER_MODEL - _SUPERVISED,
}
"""By option, the tables that it is of."""


def add_command(commands: Any) -> None:
    """Add it to argparse's."""
    tables = commands.add_parser(
        "tables",
        help="measure the paper's tables, and write them with the paper's numbers beside",
        description="Measure the paper's tables on the data sets that are there, under the paper's protocol, and write "
        'report.md and table-N.json, with the paper\'s numbers beside ours and "no data" where there is none. What '
        "is measured is kept in the folder, so that a run that was stopped goes on.",
    )
    tables.add_argument("--out", required=True, metavar="DIR", help="folder to write to, and to go on in")
    tables.add_argument(
        "--small", action="store_true", help="the tiny model on generated scenes: every table in a minute or two"
    )
    tables.add_argument(
        "--root",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a data set and its folder, once for each: voc21, context60, coco-object, coco-stuff, cityscapes, ade20k",
    )
    tables.add_argument(
        "--scores", metavar="DIR", help="scores and values of methods that were trained with masks, for Table 18"
    )
    tables.add_argument(
        "--only", metavar="N,N", help=f"these tables alone, of {', '.join(map(str, NUMBERS))} (default: all)"
    )
    tables.add_argument("--limit", type=int, metavar="N", help="the first N images of each data set")
    tables.add_argument("--model", metavar="NAME|FILE.json", help="in place of the protocol's; not of Tables 5, 6, 16")
    tables.add_argument("--pretrained", metavar="TAG|FILE", help="its weights; of ViT-B-16 those of Tables 5 and 6 too")
    add_device(tables)
    tables.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    """The exit status: 0, 1 where a cell or an image failed, 130 where it was interrupted."""
    with plain_messages(parsed, once=True):
        warnings.filterwarnings("ignore", message="threshold:")  # of every scene, and the report says why
        return _tables(parsed)


def _tables(parsed: argparse.Namespace) -> int:
    from cdam_fast.commands.results import make_folder
    from cdam_fast.commands.tables_progress import Progress
    from cdam_fast.evaluation.tables import Outcome, fill, jobs_of, measure, write_tables

    numbers = _numbers(parsed.only)
    _check(parsed, numbers)
    out = make_folder(parsed.out)
    device = parse_device(parsed.device)
    columns = _columns(parsed, numbers, out)
    tell(describe_device(device))
    progress = Progress()
    plans = _plans(parsed, numbers, columns, device, out, progress.on_image)
    outcomes: dict[str, Outcome] = {}
    progress.jobs = jobs_of(plans)
    interrupted = False
    try:
        measure(progress.jobs, out, parsed.limit, outcomes, progress.on_job)
    except KeyboardInterrupt:
        interrupted = True
    tables = [fill(plan, outcomes) for plan in plans]
    write_tables(tables, out, _head(parsed, columns, interrupted), _settings(parsed, device))
    cells = [cell for table in tables for cell in table.cells]
    failed = sum(cell.status.startswith("failed") or cell.failed > 0 for cell in cells)
    measured = sum(cell.status == "measured" for cell in cells)
    say(f"{len(tables)} tables written to {out}: {measured} cells measured, {failed} with failures, of {len(cells)}")
    return 130 if interrupted else 1 if failed else 0


def _numbers(text: str | None) -> tuple[int, ...]:
    if text is None:
        return NUMBERS
    parts = [part.strip() for part in text.split(",")]
    wrong = [part for part in parts if part not in map(str, NUMBERS)]
    if wrong:
        raise UsageError(f"--only: got {wrong[0]!r}, takes numbers of {', '.join(map(str, NUMBERS))} by commas")
    return tuple(number for number in NUMBERS if str(number) in parts)


def _check(parsed: argparse.Namespace, numbers: tuple[int, ...]) -> None:
    for option, tables in _TAKERS.items():
        said_elsewhere = option in ("model", "pretrained") and bool(_OTHER_MODEL & set(numbers))  # in the report
        if getattr(parsed, option) not in (None, []) and not said_elsewhere:
            _check_wanted(f"--{option}:", tables, numbers)
    if parsed.limit is not None and parsed.limit < 1:
        raise UsageError(f"--limit: got {parsed.limit}, takes a whole number from 1")
    for option in ("root", "scores", "model", "pretrained"):
        if parsed.small and getattr(parsed, option) not in (None, []):
            raise UsageError(f"--{option}: takes no --small as well, which has data and a model of its own")
    if parsed.model is not None or parsed.pretrained is not None:
        from cdam_fast.evaluation import load_protocol
        from cdam_fast.segmentation.sources import find_source

        own = load_protocol("paper").settings("voc21")
        weights = own.pretrained if parsed.model in (None, own.model) else None
        with named_errors(parsed):  # here, and not in every cell
            find_source(
                own.model if parsed.model is None else parsed.model,
                weights if parsed.pretrained is None else parsed.pretrained,
            )


def _check_wanted(what: str, tables: set[int], numbers: tuple[int, ...]) -> None:
    if not tables & set(numbers):
        takes = ", ".join(map(str, sorted(tables)))
        raise UsageError(f"{what} is of no table of --only {','.join(map(str, numbers))}, takes one of {takes}")


def _columns(parsed: argparse.Namespace, numbers: tuple[int, ...], out: Path) -> dict[str, Any]:
    from cdam_fast.evaluation.datasets import open_dataset
    from cdam_fast.evaluation.tables import AVERAGE, Column, paper_tables
    from cdam_fast.evaluation.tables.small import NAME, scenes_column

    if parsed.small:
        try:
            return {NAME: scenes_column(out / NAME)}
        except ValueError as error:
            raise UsageError(f"--out: {reason_of(error).removeprefix('root: ')}") from None
        except OSError as error:
            raise UsageError(f"--out: cannot write {error.filename or out / NAME}: {reason_of(error)}") from None
    known = [name for number in (1, 2) for name in paper_tables()[number].columns if name != AVERAGE]
    given = [text.partition("=")[::2] for text in parsed.root]
    for text, (name, folder) in zip(parsed.root, given):
        if name not in known or not folder:
            raise UsageError(f"--root: got {text!r}, takes NAME=DIR, NAME one of {', '.join(known)}")
    names = {name for name, _ in given}
    takers = {number for number in _TAKERS["root"] if names & {*paper_tables()[number].columns}}
    if names:
        _check_wanted(f"--root: {', '.join(sorted(names))}", takers | ({3} if "voc21" in names else set()), numbers)
    columns: dict[str, Any] = {}
    for name, folder in given:
        if name in columns:
            raise UsageError(f"--root: got {name} twice, takes each data set once")
        try:
            dataset = open_dataset(name, folder)
        except ValueError as error:
            raise UsageError(f"--root: {name}: {reason_of(error).removeprefix('root: ')}") from None
        columns[name] = Column(name, dataset, _settings_of(name))
    return columns


def _settings_of(name: str) -> Any:
    from cdam_fast.evaluation import load_protocol

    protocol = load_protocol("paper")
    return lambda base, cdam, model=None: protocol.settings(name, base, cdam, model=model)


def _plans(
    parsed: argparse.Namespace,
    numbers: tuple[int, ...],
    columns: dict[str, Any],
    device: torch.device,
    out: Path,
    on_image: Callable[[str], None],
) -> list[Any]:
    from cdam_fast.commands.latency_tables import latency_plans
    from cdam_fast.evaluation.tables import TABLES, Inputs, plan_components, plan_miou, plan_similarity, plan_thresholds

    inputs = Inputs(
        columns,
        device,
        parsed.limit,
        parsed.model,
        parsed.pretrained,
        files={name: known(getattr(parsed, name)) for name in ("model", "pretrained")},
        workers=0 if parsed.small else None,  # few and small: processes would take longer to start
        on_image=on_image,
    )
    latency = latency_plans(device, parsed.pretrained if _is_timed(parsed.model) else None, small=parsed.small)

    def plan(number: int) -> Any:
        if number in TABLES:
            return plan_miou(number, inputs)
        if number in latency:
            return latency[number]
        return {3: plan_components, 11: plan_thresholds, 17: plan_similarity, 18: supervised}[number](inputs)

    def supervised(inputs: Any) -> Any:
        from cdam_fast.evaluation.tables import find_methods, plan_supervised
        from cdam_fast.evaluation.tables.small import NAME, write_scores

        folder = parsed.scores
        if parsed.small:
            folder = out / "scores"
            write_scores(folder, inputs, columns[NAME])
        try:
            methods = find_methods(Path(folder)) if folder is not None else []
        except ValueError as error:
            raise UsageError(f"--scores: {reason_of(error)}") from None
        return plan_supervised(methods, device, parsed.limit)

    return [plan(number) for number in numbers]


def _is_timed(model: str | None) -> bool:
    """Whether it is the one of Tables 5 and 6, or none is named."""
    from cdam_fast.measuring.inputs import MODEL

    return model in (None, MODEL)


def _head(parsed: argparse.Namespace, columns: dict[str, Any], interrupted: bool) -> list[str]:
    """Paragraphs at the head of the report."""
    from cdam_fast.evaluation.tables import small

    lines = []
    if parsed.small:
        count = len(columns[small.NAME].dataset.samples[: parsed.limit])
        lines += [
            f"Column {small.NAME}: the tiny model of the package on the first {count} of its "
            "held-out generated scenes, nine classes, the ground included. It shows that every table is measured; it "
            "compares nothing with the paper's numbers, which are of photographs.",
            "The bases alone are without a threshold there, and so is CDAM in all tables but 1, 14, the last row of 3, "
            "and 11, where it is Eq. 4's. Of nine words that is 2.5 / log2 9 = 0.79 where one patch is certain and "
            "another knows nothing, more where all know something, less where none is certain; so most pixels become "
            "ground, and a smaller alpha is better.",
            f"The method {small.METHOD} of Table 18: scores and values of that base alone with the tiny model; "
            f"{', '.join(small.UNSEEN)} are unseen in name only. Table 16 has no data here: the tiny model's patches "
            "are of 8 pixels.",
        ]
    for column in columns.values():
        images, note = f"{len(column.dataset.samples)} images", column.dataset.note
        if not parsed.small:
            said = note if note.startswith(images) else "; ".join(filter(None, (images, note)))
            lines.append(f"{column.name}: {said}.")
    if parsed.model or parsed.pretrained:
        given = " ".join(filter(None, (parsed.model, parsed.pretrained)))
        but = "Table 16" if _is_timed(parsed.model) else "Tables 5, 6 and 16"
        lines.append(f"{given} in place of the protocol's model or weights, but for {but}.")
    if parsed.limit is not None and not parsed.small:
        lines.append(f"Only the first {parsed.limit} images of each data set.")
    if interrupted:
        lines.append("Interrupted: what was not measured by then is as no data here, and the same command goes on.")
    return lines


def _settings(parsed: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    import numpy as np

    from cdam_fast import __version__

    return {
        "protocol": "scenes" if parsed.small else "paper",
        "limit": parsed.limit,
        "model": "tiny" if parsed.small else parsed.model,
        "pretrained": parsed.pretrained,
        "device": str(device),
        "versions": {"cdam_fast": __version__, "torch": torch.__version__, "numpy": np.__version__},
    }
