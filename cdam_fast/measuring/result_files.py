"""Result files of ``cdam-fast bench --json`` and of ``benchmarks/gpu.py``, read and checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdam_fast import testing
from cdam_fast.errors import UsageError, reason_of
from cdam_fast.measuring.devices import thread_count
from cdam_fast.measuring.measure import AUTOTUNED, COMPILED, EAGER

PORTABLE, TRITON, GRAPHED = "portable", "triton", "triton, graphed"

NOT_MEASURED = "not measured"

_BACKENDS = {name: name for name in (EAGER, COMPILED, AUTOTUNED, PORTABLE, TRITON, GRAPHED)}
_BACKENDS["triton, CUDA graph"] = GRAPHED

_LATENCY = re.compile(r"latency (.+) (\d+)x(\d+) batch (\d+)")


@dataclass(frozen=True)
class Cell:
    """One backend on one input. Milliseconds per image are there only where the status is ok; None is not measured."""

    status: str = NOT_MEASURED
    ms: float | None = None
    memory_bytes: int | None = None
    error: float | None = None
    waited: bool = False
    """Whether the GPU waited for the host meanwhile."""


@dataclass(frozen=True)
class Line:
    """Every backend on one input on one device."""

    device: str
    """With the versions."""
    gpu: bool
    class_list: str
    classes: int
    grid: tuple[int, int]
    batch: int
    cells: dict[str, Cell] = field(compare=False)


@dataclass
class Maps:
    """What one file says of the map."""

    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Each a whole line: what was not measured, the errors over many inputs."""


@dataclass
class EndToEnd:
    """What one file says of the way from pixels to labels."""

    device: str
    added: dict[str, dict[tuple[str, str, str], tuple[str, float | None]]] = field(default_factory=dict)
    """By class list, and by base, step and map: a status, and where it is ok the share that CDAM adds."""
    paper: dict[str, dict[tuple[str, str], float]] = field(default_factory=dict)


@dataclass
class Other:
    """A file whose tables are its own: of scaling, or of a roofline."""

    path: str
    content: Any
    device: str


def read_json(path: str, option: str) -> Any:
    """What is in a file of JSON; UsageError names the option, the file and what is wrong with it."""
    try:
        if not Path(path).is_file():
            raise UsageError(
                f"{option}: {path}: cannot be read: it is {'no file' if Path(path).exists() else 'not there'}"
            )
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{option}: {path}: cannot be read: {reason_of(error)}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{option}: {path}: is no JSON: {reason_of(error)}") from None


def read_results(path: str) -> Maps | EndToEnd | Other:
    """One file; UsageError names it and what is wrong with it."""
    content = read_json(path, "--from")
    kind = set(content) if isinstance(content, dict) else set()
    try:
        if {"dry_run", "steps"} <= kind:
            return _of_script(content)
        if {"device_name", "exponents", "rows"} <= kind or {"device_name", "grid", "stages"} <= kind:
            return Other(path, content, device_of(content)[0])
        if {"device_name", "grid", "rows"} <= kind:
            rows = get_value(content, "rows", list)
            if all(isinstance(row, dict) and "backend" in row for row in rows):
                return _of_bench(content, rows)
            if all(isinstance(row, dict) and "base" in row for row in rows):
                return _of_end_to_end(content, rows)
    except ValueError as error:
        raise UsageError(f"--from: {path}: {error}") from None
    raise UsageError(
        f"--from: {path}: is of no format that is known; takes what cdam-fast bench --json, with or without "
        "--end-to-end, --scaling or --roofline, and benchmarks/gpu.py write"
    )


def get_value(entry: Any, key: str, *kinds: type, where: str = "") -> Any:
    """A value of one of the kinds; ValueError where there is none."""
    name = f"{where}.{key}" if where else key
    if not isinstance(entry, dict) or key not in entry:
        raise ValueError(f"is damaged: {name} is missing")
    value = entry[key]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        takes = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"is damaged: {name} is {str(value)[:40]!r}, takes {takes}")
    return value


def get_positives(entry: Any, key: str, where: str) -> tuple[float, ...]:
    """A list of positive numbers; ValueError where it is none."""
    values = get_value(entry, key, list, where=where)
    for value in values:
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise ValueError(f"is damaged: {where}.{key} holds {str(value)[:40]!r}, takes positive numbers")
    return tuple(map(float, values))


_NUMBER = (int, float, type(None))


def _positive(entry: Any, key: str, where: str) -> float | None:
    value = get_value(entry, key, *_NUMBER, where=where)
    if value is not None and not 0 < value < math.inf:
        raise ValueError(f"is damaged: {where}.{key} is {value}, takes a positive number")
    return None if value is None else float(value)


def _input(entry: Any, where: str = "") -> tuple[tuple[int, int], int]:
    """Patches of the two sides, and images at once."""
    grid, batch = get_value(entry, "grid", list, where=where), get_value(entry, "batch", int, where=where)
    if len(grid) != 2 or not all(type(size) is int and size > 0 for size in (*grid, batch)):
        raise ValueError(f"is damaged: {where or 'it'} has grid {str(grid)[:40]} and batch {batch}")
    return (grid[0], grid[1]), batch


def _cell(backend: str, row: Any, ms: float | None, where: str, waited: bool = False) -> Cell:
    """Its time only where the error is within the budget, whatever the file calls it."""
    status = get_value(row, "status", str, where=where).partition(":")[0]
    error = row.get("error")
    memory = row.get("memory_bytes")
    if error is not None:
        error = float(get_value(row, "error", int, float, where=where))
        if not error <= testing.map_budget(eager=backend in (EAGER, COMPILED, AUTOTUNED)):
            return Cell("wrong", error=error)
    if status == "not run":
        return Cell()
    if status != "ok":
        return Cell(status, error=error)
    if error is None:
        raise ValueError(f"is damaged: {where}.error is missing, and a time without it is none")
    if memory is not None:
        memory = get_value(row, "memory_bytes", int, where=where)
    return Cell("ok" if ms is not None else NOT_MEASURED, ms, memory, error, waited)


def _versions(entry: Any, where: str = "") -> str:
    versions = f"PyTorch {get_value(entry, 'torch', str, where=where).partition('+')[0]}"
    return f"{versions}, Triton {get_value(entry, 'triton', str, where=where)}" if "triton" in entry else versions


def device_of(content: Any) -> tuple[str, bool]:
    """With threads and versions, and whether it is a GPU."""
    gpu = get_value(content, "device", str).partition(":")[0] != "cpu"
    threads = "" if gpu else f", {thread_count(get_value(content, 'threads', int))}"
    return f"{get_value(content, 'device_name', str)}{threads}, {_versions(content)}", gpu


def _of_bench(content: Any, rows: list[Any]) -> Maps:
    device, gpu = device_of(content)
    grid, batch = _input(content)
    lines: dict[tuple[str, int], Line] = {}
    for number, row in enumerate(rows):
        where = f"rows[{number}]"
        name = get_value(row, "class_list", str, where=where), get_value(row, "classes", int, where=where)
        backend = _BACKENDS.get(get_value(row, "backend", str, where=where))
        line = lines.setdefault(name, Line(device, gpu, *name, grid, batch, {}))
        if backend is None or backend in line.cells:
            raise ValueError(f"is damaged: {where}.backend is {row['backend'][:40]!r}, takes each known one once")
        line.cells[backend] = _cell(backend, row, _positive(row, "p50_ms", where), where)
    return Maps(list(lines.values()))


def _of_end_to_end(content: Any, rows: list[Any]) -> EndToEnd:
    result = EndToEnd(device_of(content)[0])
    for number, row in enumerate(rows):
        where = f"rows[{number}]"
        class_list, base, step, kind, status = (
            get_value(row, key, str, where=where) for key in ("class_list", "base", "step", "map", "status")
        )
        share = get_value(row, "over_base", *_NUMBER, where=where)
        added = result.added.setdefault(class_list, {})
        added[base, step, kind] = status, float(share) if status == "ok" and share is not None else None
        paper = get_value(row, "paper_over_base", *_NUMBER, where=where)
        if paper is not None:
            result.paper.setdefault(class_list, {})[base, step] = float(paper)
    return result


def _of_script(content: Any) -> Maps:
    if get_value(content, "dry_run", bool):
        raise ValueError("is of a dry run, whose numbers are of stand-ins")
    steps = get_value(content, "steps", dict)
    environment = _done(steps, "environment")
    if environment is None:
        raise ValueError("has no result of the step environment, and so no device")
    device = f"{get_value(environment, 'name', str, where='environment')}, {_versions(environment, 'environment')}"
    result = Maps()
    planned = map(str, get_value(content, "planned", list) if "planned" in content else ())
    missing = []
    for name in dict.fromkeys((*planned, *steps)):
        if found := _LATENCY.fullmatch(name):
            measured = _done(steps, name)
            if measured is None:
                missing.append(name.removeprefix("latency ") + (f" ({_status(steps, name)})" if name in steps else ""))
            else:
                result.lines.append(_latency(device, found[1], measured, name))
    result.notes += _errors(device, _done(steps, "errors"))
    if missing:
        result.notes.append(f"{device}: {NOT_MEASURED}: {'; '.join(missing)}.")
    return result


def _status(steps: Any, name: str) -> str:
    return str(get_value(steps[name], "status", str, where=name)[:80])


def _done(steps: Any, name: str) -> Any:
    """The result of a step, None where it is not there or failed."""
    if name not in steps or _status(steps, name) != "done":
        return None
    return get_value(steps[name], "result", dict, where=name)


def _latency(device: str, class_list: str, result: Any, name: str) -> Line:
    grid, batch = _input(result, name)
    if not name.endswith(f" {grid[0]}x{grid[1]} batch {batch}"):
        raise ValueError(f"is damaged: {name} is of {grid[0]}x{grid[1]} patches and batch {batch}")
    cells = {}
    for key, row in get_value(result, "backends", dict, where=name).items():
        if key not in _BACKENDS:
            raise ValueError(f"is damaged: {name}.backends has {key[:40]!r}, takes {', '.join(_BACKENDS)}")
        where = f"{name}.{key}"
        times = row.get("device_us") if isinstance(row, dict) else None
        median = None if times is None else _positive(times, "median", f"{where}.device_us")
        waited = median is not None and not get_value(row, "queued_before_the_first", bool, where=where)
        cells[_BACKENDS[key]] = _cell(key, row, None if median is None else median / 1e3 / batch, where, waited)
    return Line(device, True, class_list, get_value(result, "classes", int, where=name), grid, batch, cells)


def _errors(device: str, result: Any) -> Iterator[str]:
    if result is None:
        yield f"{device}: errors of many inputs: {NOT_MEASURED}."
        return
    rows = get_value(result, "rows", list, where="errors")
    errors = {}
    for number, row in enumerate(rows):
        where = f"errors.rows[{number}]"
        errors[get_value(row, "case", str, where=where)] = float(get_value(row, TRITON, int, float, where=where))
    wrong = [case for case, error in errors.items() if not error <= testing.MAP_BUDGET]
    if wrong:
        yield f"{device}: the kernels are wrong on {len(wrong)} of {len(errors)} inputs: {'; '.join(wrong)}."
    elif errors:
        worst = max(errors, key=lambda case: errors[case])
        yield f"{device}: largest error of the kernels over {len(errors)} inputs {short(errors[worst])} ({worst})."


def short(error: float) -> str:
    """``2.2e-6``."""
    mantissa, _, exponent = f"{error:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def table_lines(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Markdown; the first row is the heading; so many columns from the left are text, the others numbers."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    marks = ["---" if number < left else "---:" for number in range(len(rows[0]))]
    return [lines[0], "|" + "|".join(marks) + "|", *lines[1:]]
