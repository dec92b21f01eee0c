"""The table of ``cdam-fast bench --peers``."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table

from cdam_fast.measuring.peer_bench import PeerReport
from cdam_fast.measuring.report import milliseconds, ratio


def table(report: PeerReport) -> Table:
    """Error, milliseconds, memory and ratio to the portable float32 divergence of every row."""
    environment = report.environment
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    result = Table(
        title="Jensen-Shannon divergence of all pairs of N distributions over C classes, "
        f"{environment['device_name']}, {environment['threads']} threads",
        caption=f"{versions or 'no other package'}.\nerror: largest against float64, as a share of the largest "
        "divergence, each in its own definition; milliseconds of a call, median; CPU: of all threads",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in ("distributions", "by", "dtype", "returns"):
        result.add_column(heading, no_wrap=True)
    for heading in ("error", "ms", "p20-p80", "CPU ms", "/ portable", "MB"):
        result.add_column(heading, justify="right", no_wrap=True)
    previous = None
    for row in report.rows:
        group = f"{row.kind} N={row.patches} C={row.classes}"
        if previous not in (None, group):
            result.add_section()
        timed = row.status == "ok" and row.p50_ms is not None
        result.add_row(
            group if group != previous else "",
            row.peer + (f" ({row.how})" if row.how else ""),
            row.dtype,
            row.returns,
            "" if row.error is None else f"{row.error:.1e}",
            milliseconds(row.p50_ms) if timed else row.status.upper(),
            f"{milliseconds(row.p20_ms)}-{milliseconds(row.p80_ms)}" if timed else "",
            milliseconds(row.cpu_ms) if timed else "",
            ratio(row.over_portable) if timed else "",
            "" if row.memory_bytes is None else f"{row.memory_bytes / 1e6:.1f}",
        )
        previous = group
    return result


def notes(report: PeerReport) -> Iterator[str]:
    """A line for each package without a row, and for each row that has something to say."""
    for package, reason in report.absent.items():
        yield f"{package}: {reason}"
    for row in report.rows:
        if row.note:
            where = f"{row.kind}, N = {row.patches}, C = {row.classes}"
            yield f"{where}, {row.peer}, {row.dtype}: {row.status}; {row.note}"
