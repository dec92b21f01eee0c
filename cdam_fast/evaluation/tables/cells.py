"""What a table is made of: cells, and the jobs that measure them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MEASURED, NO_DATA, FAILED = "measured", "no data", "failed: "
"""What a cell's status is, or begins with."""


@dataclass(frozen=True)
class Value:
    """One number that a job found."""

    number: float | None
    """A fraction of 1, seconds or a correlation; None where it is not defined, as a correlation of one image."""
    images: int
    deviation: float | None = None
    """Over seeds."""
    failed: int = 0
    """Images that are not in it."""
    reason: str = ""
    """Of the first of them, with its name."""


@dataclass(frozen=True)
class Job:
    """Something to measure, once, however many cells want it.

    Attributes:
        name: of its folder and its file; other settings are another name.
        title: for people.
        measure: takes a folder in which to keep what is done, and gives values by name.
        images: that it looks at, for an estimate of the time.
        packages: modules that it imports and that come with the package's extra alone.
        files: of its images, what tells others under the same names.
    """

    name: str
    title: str
    measure: Callable[[Path], dict[str, Value]] = field(compare=False)
    images: int = 1
    packages: tuple[str, ...] = ()
    files: str = ""


@dataclass(frozen=True)
class Planned:
    """A cell before it is measured; no job where there is no data."""

    row: str
    column: str
    job: Job | None = None
    value: str = "miou"
    """Which of the job's values."""


@dataclass(frozen=True)
class Plan:
    """One table before it is measured."""

    number: int
    cells: tuple[Planned, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One number of ours beside the paper's, in the same unit."""

    row: str
    column: str
    ours: float | None
    paper: float | None
    images: int
    status: str
    """``"measured"``, ``"no data"`` or ``"failed: "`` and the reason."""
    deviation: float | None = None
    paper_deviation: float | None = None
    failed: int = 0
    reason: str = ""
    """Of the first image that failed."""

    def as_json(self) -> dict[str, Any]:
        """Plain values; deviations and failed images where there are any, and why the first of them did."""
        always = {name: getattr(self, name) for name in ("row", "column", "ours", "paper", "images", "status")}
        seldom = {name: getattr(self, name) for name in ("deviation", "paper_deviation", "failed", "reason")}
        return always | {name: value for name, value in seldom.items() if value or isinstance(value, float)}
