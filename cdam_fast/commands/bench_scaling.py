"""``cdam-fast bench --scaling``: how time and memory grow with the size of the input."""

from __future__ import annotations

import argparse
from typing import Any

from cdam_fast.commands.bench_options import check_outputs, one_number, value
from cdam_fast.commands.streams import say, show, tell
from cdam_fast.errors import UsageError

TAKES = ("grid", "classes", "batch", "device", "runs", "compile", "seconds", "json", "plot")

_CLASSES, _RUNS, _SECONDS = "161", 15, 300.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses it, and its own."""
    parser.add_argument(
        "--scaling",
        nargs="*",
        metavar="AXIS[=SIZES]",
        help="time and memory over the patch grid, the classes, the scales and the batch, one at a time about the "
        "point that --grid, --classes (a number) and --batch give, with the exponent of each; AXIS is grid, classes, "
        "scales or batch, as in grid=14,28,56 (default: all of them, at usual sizes); needs no model",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help=f"of --scaling: what the measurement may take; what does not fit is left out (default: {_SECONDS:.0f})",
    )


def run(parsed: argparse.Namespace) -> int:
    """Measure, print both tables, write what is asked for; 1 where a backend was wrong."""
    from cdam_fast.commands.progress import estimated
    from cdam_fast.measuring import report, scaling, scaling_plan, scaling_report

    options = _options(parsed)
    check_outputs(parsed)
    measured = scaling.ScalingReport(_environment(options), options)
    try:
        tell("planning: how fast this machine is, and what fits")
        plan = scaling_plan.make_plan(options)
        with estimated(plan.seconds) as on_step:
            scaling.run_scaling(options, plan, measured, on_step)
    except KeyboardInterrupt:
        measured.interrupted = True
    show(scaling_report.points_table(measured))
    show(scaling_report.exponents_table(measured), width=140)
    for note in scaling_report.notes(measured):
        say(note)
    if parsed.json is not None:
        report.write_json(measured.as_json(), parsed.json)
    if parsed.plot is not None:
        report.save_figure(scaling_report.figure(measured), parsed.plot)
    if measured.interrupted:
        return 130
    return 1 if any(row.status == "wrong" for row in measured.rows) else 0


def _options(parsed: argparse.Namespace) -> Any:
    from cdam_fast.commands import devices
    from cdam_fast.measuring import inputs, scaling_plan

    try:
        values = scaling_plan.parse_axes(parsed.scaling)
    except ValueError as error:
        raise UsageError(f"--scaling: {error}") from None
    classes = one_number("--classes", _CLASSES if parsed.classes is None else parsed.classes, "--scaling")
    batch, runs = value(parsed, "batch"), _RUNS if parsed.runs is None else parsed.runs
    for option, given in (("batch", batch), ("runs", runs)):
        if given < 1:
            raise UsageError(f"--{option}: got {given}, takes a whole number from 1")
    seconds = _SECONDS if parsed.seconds is None else parsed.seconds
    if not 0 < seconds < float("inf"):
        raise UsageError(f"--seconds: got {seconds:g}, takes a positive number")
    grid = inputs.parse_grid(value(parsed, "grid"))
    device = devices.parse_device(value(parsed, "device"))
    tell(devices.describe_device(device, grid[0] * grid[1]))
    base = scaling_plan.Point(grid, classes, batch=batch)
    return scaling_plan.ScalingOptions(device, base, values, runs, seconds, value(parsed, "compile"))


def _environment(options: Any) -> dict[str, Any]:
    """Without what is of a photograph and a model."""
    from cdam_fast.measuring import bench

    environment = bench.describe_environment(bench.BenchOptions(class_lists=[], device=options.device))
    for name in ("model", "prompt_template", "grid", "batch"):
        del environment[name]
    return environment | {"input": "cdam_fast.testing.clip_like", "seconds": options.seconds}
