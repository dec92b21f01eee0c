"""The bench's table, JSON file and chart."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from cdam_fast.errors import UsageError
from cdam_fast.files import check_room, json_text, write_whole
from cdam_fast.measuring.bench import Report
from cdam_fast.measuring.end_to_end import EndToEndReport
from cdam_fast.measuring.inputs import PATCH
from cdam_fast.measuring.measure import COMPILED, EAGER, Row


def table(report: Report) -> Table:
    """Milliseconds per image, ratios, memory and error of every row."""
    environment = report.environment
    result = Table(
        title=f"CDAM attention map, {_grid(report)} patches, batch {environment['batch']}, "
        f"{environment['device_name']}, {environment['threads']} threads",
        caption=f"{environment.get('photograph', 'no photograph')}; {environment['model']}, weights: "
        f"{environment.get('weights', 'none')}.\nmilliseconds per image; largest error against float64, budget "
        f"{environment['budget']:.0e}",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    result.add_column("classes", no_wrap=True)
    result.add_column("backend", no_wrap=True)
    autotuned = any(row.over_autotune for row in report.rows)
    ratios = ("x eager", "x compile", "x max-autotune") if autotuned else ("x eager", "x compile")
    for heading in ("p50 ms", "p20-p80", *ratios, "MB", "error"):
        result.add_column(heading, justify="right", no_wrap=True)
    previous = None
    for row in report.rows:
        if previous not in (None, row.class_list):
            result.add_section()
        name = _name(row) if row.class_list != previous else ""
        previous = row.class_list
        timed = row.status == "ok" and row.p50_ms is not None
        result.add_row(
            name,
            row.backend,
            milliseconds(row.p50_ms) if timed else row.status.upper(),
            f"{milliseconds(row.p20_ms)}-{milliseconds(row.p80_ms)}" if timed else "",
            ratio(row.over_eager),
            ratio(row.over_compile),
            *([ratio(row.over_autotune)] if autotuned else []),
            "" if row.memory_bytes is None else f"{row.memory_bytes / 1e6:.0f}",
            "" if row.error is None else f"{row.error:.1e}",
        )
    return result


def end_to_end_table(report: EndToEndReport) -> Table:
    """Milliseconds per image of every base method and of each part of CDAM, with the paper's beside."""
    environment = report.environment
    height, width = (PATCH * side for side in environment["grid"])
    result = Table(
        title=f"From pixels to patch labels, {height}x{width}, batch {environment['batch']}, "
        f"{environment['device_name']}, {environment['threads']} threads",
        caption=f"{environment.get('photograph', 'no photograph')}; {environment['model']}, weights: "
        f"{environment.get('weights', 'none')}.\nmilliseconds per image, median; over base: what CDAM adds "
        "so far, as a share of the base's time.\npaper: Tables 5 and 6, on an A100. error: of the cosines, against "
        "a float64 map",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in ("classes", "base", "step", "map"):
        result.add_column(heading, no_wrap=True)
    for heading in ("ms", "over base", "paper ms", "over base", "error"):
        result.add_column(heading, justify="right", no_wrap=True)
    previous = None
    for row in report.rows:
        if previous not in (None, row.class_list):
            result.add_section()
        name = f"{row.class_list} C={row.classes}" if row.class_list != previous else ""
        previous = row.class_list
        result.add_row(
            name,
            row.base,
            row.step,
            row.map,
            milliseconds(row.p50_ms) if row.status == "ok" else row.status.upper(),
            percent(row.over_base),
            "" if row.paper_ms is None else f"{row.paper_ms:.0f}",
            percent(row.paper_over_base),
            "" if row.error is None else f"{row.error:.0e}",
        )
    return result


def percent(share: float | None) -> str:
    """Signed, ``+13.2 %``; nothing for None."""
    return "" if share is None else f"{100 * share:+.1f} %" if abs(share) < 1 else f"{100 * share:+.0f} %"


def notes(report: Report | EndToEndReport) -> list[str]:
    """A line for each row that has something to say: wrong, failed, does not fit."""
    lines = []
    for row in report.rows:
        if row.note:
            who = row.backend if isinstance(row, Row) else f"{row.base} {row.step} {row.map}"
            lines.append(f"{row.class_list}, {who}: {row.status}; {row.note}")
    return lines


def _name(row: Row) -> str:
    count = f"C={row.classes}"
    return count if row.class_list == count else f"{row.class_list} {count}"


def _grid(report: Report) -> str:
    return "x".join(map(str, report.environment["grid"]))


def milliseconds(value: float | None) -> str:
    """Three digits or more; nothing for None."""
    return "" if value is None else f"{value:.3f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def ratio(value: float | None) -> str:
    """Two digits or more; nothing for None."""
    return "" if value is None else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def check_writable(option: str, path: str) -> None:
    """Fail before minutes of work, not after, when a result could not be written."""
    target = Path(path)
    try:
        if target.is_dir():
            raise IsADirectoryError(None, "is a directory")
        if target.exists() and not target.is_file():
            return
        check_room(target)
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(None, "Permission denied")
    except (OSError, ValueError) as error:
        raise UsageError(f"{option}: cannot write {path}: {getattr(error, 'strerror', None) or error}") from None


def write_json(content: dict[str, Any], path: str) -> None:
    """A report as JSON, in place of an older file only when it is whole."""
    _replace(path, json_text(content), "--json")


def write_plot(report: Report, path: str) -> None:
    """A bar chart of milliseconds per image on a logarithmic axis, a group for each class list."""
    save_figure(_figure(report), path)


def check_figure(path: str) -> None:
    """UsageError where the name ends with no format of matplotlib's."""
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if _figure_format(path).lower() not in known:
        raise UsageError(f"--plot: got {path}, takes a name that ends in one of {', '.join(sorted(known))}")


def _figure_format(path: str) -> str:
    return Path(path).suffix.removeprefix(".") or "png"


def save_figure(figure: Any, path: str) -> None:
    """One of matplotlib's, in the format that the name ends with; UsageError names ``--plot``."""
    buffer = io.BytesIO()
    try:
        figure.savefig(buffer, format=_figure_format(path), dpi=150)
    except ValueError as error:
        raise UsageError(f"--plot: cannot write {path}: {str(error).splitlines()[0]}") from None
    _replace(path, buffer.getvalue(), "--plot")


def _replace(path: str, content: bytes, option: str) -> None:
    target = Path(path)
    if target.exists() and not target.is_file():  # a device or a pipe
        try:
            target.write_bytes(content)
        except OSError as error:
            raise UsageError(f"{option}: cannot write {path}: {error.strerror or error}") from None
    else:
        write_whole(target, content, option)


COLOURS = {EAGER: "#9a9a9a", COMPILED: "#d9a441", "portable": "#2f6db3"}
OTHER_COLOUR = "#4c9a5f"


def _figure(report: Report) -> Any:
    from matplotlib.figure import Figure

    rows = [row for row in report.rows if row.p50_ms is not None]
    figure = Figure(figsize=(8, 1.6 + 0.45 * max(1, len(rows))), layout="constrained")
    axes = figure.add_subplot()
    ticks: list[tuple[float, str]] = []
    position = 0.0
    previous = None
    for row in rows:
        position += 0.0 if previous is None else 1.0 if row.class_list == previous else 1.6
        previous = row.class_list
        _bar(axes, position, row)
        ticks.append((position, f"{_name(row)}\n{row.backend}"))
    axes.set_yticks([at for at, _ in ticks], [label for _, label in ticks], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    if rows:
        axes.set_xlim(
            min(row.p50_ms for row in rows if row.p50_ms) / 2, max(row.p50_ms for row in rows if row.p50_ms) * 5
        )
    axes.set_xlabel("milliseconds per image, median with 20th to 80th percentile (log scale; shorter is better)")
    environment = report.environment
    axes.set_title(
        f"CDAM attention map, {_grid(report)} patches, 7 scales, float32\n"
        f"{environment['device_name']}, {environment['threads']} threads, torch {environment['torch']}",
        fontsize=10,
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _bar(axes: Any, position: float, row: Row) -> None:
    if row.p20_ms is None or row.p50_ms is None or row.p80_ms is None:
        return
    axes.barh(
        position,
        row.p50_ms,
        height=0.8,
        color=COLOURS.get(row.backend, OTHER_COLOUR),
        xerr=[[max(0.0, row.p50_ms - row.p20_ms)], [max(0.0, row.p80_ms - row.p50_ms)]],
        ecolor="#333333",
        capsize=2,
    )
    label = f"  {milliseconds(row.p50_ms)} ms"
    if row.backend != EAGER and row.over_eager is not None:
        label += f", {ratio(row.over_eager)}x eager"
    axes.text(row.p80_ms, position, label, va="center", fontsize=8)
