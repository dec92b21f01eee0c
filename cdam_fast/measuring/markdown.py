"""``cdam-fast bench --from``: the documentation's tables from result files."""

from __future__ import annotations

from collections.abc import Sequence

from cdam_fast.errors import UsageError
from cdam_fast.measuring import scaling_markdown
from cdam_fast.measuring.end_to_end import OURS, STEPS
from cdam_fast.measuring.measure import AUTOTUNED, COMPILED, EAGER
from cdam_fast.measuring.report import milliseconds, percent, ratio
from cdam_fast.measuring.result_files import (
    GRAPHED,
    NOT_MEASURED,
    PORTABLE,
    TRITON,
    Cell,
    EndToEnd,
    Line,
    Other,
    read_results,
    short,
    table_lines,
)

_HEADINGS = {
    COMPILED: "`torch.compile`",
    AUTOTUNED: "`torch.compile`, max-autotune",
    PORTABLE: "cdam_fast, portable",
    TRITON: "cdam_fast, Triton",
    GRAPHED: "cdam_fast, graphed",
}
_BASES = {"maskclip": "MaskCLIP", "sclip": "SCLIP", "clearclip": "ClearCLIP", "gem": "GEM"}
_WAITED = "\\*"


def tables(paths: Sequence[str]) -> list[str]:
    """Lines of Markdown: the maps on CPUs, on GPUs, from pixels to labels, then by size and by stage; an empty line
    between two tables.

    Raises:
        UsageError: a file that is none of ours, damaged or of a dry run; two that hold the same.
    """
    lines: dict[tuple[object, ...], tuple[Line, str]] = {}
    notes: list[str] = []
    whole: list[EndToEnd] = []
    others: list[Other] = []
    for path in paths:
        found = read_results(path)
        if isinstance(found, EndToEnd):
            whole.append(found)
            continue
        if isinstance(found, Other):
            others.append(found)
            continue
        for line in found.lines:
            key = line.device, line.class_list, line.classes, line.grid, line.batch
            if key in lines:
                other = lines[key][1]
                raise UsageError(
                    f"--from: {path}: holds what {other} does: {_what(line)}, batch {line.batch}, {line.device}"
                )
            lines[key] = line, path
        notes += found.notes
    ordered = sorted((line for line, _ in lines.values()), key=_order)
    parts = [_of_maps([line for line in ordered if line.gpu == gpu], gpu) for gpu in (False, True)]
    parts += [[note] for note in notes]
    parts += [_of_end_to_end(one) for one in sorted(whole, key=lambda one: one.device)]
    parts += [_of_other(one) for one in sorted(others, key=lambda one: ("stages" in one.content, one.device))]
    return [line for part in parts if part for line in ("", *part)][1:]


def _of_other(found: Other) -> list[str]:
    write = scaling_markdown.roofline_tables if "stages" in found.content else scaling_markdown.scaling_tables
    try:
        return write(found.content)
    except ValueError as error:
        raise UsageError(f"--from: {found.path}: {error}") from None


def _order(line: Line) -> tuple[object, ...]:
    return line.device.partition(", PyTorch")[0], line.grid[0] * line.grid[1], line.batch, line.classes, line.device


def _what(line: Line) -> str:
    count = f"C = {line.classes}"
    name = count if line.class_list.replace("=", " = ") == count else f"{line.class_list}, {count}"
    return f"{name}, {line.grid[0]}x{line.grid[1]}"


def _of_maps(lines: Sequence[Line], gpu: bool) -> list[str]:
    """A row for each input: times, ratios of ours to both rivals, memory and errors in the order of the times."""
    if not lines:
        return []
    backends = [EAGER, COMPILED, *((PORTABLE, TRITON, GRAPHED) if gpu else (PORTABLE,))]
    if any(AUTOTUNED in line.cells for line in lines):
        backends.insert(2, AUTOTUNED)
    ours = TRITON if gpu else PORTABLE
    rivals = [name for name in backends if name in (EAGER, COMPILED, AUTOTUNED)]
    heads = [_HEADINGS.get(name, name) for name in backends]
    of_ours = "Triton over " if gpu else "over "
    rows = [["device", "input", "batch", *heads, *(of_ours + _HEADINGS.get(name, name) for name in rivals)]]
    rows[0] += ["MB, each", "error, each"]
    for line in lines:
        cells = [line.cells.get(name, Cell()) for name in backends]
        row = [line.device, _what(line), str(line.batch)]
        row += [_time(cell, bold=name not in rivals) for name, cell in zip(backends, cells)]
        row += [_over(line.cells.get(name, Cell()), line.cells.get(ours, Cell())) for name in rivals]
        row.append(" / ".join(_memory(cell) for cell in cells))
        row.append(" / ".join(_error(cell) for cell in cells))
        rows.append(row)
    result = table_lines(rows, left=2)
    if any(cell.waited and cell.status == "ok" for line in lines for cell in line.cells.values()):
        result += ["", f"{_WAITED} The GPU waited for the host in between."]
    return result


def _time(cell: Cell, bold: bool) -> str:
    if cell.status != "ok" or cell.ms is None:
        return cell.status
    text = milliseconds(cell.ms)
    return (f"**{text}**" if bold else text) + (_WAITED if cell.waited else "")


def _over(rival: Cell, ours: Cell) -> str:
    if rival.ms is None or ours.ms is None:
        return NOT_MEASURED
    return f"{ratio(rival.ms / ours.ms)}x"


def _memory(cell: Cell) -> str:
    return f"{cell.memory_bytes / 1e6:.0f}" if cell.memory_bytes is not None else _absent(cell)


def _error(cell: Cell) -> str:
    return short(cell.error) if cell.error is not None else _absent(cell)


def _absent(cell: Cell) -> str:
    return cell.status if cell.status == "wrong" else NOT_MEASURED


def _of_end_to_end(found: EndToEnd) -> list[str]:
    """What all of CDAM adds to each base's time, a column for each class list."""
    rows = [[f"added to the base's time by all of CDAM: {found.device}", *found.added]]
    wanted = [(name, (base, STEPS[-1], OURS)) for base, name in _BASES.items()]
    wanted.append(("MaskCLIP, the map in eager code", ("maskclip", STEPS[-1], EAGER)))
    wanted.append(("MaskCLIP, the map by `torch.compile` of it", ("maskclip", STEPS[-1], COMPILED)))
    for name, key in wanted:
        cells = [added.get(key, (NOT_MEASURED, None)) for added in found.added.values()]
        rows.append([name, *(_share(*cell) for cell in cells)])
    paper = [found.paper.get(class_list, {}).get(("maskclip", STEPS[-1])) for class_list in found.added]
    if any(share is not None for share in paper):
        rows.append(["MaskCLIP in the paper, on an A100 (Table 5)", *(percent(share) for share in paper)])
    return table_lines(rows, left=1)


def _share(status: str, share: float | None) -> str:
    return percent(share) if share is not None else NOT_MEASURED if status in ("ok", "not run") else status
