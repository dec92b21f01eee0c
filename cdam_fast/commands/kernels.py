"""``cdam-fast kernels``: its options, and what it prints."""

from __future__ import annotations

import argparse
import os
from typing import Any

from cdam_fast.commands import explain
from cdam_fast.commands.streams import say, show

_TARGETS = "sm_80,sm_86,sm_90,sm_100,sm_120,gfx942"


_SECONDS_PER_TARGET = 30
"""Of ``kernels`` on one core of 2023; a target's kernels are compiled side by side."""


def add_command(commands: Any) -> None:
    """Add it to argparse's."""
    kernels = commands.add_parser(
        "kernels",
        help="compile the GPU kernels, without a GPU, and print what they cost",
        description="Compile every shipped configuration of the Triton kernels for GPUs that need not be there, and "
        "print registers, spills, shared memory, the loops' instructions, and floors: the least time that each stage "
        "can take on a GPU, computed from those counts. The exit status is 1 where one fails to compile or spills.",
    )
    kernels.add_argument(
        "--target",
        metavar="LIST",
        help=f"what to compile for (default: {_TARGETS})",
    )
    kernels.add_argument("--json", metavar="FILE", help="write everything found as JSON")
    explain.add_options(kernels)
    kernels.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    if parsed.explain:
        return explain.run(parsed)
    explain.refuse_options(parsed)
    from cdam_fast.ahead import compiler, floors, report
    from cdam_fast.commands.progress import estimated
    from cdam_fast.measuring.report import check_writable, write_json

    targets = compiler.parse_targets(_TARGETS if parsed.target is None else parsed.target)
    if parsed.json is not None:
        check_writable("--json", parsed.json)
    with estimated(_SECONDS_PER_TARGET * len(targets) / min(os.cpu_count() or 1, 8)) as on_step:
        results = compiler.compile_shipped(targets, on_step)
        found = floors.all_floors(results)
    show(report.kernel_table(results), width=150)
    if found:
        show(report.floor_table(found), width=150)
    for note in report.notes(results):
        say(note)
    if parsed.json is not None:
        write_json(report.as_json(results, found), parsed.json)
    return 1 if any(map(report.failed, results)) else 0
