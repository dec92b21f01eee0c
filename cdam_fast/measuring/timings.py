"""Every single time of a file of ``cdam-fast bench --json``, with or without ``--end-to-end`` or ``--scaling``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cdam_fast import testing
from cdam_fast.errors import UsageError
from cdam_fast.measuring.end_to_end import LOGIT_BUDGET, STEPS
from cdam_fast.measuring.measure import AUTOTUNED, COMPILED, EAGER
from cdam_fast.measuring.result_files import get_positives, get_value, read_json
from cdam_fast.measuring.scaling_plan import Point

Key = tuple[str, ...]
"""What a row is of: the input, then the backend or the base, the step and the map."""

MAP, END_TO_END, SCALING = "bench", "bench --end-to-end", "bench --scaling"

SAME = ("device", "device_name", "threads", "grid", "batch", "model", "weights", "photograph", "input")
"""What two files must agree in, where they have it."""


@dataclass(frozen=True)
class Times:
    """One row."""

    status: str
    seconds: tuple[float, ...] = ()
    """Of the calls, in their order; only where the result was right."""
    yardstick: tuple[float, ...] = ()
    """Of the product that was timed in the same rounds; empty where none was."""


@dataclass
class Timings:
    """One file."""

    path: str
    kind: str
    environment: Mapping[str, Any]
    rows: dict[Key, Times] = field(default_factory=dict)

    def yardstick_key(self, key: Key) -> Key:
        """The row that no version of this package changes much, and that is of the same input."""
        if self.kind == END_TO_END:
            return key[0], key[1], STEPS[0], ""
        return key[0], EAGER


def read_timings(path: str, option: str) -> Timings:
    """One file; UsageError names the option, the file and what is wrong with it."""
    content = read_json(path, option)
    rows = content.get("rows") if isinstance(content, dict) else None
    if rows == []:
        raise UsageError(f"{option}: {path}: has no row: nothing was measured")
    kind = None
    if isinstance(rows, list) and "device_name" in content and all(isinstance(row, dict) for row in rows):
        kind = next((kind for kind, (names, _, _) in _KINDS.items() if all(names <= set(row) for row in rows)), None)
    if kind is None:
        raise UsageError(
            f"{option}: {path}: is of no format that is known; takes what cdam-fast bench --json, with or without "
            "--end-to-end or --scaling, writes"
        )
    _, key_of, budget_of = _KINDS[kind]
    result = Timings(path, kind, content)
    try:
        for number, row in enumerate(rows or ()):
            where = f"rows[{number}]"
            key = key_of(row, where)
            if key in result.rows:
                raise ValueError(f"is damaged: {where} is of {', '.join(filter(None, key))}, as another row")
            result.rows[key] = _times(row, where, budget_of(key))
            if kind != END_TO_END and result.rows[key].seconds and row.get("error") is None:
                raise ValueError(f"is damaged: {where}.error is missing, and a time without it is none")
    except ValueError as error:
        raise UsageError(f"{option}: {path}: {error}") from None
    return result


def _times(row: Any, where: str, budget: float) -> Times:
    """Without a time where the error is beyond the budget, whatever the file calls it."""
    status = get_value(row, "status", str, where=where)
    error = row.get("error")
    if error is not None and not float(get_value(row, "error", int, float, where=where)) <= budget:
        return Times("wrong")
    if status != "ok":
        return Times(status)
    yardstick = get_positives(row, "yardstick", where) if "yardstick" in row else ()
    return Times(status, get_positives(row, "seconds", where), yardstick)


def _map_key(row: Any, where: str) -> Key:
    name, classes = get_value(row, "class_list", str, where=where), get_value(row, "classes", int, where=where)
    return f"{name}, C = {classes}" if name != f"C={classes}" else f"C = {classes}", _backend(row, where)


def _backend(row: Any, where: str) -> str:
    return str(get_value(row, "backend", str, where=where))


def _end_to_end_key(row: Any, where: str) -> Key:
    return tuple(get_value(row, name, str, where=where) for name in ("class_list", "base", "step", "map"))


def _scaling_key(row: Any, where: str) -> Key:
    grid = get_value(row, "grid", list, where=where)
    sizes = [get_value(row, name, int, where=where) for name in ("classes", "scales", "batch")]
    if len(grid) != 2 or not all(type(size) is int and size > 0 for size in (*grid, *sizes)):
        raise ValueError(f"is damaged: {where} has grid {str(grid)[:40]} and sizes {sizes}")
    return Point((grid[0], grid[1]), *sizes).name, _backend(row, where)


def _map_budget(key: Key) -> float:
    return testing.map_budget(eager=key[-1] in (EAGER, COMPILED, AUTOTUNED))


_KINDS: dict[str, tuple[set[str], Callable[[Any, str], Key], Callable[[Key], float]]] = {
    SCALING: ({"backend", "scales", "checked"}, _scaling_key, _map_budget),
    MAP: ({"backend", "class_list"}, _map_key, _map_budget),
    END_TO_END: ({"base", "step", "map"}, _end_to_end_key, lambda key: LOGIT_BUDGET),
}
"""What each row has, what it is called, and the largest error of its result."""
