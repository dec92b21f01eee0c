"""What was compiled and the floors, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from cdam_fast.ahead.compiler import HARMLESS_SPILL, Compiled
from cdam_fast.ahead.floors import StageFloors, pair_classes
from cdam_fast.ahead.gpus import Floor, gpus_of
from cdam_fast.ahead.listing import Loop

_CLASSES = ("special", "fp32", "alu", "tensor")  # with a column of their own


def failed(result: Compiled) -> bool:
    """Whether a launch is not fit to be shipped: it does not compile, spills more than is harmless, or asks for too
    much shared memory.
    """
    too_large = result.shared_bytes > _shared_limit(result.target)
    return result.status == "failed" or result.spilled_bytes > HARMLESS_SPILL or too_large


def kernel_table(results: Iterable[Compiled]) -> Table:
    """One row per kernel, target and loop."""
    table = Table(
        title="Kernels, compiled ahead of time",
        caption="stack: bytes per thread that registers take in memory; instr: instructions of one iteration of a loop "
        "for one warp, without\nthe loops inside; per p-c: instructions per pair-class of a thread",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in ("kernel", "target"):
        table.add_column(heading, no_wrap=True)
    for heading in ("regs", "stack", "shared"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("loop", no_wrap=True)
    for heading in ("instr", *_CLASSES, "per p-c"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        if result.status != "compiled":
            table.add_row(result.name, result.target, *[""] * 3, result.status)
            continue
        head = [result.name, result.target, str(result.registers), _stack(result), f"{result.shared_bytes} B"]
        loops = _distinct(result.loops)
        if not loops:
            table.add_row(*head, "none", str(result.instructions))
        for number, loop in enumerate(loops):
            table.add_row(
                *(head if number == 0 else [""] * len(head)),
                f"{'  ' * (loop.depth - 1)}{loop.function}:{loop.line}",
                str(loop.instructions),
                *(str(loop.counts.get(name, "")) for name in _CLASSES),
                "" if (each := per_pair_class(result, loop)) is None else f"{each:.2f}",
            )
    return table


def floor_table(floors: Iterable[StageFloors]) -> Table:
    """One row per GPU, shape and path."""
    table = Table(
        title="Floors: the least time of one image with 7 scales, in microseconds",
        caption="computed from the counts above and each GPU's peak rates, with the pipe that limits; nothing here was "
        "measured.\nlaunches themselves not counted",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in ("GPU", "patches", "classes", "divergence"):
        table.add_column(heading, no_wrap=True)
    for heading in ("distributions floor", "divergence floor", "attention floor", "sum of floors"):
        table.add_column(heading, justify="right", no_wrap=True)
    previous = None
    for row in floors:
        classes, height, width = row.shape
        if previous not in (None, row.gpu):
            table.add_section()
        previous = row.gpu
        stages = [_floor(stage) for stage in (row.distributions, row.divergence, row.attention)]
        table.add_row(row.gpu, f"{height}x{width}", str(classes), row.path, *stages, f"{row.seconds * 1e6:.1f}")
    return table


def notes(results: Iterable[Compiled]) -> list[str]:
    """A line for each launch that did not compile or is not fit to be shipped."""
    lines = []
    for result in results:
        if result.status != "compiled":
            lines.append(f"{result.name}, {result.target}: {result.status}; {result.message}")
        elif result.spilled_bytes > HARMLESS_SPILL:
            lines.append(f"{result.name}, {result.target}: SPILLS {_stack(result)}; {result.registers} registers")
        elif failed(result):
            limit = _shared_limit(result.target)
            lines.append(
                f"{result.name}, {result.target}: {result.shared_bytes} B of shared memory, the limit is {limit}"
            )
    return lines


def as_json(results: Iterable[Compiled], floors: Iterable[StageFloors]) -> dict[str, Any]:
    """Everything that was found; floors in seconds."""
    import triton

    return {
        "triton": triton.__version__,
        "kernels": [
            asdict(result)
            | {"spills": result.spills}
            | {
                "loops": [
                    asdict(loop) | {"instructions_per_pair_class": per_pair_class(result, loop)}
                    for loop in result.loops
                ]
            }
            for result in results
        ],
        "floors": [
            {"gpu": row.gpu, "target": row.target, "path": row.path, "seconds": row.seconds}
            | dict(zip(("classes", "height", "width"), row.shape))
            | {stage: getattr(row, stage)._asdict() for stage in ("distributions", "divergence", "attention")}
            for row in floors
        ],
    }


def per_pair_class(result: Compiled, loop: Loop) -> float | None:
    """Instructions of a divergence's loop per pair-class; None for other loops, and for the rounds of a product."""
    covered = pair_classes(result, loop, gpus_of(result.target)[0].warp)
    return None if covered is None else loop.instructions / covered


def _distinct(loops: Iterable[Loop]) -> list[Loop]:
    """The longest of the loops that come from one statement: copies of a function that was inlined more than once."""
    found: dict[tuple[str, int], Loop] = {}
    for loop in loops:
        place = (loop.function, loop.line)
        if place not in found or found[place].instructions < loop.instructions:
            found[place] = loop
    return list(found.values())


def _shared_limit(target: str) -> int:
    return min(gpu.shared_limit for gpu in gpus_of(target))


def _stack(result: Compiled) -> str:
    return f"{result.spilled_bytes} B" if result.spills else "0"


def _floor(floor: Floor) -> str:
    return f"{floor.seconds * 1e6:.2f} {floor.limit}"
