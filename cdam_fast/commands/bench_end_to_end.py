"""``cdam-fast bench --end-to-end``: from pixels to labels by every base method."""

from __future__ import annotations

import argparse

from cdam_fast.commands.bench_options import parse_options
from cdam_fast.commands.streams import say, show

TAKES = ("image", "pretrained", "classes", "grid", "batch", "device", "runs", "compile", "json")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses it."""
    parser.add_argument(
        "--end-to-end",
        action="store_true",
        help="time the whole way from pixels to labels: every base method, and what each part of CDAM adds",
    )


def run(parsed: argparse.Namespace) -> int:
    """Measure, print the table, write what is asked for; 1 where a map was wrong."""
    from cdam_fast.commands.progress import estimated
    from cdam_fast.measuring import bench, durations, end_to_end, report

    options = parse_options(parsed)
    measured = end_to_end.EndToEndReport(bench.describe_environment(options))
    try:
        with estimated(durations.of_bench(options, end_to_end=True)) as on_step:
            end_to_end.run_end_to_end(options, measured, on_step)
    except KeyboardInterrupt:
        measured.interrupted = True
    show(report.end_to_end_table(measured))
    for note in report.notes(measured):
        say(note)
    if parsed.json is not None:
        report.write_json(measured.as_json(), parsed.json)
    if measured.interrupted:
        return 130
    return 1 if any(row.status == "wrong" for row in measured.rows) else 0
