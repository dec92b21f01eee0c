"""Which points ``cdam-fast bench --scaling`` measures, and which of them the time and the memory allow."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from cdam_fast import SCALES, cdam_attention, testing
from cdam_fast.constants import scaled_grid
from cdam_fast.measuring.durations import COMPILING, ORACLE, eager_unit
from cdam_fast.measuring.measure import COMPILED, EAGER, LEAST_RUNS, available_memory

AXES = ("grid", "classes", "scales", "batch")

PORTABLE, TRITON = "portable", "triton"

WHOLE_MAP = 10**8
"""Pair-classes up to which the whole map is compared with float64."""
CHECKED_ROWS, CHECKED_IMAGES = 32, 4
"""Beyond, so many rows of a map, divided among so many images of a batch."""

MOST_MEMORY = 0.7
"""Of what is available: more for one call would push others out."""

FLOOR_GRID = (8, 8)
"""On so few patches a call costs what it costs at any size."""

_LIMITS = {"grid": (4, 256), "classes": (1, 100_000), "scales": (1, len(SCALES)), "batch": (1, 4096)}


class Point(NamedTuple):
    """The size of one input, and how many of the seven scales: the largest ones."""

    grid: tuple[int, int] = (28, 28)
    classes: int = 161
    scales: int = 7
    batch: int = 1

    @property
    def factors(self) -> tuple[float, ...]:
        """The scales themselves."""
        return SCALES[-self.scales :]

    @property
    def patches(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]

    @property
    def pair_classes(self) -> int:
        """Terms of the divergence by its definition, over all scales and images."""
        rows = ((grid[0] * grid[1]) for grid in (scaled_grid(*self.grid, scale) for scale in self.factors))
        return self.batch * self.classes * sum(count**2 for count in rows)

    @property
    def name(self) -> str:
        """``28x28, C = 161, 7 scales, batch 1``."""
        scales = "1 scale" if self.scales == 1 else f"{self.scales} scales"
        return f"{self.grid[0]}x{self.grid[1]}, C = {self.classes}, {scales}, batch {self.batch}"

    def size(self, axis: str) -> int:
        """Its size along an axis; that of the patch grid is N."""
        return self.patches if axis == "grid" else int(getattr(self, axis))


BASE = Point()

DEFAULT_VALUES: Mapping[str, tuple[object, ...]] = {
    "grid": tuple((side, side) for side in (14, 20, 28, 40, 56, 80, 96)),
    "classes": (20, 40, 80, 161, 320, 450, 640, 900, 1300),
    "scales": (1, 2, 3, 5, 7),
    "batch": (1, 2, 4, 8, 16, 32, 64),
}
"""Along each axis, the others as at the base point."""


@dataclass(frozen=True)
class ScalingOptions:
    """What the command line asked for, checked."""

    device: torch.device
    base: Point = BASE
    values: Mapping[str, Sequence[object]] = field(default_factory=lambda: DEFAULT_VALUES)
    """By axis."""
    runs: int = 15
    seconds: float = 300.0
    compile: str = "largest"

    @property
    def floor(self) -> Point:
        """Where it is measured what a call costs whatever the patches."""
        return self.base._replace(grid=FLOOR_GRID, batch=1)

    @property
    def seconds_of_a_point(self) -> float:
        """Of timed calls of one backend, unless it takes more to time it `LEAST_RUNS` times."""
        return self.seconds / 200

    def points(self) -> list[Point]:
        """Every point once, the base and the floor among them."""
        found = {self.floor: None, self.base: None}
        for axis, values in self.values.items():
            found.update({self.base._replace(**{axis: value}): None for value in values})  # type: ignore[arg-type]
        return list(found)

    def axis_points(self, axis: str) -> list[Point]:
        """Those along one axis, the base included where it is one of them."""
        return [self.base._replace(**{axis: value}) for value in self.values[axis]]  # type: ignore[arg-type]

    def compiled_points(self) -> set[Point]:
        """Those at which torch.compile is measured: by default three grids up to the base's, a compilation each."""
        if self.compile == "all":
            return set(self.points())
        grids = sorted(
            (point for point in self.axis_points("grid") if point.patches <= self.base.patches)
            if "grid" in self.values
            else [self.base],
            key=lambda point: point.patches,
        )
        return set(grids[-3:]) if self.compile == "largest" else set()


def parse_axes(texts: Sequence[str]) -> dict[str, tuple[object, ...]]:
    """``["grid", "classes=20,161"]`` -> the values along each axis; every axis where none is named.

    Raises:
        ValueError: which text, and what it takes.
    """
    values: dict[str, tuple[object, ...]] = {}
    for text in texts:
        axis, equals, listed = text.partition("=")
        if axis not in AXES or axis in values:
            raise ValueError(f"got {text!r}, takes each of {', '.join(AXES)} once, as in grid or grid=14,28,56")
        values[axis] = tuple(_value(axis, part, text) for part in listed.split(",")) if equals else DEFAULT_VALUES[axis]
        if len(set(values[axis])) < len(values[axis]):
            raise ValueError(f"got {text!r}, takes each size once")
    return values or dict(DEFAULT_VALUES)


def _value(axis: str, part: str, text: str) -> object:
    low, high = _LIMITS[axis]
    sides = part.lower().split("x") if axis == "grid" else [part]
    if len(sides) > 2 or not all(side.isdecimal() and low <= int(side) <= high for side in sides):
        kind = "N or HxW" if axis == "grid" else "whole numbers"
        raise ValueError(f"got {text!r}, takes {kind} from {low} to {high}, separated by commas")
    return (int(sides[0]), int(sides[-1])) if axis == "grid" else int(part)


def backends(device: torch.device) -> tuple[str, ...]:
    """Those that can be measured on a device."""
    return (EAGER, COMPILED, PORTABLE, *((TRITON,) if device.type == "cuda" else ()))


def eager_bytes(point: Point) -> int:
    """Three [B, N, N, C] temporaries are live at once in the eager divergence."""
    return 3 * 4 * point.batch * point.patches**2 * point.classes


@dataclass
class Plan:
    """The points in the order in which they are measured, and what is left out."""

    points: list[tuple[Point, list[str]]]
    """With the backends."""
    left_out: dict[tuple[Point, str], str]
    """And why."""
    seconds: float
    """What it takes, about."""


class _Costs:
    """Seconds of a call and of a check, from one short measurement of each; within a factor of three."""

    def __init__(self, options: ScalingOptions) -> None:
        self.options = options
        self.quicker = 1.0 if options.device.type == "cpu" else 50.0
        self.eager = eager_unit() / 2  # of a pair-class: the smaller scales have as many as the largest
        self.probe = Point((20, 20), 161, 7, 1)
        similarity = testing.clip_like(self.probe.classes, *self.probe.grid)
        seconds = []
        for _ in range(4):
            begin = time.perf_counter()
            cdam_attention(similarity, backend=PORTABLE)
            seconds.append(time.perf_counter() - begin)
        self.portable = min(seconds)

    def of_call(self, point: Point, backend: str) -> float:
        if backend in (EAGER, COMPILED):
            return self.eager * point.pair_classes / (self.quicker if backend == EAGER else 10 * self.quicker)
        grown = (point.patches / self.probe.patches) ** 2.1 * (0.4 + 0.6 * point.classes / self.probe.classes)
        seconds: float = self.portable * point.batch * point.scales / self.probe.scales * max(grown, 0.3)
        return seconds / self.quicker

    def of_backend(self, point: Point, backend: str) -> float:
        """All calls: the first, and what is timed."""
        call = self.of_call(point, backend)
        timed = max(min(self.options.runs * call, self.options.seconds_of_a_point), LEAST_RUNS * call)
        return call + timed + (COMPILING if backend == COMPILED else 0)

    def of_check(self, point: Point) -> float:
        if point.pair_classes <= WHOLE_MAP:
            return ORACLE * self.eager * point.pair_classes
        rows = min(point.patches, 4 * CHECKED_ROWS)  # four rows of a smaller scale make one
        return ORACLE * self.eager * point.pair_classes / point.batch * rows / point.patches


def make_plan(options: ScalingOptions) -> Plan:
    """The base point first, then the cheapest, as many as the seconds allow."""
    costs = _Costs(options)
    left_out: dict[tuple[Point, str], str] = {}
    entries = []
    room = MOST_MEMORY * available_memory(options.device)
    compiled = options.compiled_points()
    for point in options.points():
        for backend in backends(options.device):
            if backend == COMPILED and point not in compiled:
                continue
            if backend == EAGER and eager_bytes(point) > room:
                left_out[point, backend] = f"needs about {eager_bytes(point) / 1e9:.0f} GB"
                continue
            entries.append((point != options.base, costs.of_backend(point, backend), point, backend))
    chosen: dict[Point, list[str]] = {}
    total = 0.0
    for _, cost, point, backend in sorted(entries):
        whole = cost + (0.0 if point in chosen else costs.of_check(point))
        if total + whole > options.seconds:
            left_out[point, backend] = f"would take about {whole:.0f} s"
            continue
        total += whole
        chosen.setdefault(point, []).append(backend)
    ordered = [(point, [name for name in backends(options.device) if name in names]) for point, names in chosen.items()]
    return Plan(ordered, left_out, total)
