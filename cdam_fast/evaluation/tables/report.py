"""The tables as one page of Markdown, the paper's numbers beside ours, and a JSON file each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cdam_fast.evaluation.tables.cells import MEASURED, Cell
from cdam_fast.evaluation.tables.run import Table
from cdam_fast.files import json_text, write_whole

REPORT = "report.md"


def write_tables(tables: Sequence[Table], out: Path, lines: Sequence[str], settings: dict[str, Any]) -> None:
    """``table-N.json`` for each, and ``report.md``.

    Args:
        tables: of `fill`.
        out: an existing folder.
        lines: paragraphs at the head of the report.
        settings: what the numbers were made with; in every JSON file.
    """
    for table in tables:
        write_whole(out / f"table-{table.paper.number}.json", json_text({**table.as_json(), "settings": settings}))
    write_whole(out / REPORT, report(tables, lines).encode())


def report(tables: Sequence[Table], lines: Sequence[str]) -> str:
    """The page."""
    parts = ["# The paper's tables", *lines, *(_section(table) for table in tables)]
    return "\n\n".join(parts) + "\n"


def _section(table: Table) -> str:
    paper = table.paper
    unit = {"%": ", %", "s": "", "": ""}[paper.unit]
    others = dict.fromkeys(cell.column for cell in table.cells if cell.column not in paper.columns)
    columns = [*paper.columns, *others]
    rows = list(dict.fromkeys(cell.row for cell in table.cells))
    cells = {(cell.row, cell.column): cell for cell in table.cells}
    titles = [f"{name}, ours / paper" if name in paper.columns else name for name in columns]
    lines = [f"| {paper.measure}{unit} | " + " | ".join(titles) + " |", "|---|" + "---:|" * len(columns)]
    lines += [
        f"| {_in_a_cell(row)} | " + " | ".join(_text(table, cells[row, name]) for name in columns) + " |"
        for row in rows
    ]
    failed = list(dict.fromkeys(cell.status for cell in table.cells if cell.status.startswith("failed")))
    images = sorted({cell.images for cell in table.cells if cell.images})
    left_out = list(dict.fromkeys(cell.reason for cell in table.cells if cell.failed))
    notes = [*table.notes]
    if images:
        notes.append(f"Images: {', '.join(map(str, images))}.")
    if left_out:
        notes.append(
            "Images failed and are in none of these numbers; `failed` in the JSON file counts them. The first: "
            f"{'; '.join(left_out)}."
        )
    notes += [f"In the paper: {misprint}." for misprint in paper.misprints]
    notes += [f"{status[0].upper()}{status[1:]}." for status in failed]
    return "\n\n".join([f"## Table {paper.number}. {paper.title}", "\n".join(lines), *notes])


def _in_a_cell(name: str) -> str:
    """Of a folder, which may be called anything."""
    return " ".join(name.split()).replace("|", "\\|")


def _text(table: Table, cell: Cell) -> str:
    ours = cell.status.partition(":")[0]
    if cell.status == MEASURED and cell.ours is not None:
        ours = _number(cell.ours, cell.deviation, table.paper.unit)
    if cell.paper is None:
        return ours
    return f"{ours} / {_number(cell.paper, cell.paper_deviation, table.paper.unit)}"


def _number(value: float, deviation: float | None, unit: str) -> str:
    digits = {"%": 1, "s": 3, "": 3}[unit]
    scale = 100 if unit == "%" else 1
    text = f"{scale * value:.{digits}f}"
    return text if deviation is None else f"{text} ± {scale * deviation:.{digits + 1}f}"
