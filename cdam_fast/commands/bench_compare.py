"""``cdam-fast bench --compare``: two result files."""

from __future__ import annotations

import argparse

from cdam_fast.commands.streams import say, show

TAKES = ()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses it."""
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A.json", "B.json"),
        help="measure nothing: what got slower or faster from A to B beyond the noise within the runs; files of "
        "--json, with --end-to-end or --scaling too; the exit status is 1 where something got slower",
    )


def run(parsed: argparse.Namespace) -> int:
    """Print the table and the notes."""
    from cdam_fast.measuring import compare

    found = compare.compare(*parsed.compare)
    show(compare.table(found), width=140)
    for note in compare.notes(found):
        say(note)
    return 1 if any(change.worse for change in found.changes) else 0
