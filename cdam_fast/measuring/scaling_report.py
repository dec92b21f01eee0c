"""What ``cdam-fast bench --scaling`` prints and draws."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from cdam_fast.measuring.devices import thread_count
from cdam_fast.measuring.exponents import OVER_FLOOR, Exponent
from cdam_fast.measuring.measure import one_thread
from cdam_fast.measuring.report import COLOURS, OTHER_COLOUR, milliseconds
from cdam_fast.measuring.scaling import MEMORY, TIME, WORK, Fit, ScalingReport, ScalingRow
from cdam_fast.measuring.scaling_plan import FLOOR_GRID, Point, backends

AXIS_NAMES = {"grid": "patches N", "classes": "classes C", "scales": "scales", "batch": "batch"}


def points_table(report: ScalingReport) -> Table:
    """Milliseconds of a call, memory and error at every point."""
    environment = report.environment
    result = Table(
        title=f"CDAM attention map by size, {environment['device_name']}, {thread_count(environment['threads'])}",
        caption=f"milliseconds of a call, all images of the batch; least: {_clock(report)}; MB: most that is allocated "
        "during a call, its result included; checked: what was compared with float64, and error: the largest "
        "difference there",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in ("point", "backend"):
        result.add_column(heading, no_wrap=True)
    for heading in ("least ms", "p50 ms", "calls", "MB", "error"):
        result.add_column(heading, justify="right", no_wrap=True)
    result.add_column("checked", no_wrap=True)
    previous = None
    for row in report.rows:
        if previous not in (None, row.point):
            result.add_section()
        name = row.point.name if row.point != previous else ""
        previous = row.point
        least = row.least_s
        result.add_row(
            name,
            row.backend,
            milliseconds(1e3 * least) if least is not None else row.status.upper(),
            milliseconds(row.p50_ms * row.batch) if least is not None and row.p50_ms is not None else "",
            str(row.runs) if least is not None else "",
            "" if row.memory_bytes is None else f"{row.memory_bytes / 1e6:.0f}",
            "" if row.error is None else f"{row.error:.1e}",
            row.checked,
        )
    return result


def _clock(report: ScalingReport) -> str:
    return "of the processor's time, on one thread" if one_thread(report.options.device) else "by the clock"


def exponents_table(report: ScalingReport) -> Table:
    """How time and memory grow along each axis, with the growth of the arithmetic beside."""
    result = Table(
        title=f"Exponents about {report.options.base.name}",
        caption="time and memory ~ size ** exponent, with its 95 % interval, fitted over the points at "
        f"{OVER_FLOOR:g} times the floor or more: of patches what a call costs on {FLOOR_GRID[0]}x{FLOOR_GRID[1]}, of "
        "classes and batch what a line through the two least gives at size 0, of scales none. pair-classes: the terms "
        "of the divergence, counted",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in ("axis", "backend"):
        result.add_column(heading, no_wrap=True)
    for heading in ("time", "fitted over", "memory", "fitted over"):
        result.add_column(heading, justify="right")
    previous = None
    for axis, backend, fits in _by_backend(report.fits()):
        if previous not in (None, axis):
            result.add_section()
        name = AXIS_NAMES[axis] if axis != previous else ""
        previous = axis
        if not backend:
            result.add_row(name, WORK, exponent_text(fits[WORK].found), fitted_over(fits[WORK].found), "", "")
            continue
        cells = [text(fits[quantity].found) for quantity in (TIME, MEMORY) for text in (exponent_text, fitted_over)]
        result.add_row(name, backend, *cells)
    return result


def _by_backend(fits: list[Fit]) -> list[tuple[str, str, dict[str, Fit]]]:
    found: dict[tuple[str, str], dict[str, Fit]] = {}
    for fit in fits:
        found.setdefault((fit.axis, fit.backend), {})[fit.quantity] = fit
    return [(*key, each) for key, each in found.items()]


def exponent_text(found: Exponent | str) -> str:
    """``2.05 [1.98, 2.12]``."""
    return "none" if isinstance(found, str) else f"{found.exponent:.2f} [{found.low:.2f}, {found.high:.2f}]"


def fitted_over(found: Exponent | str) -> str:
    """``784 to 9216, 5 points``, or why there is no fit."""
    if isinstance(found, str):
        return found
    return f"{found.sizes[0]:.0f} to {found.sizes[-1]:.0f}, {len(found.sizes)} points"


def notes(report: ScalingReport) -> list[str]:
    """A line for each reason for which something is left out, and for each row that is wrong or failed."""
    reasons: dict[str, list[str]] = {}
    for row in report.rows:
        if row.note:
            reasons.setdefault(f"{row.backend}, {row.status}", []).append(f"{_place(report, row)} ({row.note})")
    lines = [f"{reason}: {'; '.join(places)}" for reason, places in reasons.items()]
    compiled = report.options.compiled_points()
    if 0 < len(compiled) < len(report.options.points()):
        where = ", ".join(_grid(one) for one in sorted(compiled))
        lines.append(
            f"torch.compile: compiles at each point, so only {where} by default; --compile all takes every one"
        )
    if report.options.device.type != "cuda":
        lines.append("Triton: not measured, no GPU")
    return lines


def _place(report: ScalingReport, row: ScalingRow) -> str:
    """What differs from the base point."""
    base = report.options.base
    parts = [] if row.grid == base.grid else [_grid(row.point)]
    if row.classes != base.classes:
        parts.append(f"C = {row.classes}")
    if row.scales != base.scales:
        parts.append(f"scales {row.scales}")
    return ", ".join(parts + ([f"batch {row.batch}"] if row.batch != base.batch else [])) or "the base point"


def _grid(point: Point) -> str:
    return f"{point.grid[0]}x{point.grid[1]}"


def figure(report: ScalingReport) -> Any:
    """Time above memory, a column for each axis, both logarithmic, with the fitted lines."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    axes = list(report.options.values)
    environment = report.environment
    result = Figure(figsize=(max(6.0, 3.4 * len(axes)), 6.4), layout="constrained")
    panels = result.subplots(2, len(axes), sharex="col", sharey="row", squeeze=False)
    fits = {(fit.axis, fit.backend, fit.quantity): fit.found for fit in report.fits()}
    for column, axis in enumerate(axes):
        points = report.options.axis_points(axis)
        for panel, quantity in zip(panels[:, column], (TIME, MEMORY)):
            panel.set_xscale("log")
            panel.set_yscale("log")
            for backend in backends(report.options.device):
                rows = [row for row in report.rows if row.backend == backend and row.point in points]
                _draw(panel, axis, quantity, backend, rows, fits.get((axis, backend, quantity), ""))
            panel.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
            panel.spines[["top", "right"]].set_visible(False)
            if panel.get_legend_handles_labels()[0]:
                panel.legend(fontsize=7, frameon=False)
        sizes = sorted({point.size(axis) for point in points})
        panels[1, column].xaxis.set_minor_locator(NullLocator())
        panels[1, column].set_xticks(sizes, list(map(str, sizes)), rotation=45, fontsize=8)
        panels[1, column].set_xlabel(AXIS_NAMES[axis])
    panels[0, 0].set_ylabel("milliseconds of a call, least")
    panels[1, 0].set_ylabel("MB allocated at most")
    result.suptitle(
        f"CDAM attention map about {report.options.base.name}, float32; dashed: fitted exponent\n"
        f"{environment['device_name']}, {thread_count(environment['threads'])}, torch {environment['torch']}",
        fontsize=10,
    )
    return result


def _draw(panel: Any, axis: str, quantity: str, backend: str, rows: list[ScalingRow], found: Exponent | str) -> None:
    pairs = sorted(
        (row.point.size(axis), 1e3 * row.least_s if quantity == TIME else (row.memory_bytes or 0) / 1e6)
        for row in rows
        if row.least_s is not None
    )
    if not pairs:
        return
    colour = COLOURS.get(backend, OTHER_COLOUR)
    label = backend if isinstance(found, str) else f"{backend}: {found.exponent:.2f}"
    panel.plot([size for size, _ in pairs], [value for _, value in pairs], "o", ms=4, color=colour, label=label)
    if not isinstance(found, str):
        used = [pair for pair in pairs if pair[0] in found.sizes]
        # the fitted line goes through the middle of the logarithms
        middle = [1.0, 1.0]
        for place in (0, 1):
            for pair in used:
                middle[place] *= pair[place] ** (1 / len(used))
        line = [middle[1] * (size / middle[0]) ** found.exponent for size, _ in used]
        panel.plot([size for size, _ in used], line, "--", linewidth=1, color=colour)
