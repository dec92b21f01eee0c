"""``cdam-fast bench``: the attention map by every backend."""

from __future__ import annotations

import argparse

from cdam_fast.commands.bench_options import parse_options
from cdam_fast.commands.streams import say, show

TAKES = ("image", "pretrained", "classes", "grid", "batch", "device", "runs", "compile", "json", "plot")


def run(parsed: argparse.Namespace) -> int:
    """Measure, print the table, write what is asked for; 1 where a backend was wrong."""
    from cdam_fast.commands.progress import estimated
    from cdam_fast.measuring import bench, durations, report

    options = parse_options(parsed)
    measured = bench.Report(bench.describe_environment(options))
    try:
        with estimated(durations.of_bench(options, end_to_end=False)) as on_step:
            bench.run_bench(options, measured, on_step)
    except KeyboardInterrupt:
        measured.interrupted = True
    show(report.table(measured))
    for note in report.notes(measured):
        say(note)
    if parsed.json is not None:
        report.write_json(measured.as_json(), parsed.json)
    if parsed.plot is not None:
        report.write_plot(measured, parsed.plot)
    if measured.interrupted:
        return 130
    return 1 if any(row.status == "wrong" for row in measured.rows) else 0
