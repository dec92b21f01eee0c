"""How time and memory of the map grow with the patch grid, the classes, the scales and the batch.

The input is `cdam_fast.testing.clip_like`, so no model is needed. One size at a time changes about a base point.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cdam_fast import cdam_attention, compat, reference, testing
from cdam_fast.measuring import exponents
from cdam_fast.measuring.bench import ROUNDS
from cdam_fast.measuring.exact_rows import exact_rows, some_rows
from cdam_fast.measuring.exponents import Exponent
from cdam_fast.measuring.measure import COMPILED, EAGER, Row, Yardstick, available_memory, check, one_thread, time_round
from cdam_fast.measuring.scaling_plan import (
    CHECKED_IMAGES,
    CHECKED_ROWS,
    MOST_MEMORY,
    WHOLE_MAP,
    Plan,
    Point,
    ScalingOptions,
    backends,
    eager_bytes,
)

TIME, MEMORY, WORK = "time", "memory", "pair-classes"
"""What an exponent is of; the last is the arithmetic of the definition, counted and not measured."""


@dataclass
class ScalingRow(Row):
    """One backend at one point."""

    grid: tuple[int, int] = (0, 0)
    scales: int = 0
    batch: int = 0
    checked: str = ""
    """What was compared with float64."""
    cpu_seconds: list[float] = field(default_factory=list, repr=False)
    """The processor's time of each call, warm ones included; only where `one_thread`."""

    @property
    def point(self) -> Point:
        """Where it stands."""
        return Point(self.grid, self.classes, self.scales, self.batch)

    @property
    def least_s(self) -> float | None:
        """The least time of a call, all images: what shares a machine only adds. The processor's where there is one."""
        return min(self.cpu_seconds or self.seconds) if self.status == "ok" and self.seconds else None

    def quantity(self, name: str) -> float | None:
        """Seconds or bytes of a call; None where nothing was measured, or a result was wrong."""
        if name == TIME or self.status != "ok":
            return self.least_s
        return None if self.memory_bytes is None else float(self.memory_bytes)


@dataclass
class Fit:
    """How one quantity of one backend grows along one axis."""

    axis: str
    backend: str
    quantity: str
    found: Exponent | str
    """Or why there is none."""


@dataclass
class ScalingReport:
    """Everything that was measured and on what."""

    environment: dict[str, Any]
    options: ScalingOptions
    rows: list[ScalingRow] = field(default_factory=list)
    interrupted: bool = False

    def fits(self) -> list[Fit]:
        """By axis, backend and quantity; a backend that was measured at fewer than two points has none."""
        found = []
        for axis in self.options.values:
            points = self.options.axis_points(axis)
            sizes = [float(point.size(axis)) for point in points]
            work = exponents.fit_axis(sizes, [float(point.pair_classes) for point in points])
            found.append(Fit(axis, "", WORK, work))
            for backend in backends(self.options.device):
                rows = [row for row in self.rows if row.backend == backend and row.point in points]
                if len(rows) > 1:
                    found += [self._fit(axis, backend, quantity, rows) for quantity in (TIME, MEMORY)]
        return found

    def _fit(self, axis: str, backend: str, quantity: str, rows: list[ScalingRow]) -> Fit:
        """The floor of patches is what a call on few of them costs; over scales there is none, each is work."""
        measured = [(float(row.point.size(axis)), value) for row in rows if (value := row.quantity(quantity))]
        sizes, values = [size for size, _ in measured], [value for _, value in measured]
        floor = 0.0
        if axis == "grid":
            at_floor = (row for row in self.rows if row.backend == backend and row.point == self.options.floor)
            floor = next((row.quantity(quantity) for row in at_floor), None) or 0.0
        elif axis != "scales":
            floor = exponents.at_size_zero(sizes, values)
        found = exponents.fit_axis(sizes, values, floor)
        return Fit(axis, backend, quantity, found)

    def as_json(self) -> dict[str, Any]:
        """Plain values, every single time included."""
        return {
            **self.environment,
            "base": self.options.base._asdict(),
            "axes": {axis: list(values) for axis, values in self.options.values.items()},
            "interrupted": self.interrupted,
            "clock": "processor" if one_thread(self.options.device) else "wall",
            "exponents": [
                {"axis": fit.axis, "backend": fit.backend, "quantity": fit.quantity} | exponents.as_json(fit.found)
                for fit in self.fits()
            ],
            "rows": [asdict(row) for row in self.rows],
        }


def run_scaling(options: ScalingOptions, plan: Plan, report: ScalingReport, on_step: Callable[[str], None]) -> None:
    """Measure every point of the plan into report, in place, so that an interrupt keeps what is done."""
    begin = time.monotonic()
    for (point, backend), why in plan.left_out.items():
        report.rows.append(_row(point, backend, "left out", why))
    try:
        for point, names in plan.points:
            if time.monotonic() - begin > options.seconds:
                why = f"the {options.seconds:.0f} s were over"
                report.rows += [_row(point, backend, "left out", why) for backend in names]
            else:
                _measure_point(options, report, point, names, on_step)
    finally:
        order = {point: number for number, point in enumerate(options.points())}
        report.rows.sort(key=lambda row: order[row.point])


def _row(point: Point, backend: str, status: str = "not run", note: str = "") -> ScalingRow:
    grid, classes, scales, batch = point
    name = f"C={classes}"
    return ScalingRow(name, classes, backend, status, note, grid=grid, scales=scales, batch=batch)


def _measure_point(
    options: ScalingOptions, report: ScalingReport, point: Point, names: list[str], on_step: Callable[[str], None]
) -> None:
    device = options.device
    similarity = testing.clip_like(point.classes, *point.grid, batch=(point.batch,)).to(device)
    on_step(f"{point.name}: float64")
    exact, part, checked = _exact(similarity, point)
    rows: list[tuple[ScalingRow, Callable[[], Tensor]]] = []
    for name in names:
        row = _row(point, name)
        report.rows.append(row)
        if name == EAGER and eager_bytes(point) > MOST_MEMORY * available_memory(device):  # by now
            row.status, row.note = "left out", f"needs about {eager_bytes(point) / 1e9:.0f} GB"
            continue
        row.checked = checked
        on_step(f"{point.name}: {name}" + (" (compiling)" if name == COMPILED else ""))
        call: Callable[[], Tensor] = partial(_without_gradient, _backend(name, point), similarity)
        if check(row, call, exact, device, part):
            rows.append((row, partial(_counted, row, call) if one_thread(device) else call))
    yardstick = Yardstick(device)
    on_step(f"{point.name}: timing")
    try:
        # backends take turns, so that a slower minute of the machine falls on all of them
        for turn in range(ROUNDS):
            yardstick.take()
            for row, call in rows:
                time_round(row, call, device, turn, ROUNDS, options.runs, options.seconds_of_a_point)
    finally:  # an interrupt keeps the rounds that are done
        for row, _ in rows:
            row.summarise(point.batch)
            row.yardstick = yardstick.seconds


def _counted(row: ScalingRow, call: Callable[[], Tensor]) -> Tensor:
    begin = time.process_time()
    result = call()
    row.cpu_seconds.append(time.process_time() - begin)
    return result


def _exact(similarity: Tensor, point: Point) -> tuple[Tensor, Callable[[Tensor], Tensor], str]:
    """The float64 map or rows of it, how to take as much from a result, and a word for it."""
    if point.pair_classes <= WHOLE_MAP:
        exact = testing.oracle(similarity, device=similarity.device, scales=point.factors)
        return exact, lambda result: result, "map"
    images = torch.linspace(0, point.batch - 1, min(point.batch, CHECKED_IMAGES)).round().long()
    rows = some_rows(point.patches, CHECKED_ROWS // len(images))
    images, rows = images.to(similarity.device), rows.to(similarity.device)
    exact = exact_rows(similarity[images], rows, scales=point.factors)
    checked = f"{len(rows)} rows" + (f" of {len(images)} images" if point.batch > 1 else "")
    return exact, lambda result: result[images][:, rows], checked


def _backend(name: str, point: Point) -> Callable[[Tensor], Tensor]:
    if name == EAGER:
        return partial(reference.cdam_attention, scales=point.factors)
    if name == COMPILED:
        if hasattr(torch, "compiler"):
            torch.compiler.reset()  # what was compiled for other sizes
        return compat.compiled(partial(reference.cdam_attention, scales=point.factors), dynamic=False)
    return partial(cdam_attention, scales=point.factors, backend=name)


def _without_gradient(function: Callable[[Tensor], Tensor], similarity: Tensor) -> Tensor:
    with torch.no_grad():
        return function(similarity)
