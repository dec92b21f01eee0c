"""``cdam-fast bench --peers``: the divergence of all pairs by every package that computes it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cdam_fast.commands.bench_options import check_outputs, value
from cdam_fast.commands.streams import say, show, tell
from cdam_fast.errors import UsageError

if TYPE_CHECKING:
    from cdam_fast.measuring.peer_bench import PeerOptions

TAKES = ("classes", "grid", "device", "runs", "compile", "json")

_GRIDS, _CLASSES = "14,28", "161"
"""What ``--grid`` and ``--classes`` are where neither is given."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses it."""
    parser.add_argument(
        "--peers",
        action="store_true",
        help="check and time the Jensen-Shannon divergence alone, of all pairs of N distributions, beside other "
        "packages that compute it, those that are installed; "
        f"--grid takes several, N patches each (default: {_GRIDS}), as --classes (default: {_CLASSES})",
    )


def run(parsed: argparse.Namespace) -> int:
    """Measure, print the table, write the JSON; 1 where this package's own divergence was wrong."""
    from cdam_fast.commands.progress import estimated
    from cdam_fast.measuring import durations, peer_bench, peer_table, peers, report

    check_outputs(parsed)
    options = parse_peers(parsed)
    measured = peer_bench.PeerReport(peer_bench.describe(options))
    chosen = peer_bench.chosen_peers(measured, options.device)
    for package, reason in measured.absent.items():
        tell(f"{package}: {reason}")
    try:
        with estimated(durations.of_peers(options, chosen)) as on_step:
            peer_bench.run_peers(options, measured, chosen, on_step)
    except KeyboardInterrupt:
        measured.interrupted = True
    show(peer_table.table(measured), width=180)
    for note in peer_table.notes(measured):
        say(note)
    if parsed.json is not None:
        report.write_json(measured.as_json(), parsed.json)
    if measured.interrupted:
        return 130
    return 1 if any(row.package == peers.OURS and row.status == "wrong" for row in measured.rows) else 0


def parse_peers(parsed: argparse.Namespace) -> PeerOptions:
    """The options of this mode, checked."""
    from cdam_fast.commands import devices
    from cdam_fast.measuring import inputs
    from cdam_fast.measuring.peer_bench import PeerOptions

    runs = value(parsed, "runs")
    if runs < 1:
        raise UsageError(f"--runs: got {runs}, takes a whole number from 1")
    lists = inputs.parse_class_lists(_CLASSES if parsed.classes is None else parsed.classes)
    if any(len(entry.words) < 2 for entry in lists):
        raise UsageError("--classes: got 1, takes 2 or more with --peers: over one class there is one distribution")
    grids = {inputs.parse_grid(grid) for grid in (_GRIDS if parsed.grid is None else parsed.grid).split(",")}
    device = devices.parse_device(value(parsed, "device"))
    if device.type not in ("cpu", "cuda"):
        if parsed.device not in (None, "auto"):
            raise UsageError(f"--device: got {device}, takes cpu or cuda with --peers")
        device = devices.parse_device("cpu")
    return PeerOptions(
        grids=tuple(sorted(grids, key=lambda grid: (grid[0] * grid[1], grid))),
        classes=tuple(sorted({len(entry.words) for entry in lists})),
        device=device,
        runs=runs,
        compile=value(parsed, "compile"),
    )
