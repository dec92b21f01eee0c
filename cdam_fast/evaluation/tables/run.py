"""Jobs measured once each, kept on disk, and the tables that come out of them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cdam_fast.errors import missing_package, reason_of
from cdam_fast.evaluation.tables.cells import FAILED, MEASURED, NO_DATA, Cell, Job, Plan, Planned, Value
from cdam_fast.evaluation.tables.paper import AVERAGE, PaperTable, paper_tables
from cdam_fast.files import json_text, write_whole

CELLS = "cells"
"""Folder of what jobs keep."""


@dataclass
class Outcome:
    """What became of a job: its values, or why there are none."""

    values: dict[str, Value] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True)
class Table:
    """One table, measured."""

    paper: PaperTable
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "table": self.paper.number,
            "title": self.paper.title,
            "measure": self.paper.measure,
            "unit": "fraction of 1" if self.paper.unit == "%" else self.paper.unit,
            "cells": [cell.as_json() for cell in self.cells],
            "notes": list(self.notes),
            "misprints": list(self.paper.misprints),
        }


def jobs_of(plans: Iterable[Plan]) -> list[Job]:
    """Each once, in the order in which they are first wanted."""
    jobs: dict[str, Job] = {}
    for cell in (cell for plan in plans for cell in plan.cells):
        if cell.job is not None:
            jobs.setdefault(cell.job.name, cell.job)
    return list(jobs.values())


def measure(
    jobs: Iterable[Job],
    out: Path,
    limit: int | None,
    outcomes: dict[str, Outcome],
    on_job: Callable[[Job, Outcome], None] = lambda job, outcome: None,
) -> None:
    """Every job into outcomes, in place, so that an interrupt keeps what is done; one that fails ends no other.

    Args:
        jobs: of `jobs_of`.
        out: folder in which ``cells/`` keeps what is measured; what is there already is not measured again.
        limit: images of each data set; a result of another limit, or of other files, is measured again.
        outcomes: by the job's name.
        on_job: hears of each that is done.

    Raises:
        ModuleNotFoundError: a package that a job takes, before any of them.
    """
    jobs = list(jobs)
    kept = {job.name: _kept(out / CELLS / f"{job.name}.json", limit, job.files) for job in jobs}
    for package in dict.fromkeys(package for job in jobs if kept[job.name] is None for package in job.packages):
        importlib.import_module(package)
    for job in jobs:
        path = out / CELLS / f"{job.name}.json"
        outcome = kept[job.name]
        if outcome is None:
            folder = out / CELLS / job.name
            try:
                outcome = Outcome(job.measure(folder))
            except Exception as error:
                reason = missing_package(error) if isinstance(error, ImportError) else reason_of(error)
                outcome = Outcome(reason=reason)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                values = {name: asdict(value) for name, value in outcome.values.items()}
                write_whole(path, json_text({"title": job.title, "limit": limit, "files": job.files, "values": values}))
        outcomes[job.name] = outcome
        on_job(job, outcome)


def _kept(path: Path, limit: int | None, files: str) -> Outcome | None:
    """What was measured before of these files; a damaged one is as none, and so is one with images that failed."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        values = {name: Value(**value) for name, value in read["values"].items()}
        same = (read["limit"], read["files"]) == (limit, files)
    except (OSError, ValueError, TypeError, LookupError):
        return None
    return Outcome(values) if same and not any(value.failed for value in values.values()) else None


def fill(plan: Plan, outcomes: dict[str, Outcome]) -> Table:
    """The table of what was measured, the averages included; a job without an outcome is as no data."""
    paper = paper_tables()[plan.number]
    cells = [_cell(paper, planned, outcomes) for planned in plan.cells]
    if AVERAGE in paper.columns:
        last = list(dict.fromkeys(cell.row for cell in cells))
        cells += [_average(paper, row, [cell for cell in cells if cell.row == row]) for row in last]
    return Table(paper, tuple(cells), plan.notes)


def _cell(paper: PaperTable, planned: Planned, outcomes: dict[str, Outcome]) -> Cell:
    row, column = planned.row, planned.column
    printed, deviation = paper.value(row, column), paper.deviation(row, column)
    outcome = None if planned.job is None else outcomes.get(planned.job.name)
    if outcome is None:
        return Cell(row, column, None, printed, 0, NO_DATA, paper_deviation=deviation)
    if outcome.reason is not None:
        return Cell(row, column, None, printed, 0, FAILED + outcome.reason, paper_deviation=deviation)
    found = outcome.values[planned.value]
    status = NO_DATA if found.number is None else MEASURED
    return Cell(
        row, column, found.number, printed, found.images, status, found.deviation, deviation, found.failed, found.reason
    )


def _average(paper: PaperTable, row: str, cells: list[Cell]) -> Cell:
    """The mean over the paper's data sets, where all of them are measured."""
    of_paper = [cell for cell in cells if cell.column in paper.columns]
    found = [cell.ours for cell in of_paper if cell.ours is not None]
    ours = sum(found) / len(found) if of_paper and len(found) == len(of_paper) else None
    images = sum(cell.images for cell in of_paper) if ours is not None else 0
    return Cell(row, AVERAGE, ours, paper.value(row, AVERAGE), images, NO_DATA if ours is None else MEASURED)
