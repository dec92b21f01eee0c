"""``cdam-fast bench --from``: the tables of result files."""

from __future__ import annotations

import argparse

from cdam_fast.commands.streams import say

TAKES = ()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses it."""
    parser.add_argument(
        "--from",
        nargs="+",
        metavar="JSON",
        help="measure nothing: print the tables of such files, and of those of benchmarks/gpu.py, as Markdown",
    )


def run(parsed: argparse.Namespace) -> int:
    """Print them."""
    from cdam_fast.measuring import markdown

    for line in markdown.tables(getattr(parsed, "from")):
        say(line)
    return 0
