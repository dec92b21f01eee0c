"""``cdam-fast tune``: its options, and what it prints."""

from __future__ import annotations

import argparse
from typing import Any

from cdam_fast.commands.devices import add_device
from cdam_fast.commands.streams import show, tell
from cdam_fast.errors import UsageError


def add_command(commands: Any) -> None:
    """Add it to argparse's."""
    tune = commands.add_parser(
        "tune",
        help="check and time other configurations of the kernels on this machine's GPU",
        description="Check, then time other configurations of the kernels than the shipped ones. Nothing is kept, and "
        "nothing is ever tuned without this command.",
    )
    add_device(tune)
    tune.add_argument("--grid", default="28", metavar="N|HxW", help="patch grid (default: %(default)s)")
    tune.add_argument("--classes", type=int, default=161, metavar="C", help="prompts in all (default: %(default)s)")
    tune.add_argument("--batch", type=int, default=1, metavar="B", help="images in one call (default: %(default)s)")
    tune.add_argument("--json", metavar="FILE", help="write every trial as JSON")
    tune.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    from cdam_fast.commands import devices
    from cdam_fast.commands.progress import counted
    from cdam_fast.measuring import bench, inputs, report, tune
    from cdam_fast.testing import clip_like

    for option in ("batch", "classes"):
        if getattr(parsed, option) < 1:
            raise UsageError(f"--{option}: got {getattr(parsed, option)}, takes a whole number from 1")
    if parsed.json is not None:
        report.check_writable("--json", parsed.json)
    device, grid = devices.parse_device(parsed.device), inputs.parse_grid(parsed.grid)
    if device.type != "cuda":
        raise UsageError(f"--device: got {parsed.device!r}, takes a GPU: there is nothing to time elsewhere")
    tell(devices.describe_device(device, grid[0] * grid[1]))
    options = bench.BenchOptions(class_lists=[], device=device, grid=grid, batch=parsed.batch)
    measured = tune.TuneReport(bench.describe_environment(options) | {"classes": parsed.classes})
    similarity = clip_like(parsed.classes, *grid, batch=(parsed.batch,)).to(device)
    tell(f"{tune.count()} trials, a few seconds each: every one is compiled, checked and timed")
    try:
        with counted(tune.count(), "trying") as on_step:
            tune.run_tune(similarity, measured, on_step)
    finally:  # an interrupt keeps the trials that are done
        show(tune.table(measured))
        if parsed.json is not None:
            report.write_json(measured.as_json(), parsed.json)
    return 0
