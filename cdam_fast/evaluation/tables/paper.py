"""The paper's numbers, as printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

AVERAGE = "average"
"""Name of the last column of most tables: the mean of the others."""

FILE = Path(__file__).parents[1] / "paper_tables.json"


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper, the rows of what this package has.

    Attributes:
        number: in the paper.
        title: in a few words.
        measure: what its numbers are.
        unit: ``"%"``, ``"s"``, or nothing.
        columns: names of data sets, of bases, or of measures, `AVERAGE` last where there is one.
        rows: by name, a number for each column, as printed: per cent where the unit is.
        deviations: by name of the row, of the columns but the last.
        gains: by name of the row, what is printed in parentheses.
        misprints: numbers that do not follow from those beside them.
    """

    number: int
    title: str
    measure: str
    unit: str
    columns: tuple[str, ...]
    rows: dict[str, list[float]]
    deviations: dict[str, list[float]] = field(default_factory=dict)
    gains: dict[str, list[float]] = field(default_factory=dict)
    misprints: tuple[str, ...] = ()

    def value(self, row: str, column: str) -> float | None:
        """The printed number in the unit of ours: per cent as a fraction of 1. None where the paper has none."""
        return self._find(self.rows, row, column)

    def deviation(self, row: str, column: str) -> float | None:
        """As `value`, of what follows ±."""
        return self._find(self.deviations, row, column)

    def _find(self, rows: dict[str, list[float]], row: str, column: str) -> float | None:
        if row not in rows or column not in self.columns[: len(rows[row])]:
            return None
        printed = rows[row][self.columns.index(column)]
        return round(printed / 100, 6) if self.unit == "%" else printed


@lru_cache(maxsize=1)
def paper_tables() -> dict[int, PaperTable]:
    """By number."""
    read: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))["tables"]
    return {int(number): _table(int(number), **entries) for number, entries in read.items()}


def _table(number: int, *, columns: list[str], misprints: Sequence[str] = (), **entries: Any) -> PaperTable:
    return PaperTable(number, columns=tuple(columns), misprints=tuple(misprints), **entries)
