"""The tables of mIoU: bases with and without CDAM, components, and what is varied (Tables 1 to 3, 8, 13 to 16)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cdam_fast import SCALES
from cdam_fast.evaluation.evaluation import evaluate
from cdam_fast.evaluation.tables.cells import Job, Plan, Planned, Value
from cdam_fast.evaluation.tables.inputs import Column, Inputs, Row, name_of
from cdam_fast.evaluation.tables.paper import AVERAGE, paper_tables

BASES = ("maskclip", "sclip", "clearclip", "gem")
"""Of the paper."""

VIT_B_32 = "ViT-B-32"
"""Of Table 16."""

ONE_SCALE = {"scales": (1.0,)}
STEPS: dict[str, dict[str, Any]] = {
    "base": {"cdam": False},
    "+ map, one scale": {"options": ONE_SCALE | {"augmented_prompts": False}, "fixed_threshold": True},
    "+ map, all scales": {"options": {"augmented_prompts": False}, "fixed_threshold": True},
    "+ augmented prompts": {"fixed_threshold": True},
    "+ threshold": {},
}
"""The rows of Table 3, as arguments of `Row`."""

SETS_OF_SCALES = (
    SCALES,
    (0.5, 0.63, 0.75, 0.87, 1.0),
    (0.75, 0.87, 1.0),
    (1.0,),
    (0.25, 0.5, 0.75, 1.0),
)


@dataclass(frozen=True)
class MiouTable:
    """Rows, and what is particular to the table.

    Attributes:
        rows: as in the paper.
        fixed_on_scenes: whether the scenes' column is without Eq. 4, of which nothing is asked here.
        model: the protocol's of this name, in place of its own and of the command's.
    """

    rows: tuple[Row, ...]
    fixed_on_scenes: bool = False
    model: str | None = None


def _with_and_without() -> tuple[Row, ...]:
    return tuple(Row(f"{base} + CDAM" if cdam else base, base, cdam) for base in BASES for cdam in (False, True))


TABLES = {
    1: MiouTable(_with_and_without()),
    2: MiouTable(_with_and_without(), fixed_on_scenes=True),
    8: MiouTable(
        tuple(
            Row(f"{base} + CDAM, {name}", base, options={"metric": metric})
            for base in BASES
            for name, metric in (("kl", "kl"), ("js", "js"), ("ws", "wasserstein"))
        ),
        fixed_on_scenes=True,
    ),
    13: MiouTable(
        tuple(
            Row(str(value), "maskclip", options={"temperature": value, "attention_temperature": value})
            for value in (0.05, 0.1, 0.15, 0.2)
        ),
        fixed_on_scenes=True,
    ),
    14: MiouTable(tuple(Row(str(alpha), "maskclip", options={"alpha": alpha}) for alpha in (1.0, 1.5, 2.5, 3.5))),
    15: MiouTable(
        tuple(
            Row(", ".join(map(str, scales)), "maskclip", options={"scales": tuple(scales)}) for scales in SETS_OF_SCALES
        ),
        fixed_on_scenes=True,
    ),
    16: MiouTable(_with_and_without(), model=VIT_B_32),
}
"""By the paper's number; Table 3 is `plan_components`."""


def plan_miou(number: int, inputs: Inputs) -> Plan:
    """One of `TABLES`: a column for each data set of the paper's, and the scenes'."""
    table = TABLES[number]
    names = [name for name in paper_tables()[number].columns if name != AVERAGE]
    names += [name for name, column in inputs.columns.items() if column.scenes and table.model is None]
    cells = []
    for row in table.rows:
        for name in names:
            column = inputs.columns.get(name)
            fixed = table.fixed_on_scenes and column is not None and column.scenes
            wanted = replace(row, fixed_threshold=True) if fixed else row
            job = None if column is None else miou_job(number, inputs, column, wanted, table.model)
            cells.append(Planned(row.name, name, job))
    return Plan(number, tuple(cells))


def plan_components(inputs: Inputs) -> Plan:
    """Table 3: a column for each base, on VOC21, and on the scenes."""
    cells = []
    for step, of_row in STEPS.items():
        for name in ("voc21", *(name for name, column in inputs.columns.items() if column.scenes)):
            for base in BASES:
                column = inputs.columns.get(name)
                job = None if column is None else miou_job(3, inputs, column, Row(step, base, **of_row))
                cells.append(Planned(step, base if name == "voc21" else f"{name}, {base}", job))
    return Plan(3, tuple(cells))


def miou_job(number: int, inputs: Inputs, column: Column, row: Row, model: str | None = None) -> Job:
    """`evaluate` with the settings of a row; the same settings are the same job, in whatever table."""
    settings = inputs.settings(column, row, model)
    name = row.name if row.name.startswith(row.base) else f"{row.base}, {row.name}"
    title = f"Table {number}, {column.name}: {name}"
    return Job(
        name_of("miou", column, settings),
        title,
        partial(_measure, inputs, column, settings),
        inputs.images(column),
        ("torchmetrics",),
        inputs.files_of(column),
    )


def _measure(inputs: Inputs, column: Column, settings: dict[str, Any], folder: Path) -> dict[str, Value]:
    found = evaluate(
        inputs.segmenter(settings),
        column.dataset,
        limit=inputs.limit,
        out=folder,
        workers=inputs.workers,
        settings={name: settings[name] for name in ("model", "pretrained", "files")},
        on_image=lambda name, so_far: inputs.on_image(name),
    )
    if not found.images and found.failed:
        raise ValueError(f"all {len(found.failed)} images, the first: {found.failed[0][1]}")
    reason = ": ".join(found.failed[0]) if found.failed else ""
    return {"miou": Value(found.miou, found.images, failed=len(found.failed), reason=reason)}
