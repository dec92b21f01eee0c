"""``cdam-fast bench --host``: what a call of the Triton backend does on the host."""

from __future__ import annotations

import argparse

from cdam_fast.commands.bench_options import parse_options
from cdam_fast.commands.streams import say, show

TAKES = ("grid", "device", "json")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses it."""
    parser.add_argument(
        "--host",
        action="store_true",
        help="time what a call of the Triton backend does on the host, with nothing launched; needs no GPU",
    )


def run(parsed: argparse.Namespace) -> int:
    """Measure, print the table, write the JSON."""
    from cdam_fast.commands.progress import counted
    from cdam_fast.measuring import bench, host, report

    options = parse_options(parsed)
    measured = host.HostReport(bench.describe_environment(options))
    with counted(host.STEPS, "timing") as on_step:
        host.run_host(measured, options.device, options.grid, on_step)
    show(host.table(measured))
    if measured.note:
        say(measured.note)
    if parsed.json is not None:
        report.write_json(measured.as_json(), parsed.json)
    return 0
