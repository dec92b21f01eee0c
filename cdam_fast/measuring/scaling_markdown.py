"""``cdam-fast bench --from`` of files of ``--scaling`` and of ``--roofline``: the documentation's tables."""

from __future__ import annotations

from typing import Any

from cdam_fast.measuring.exponents import Exponent
from cdam_fast.measuring.report import milliseconds
from cdam_fast.measuring.result_files import NOT_MEASURED, device_of, get_positives, get_value, short, table_lines
from cdam_fast.measuring.roofline import RooflineReport, StageRow, work_and_rate
from cdam_fast.measuring.scaling import MEMORY, TIME, WORK
from cdam_fast.measuring.scaling_plan import Point
from cdam_fast.measuring.scaling_report import AXIS_NAMES, exponent_text, fitted_over

_NUMBER = (int, float, type(None))


def scaling_tables(content: Any) -> list[str]:
    """The exponents, then every point, then what was left out.

    Raises:
        ValueError: what is damaged.
    """
    device, _ = device_of(content)
    rows = get_value(content, "rows", list)
    lines = [f"Exponents about {_point(get_value(content, 'base', dict), 'base').name}: {device}.", ""]
    lines += _exponents(get_value(content, "exponents", list))
    points, left_out = [["point", "backend", "least ms", "median ms", "calls", "MB", "error", "checked"]], []
    for number, row in enumerate(rows):
        where = f"rows[{number}]"
        name, backend = _point(row, where).name, get_value(row, "backend", str, where=where)
        status = get_value(row, "status", str, where=where)
        seconds = get_positives(row, "seconds", where)
        if status != "ok" or not seconds:
            left_out.append(f"{backend} at {name}: {status}" + (f", {row['note']}" if row.get("note") else ""))
            continue
        median = get_value(row, "p50_ms", int, float, where=where) * row["batch"]
        memory, error = (get_value(row, key, int, float, where=where) for key in ("memory_bytes", "error"))
        cpu = get_positives(row, "cpu_seconds", where)
        times = [milliseconds(1e3 * min(cpu or seconds)), milliseconds(median), str(len(seconds))]
        checked = get_value(row, "checked", str, where=where)
        points.append([name, backend, *times, f"{memory / 1e6:.1f}", short(error), checked])
    lines += ["", *table_lines(points, left=2)]
    if left_out:
        lines += ["", f"Not measured: {'; '.join(left_out)}."]
    return lines


def _point(entry: Any, where: str) -> Point:
    grid = get_value(entry, "grid", list, where=where)
    sizes = [get_value(entry, name, int, where=where) for name in ("classes", "scales", "batch")]
    if len(grid) != 2 or not all(type(size) is int and size > 0 for size in (*grid, *sizes)):
        raise ValueError(f"is damaged: {where} has grid {str(grid)[:40]} and sizes {sizes}")
    return Point((grid[0], grid[1]), *sizes)


def _exponents(fits: list[Any]) -> list[str]:
    found: dict[tuple[str, str], dict[str, Exponent | str]] = {}
    for number, fit in enumerate(fits):
        where = f"exponents[{number}]"
        axis, backend, quantity = (get_value(fit, key, str, where=where) for key in ("axis", "backend", "quantity"))
        if axis not in AXIS_NAMES:
            raise ValueError(f"is damaged: {where}.axis is {axis[:40]!r}, takes {', '.join(AXIS_NAMES)}")
        exponent, sizes = get_value(fit, "exponent", *_NUMBER, where=where), get_positives(fit, "sizes", where)
        each: Exponent | str = get_value(fit, "note", str, where=where)
        if exponent is not None and sizes:
            low, high = (get_value(fit, key, int, float, where=where) for key in ("low", "high"))
            each = Exponent(exponent, low, high, sizes)
        found.setdefault((axis, backend or WORK), {})[quantity] = each
    rows = [["axis", "of", "time", "fitted over", "memory", "fitted over"]]
    for (axis, backend), by_quantity in found.items():
        quantities = (WORK,) if backend == WORK else (TIME, MEMORY)
        cells = [
            text(by_quantity.get(quantity, NOT_MEASURED))
            for quantity in quantities
            for text in (exponent_text, fitted_over)
        ]
        rows.append([AXIS_NAMES[axis], backend, *cells, *[""] * (4 - len(cells))])
    return table_lines(rows, left=2)


def roofline_tables(content: Any) -> list[str]:
    """Each stage against what the machine can do.

    Raises:
        ValueError: what is damaged.
    """
    device, gpu = device_of(content)
    grid, classes = get_value(content, "grid", list), get_value(content, "classes", int)
    report = RooflineReport({})
    for number, row in enumerate(get_value(content, "stages", list)):
        where = f"stages[{number}]"
        stage, limit, note = (get_value(row, key, str, where=where) for key in ("stage", "limit", "note"))
        seconds, least, work = (get_value(row, key, *_NUMBER, where=where) for key in ("seconds", "least", "work"))
        report.rows.append(StageRow(stage, seconds, least, limit, work or 0.0, note))
    name = f"{'x'.join(map(str, grid))}, C = {classes}"
    heading = [f"{name}: {device}", "ms", "work", "rate", "least ms", "share", "on a GPU"]
    rows = [heading]
    for row in report.rows:
        times = [NOT_MEASURED if each is None else milliseconds(1e3 * each) for each in (row.seconds, row.least)]
        share = NOT_MEASURED if row.share is None else f"{100 * row.share:.0f} %"
        stage = f"{row.stage} ({row.note})" if row.note else row.stage
        rows.append([stage, times[0], *work_and_rate(row), f"{times[1]} ({row.limit})", share, NOT_MEASURED])
    if gpu:
        rows = [row[:-1] for row in rows]
    whole = get_value(content, "whole_s", *_NUMBER)
    ceilings = [get_value(content, key, *_NUMBER) for key in ("product_flop_per_s", "copy_bytes_per_s")]
    lines = table_lines(rows, left=1)
    if whole is not None and None not in ceilings:
        total = sum(row.seconds or 0.0 for row in report.rows)
        times = [milliseconds(1e3 * each) for each in (total, whole)]
        lines += [
            "",
            f"The stages add up to {times[0]} ms, a call takes {times[1]}. A product of 1024 x 1024 matrices runs at "
            f"{ceilings[0] / 1e9:.0f} GFLOP/s, a copy of 64 MB at {ceilings[1] / 1e9:.1f} GB/s.",
        ]
    return lines
