"""``cdam-fast bench``: the options that its modes share, and which mode runs.

A mode is a module ``bench_*`` with ``add_options(parser)`` for the option that chooses it and those that only it takes,
``TAKES``, the names of all others that go with it, and ``run(parsed)``, which returns the exit status. Whatever else is
given beside a mode is refused, so every option's default is None or False here and filled in by the mode.
"""

from __future__ import annotations

import argparse
from types import ModuleType
from typing import Any

from cdam_fast.commands import (
    bench_compare,
    bench_end_to_end,
    bench_host,
    bench_map,
    bench_peers,
    bench_roofline,
    bench_scaling,
    bench_tables,
)
from cdam_fast.commands.bench_options import DEFAULTS
from cdam_fast.commands.devices import add_device
from cdam_fast.errors import UsageError

_MODES: dict[str, ModuleType] = {
    "from": bench_tables,
    "compare": bench_compare,
    "scaling": bench_scaling,
    "roofline": bench_roofline,
    "host": bench_host,
    "end_to_end": bench_end_to_end,
    "peers": bench_peers,
}
"""By the name of the option that chooses it; where none does, it is the map alone."""


def add_command(commands: Any) -> None:
    """Add it to argparse's."""
    bench = commands.add_parser(
        "bench",
        help="compute the map of a photograph with every backend, check it against float64 and time it",
        description="Compute the attention map of a photograph with every backend that runs here, check each "
        "against float64, and print milliseconds per image, ratios, memory and error.",
    )
    bench.add_argument("--image", metavar="PATH", help="photograph (default: an astronaut, from the package)")
    bench.add_argument(
        "--pretrained", metavar="NAME|PATH", help="weights of ViT-B-16 (default: random ones of a fixed seed)"
    )
    bench.add_argument(
        "--classes",
        metavar="LIST",
        help="class lists, each plus the 80 augmented prompts, or numbers of prompts in all "
        f"(default: {DEFAULTS['classes']})",
    )
    bench.add_argument("--grid", metavar="N|HxW", help=f"patch grid (default: {DEFAULTS['grid']}, 448x448)")
    bench.add_argument("--batch", type=int, metavar="B", help=f"images in one call (default: {DEFAULTS['batch']})")
    add_device(bench, default=None)
    bench.add_argument(
        "--runs", type=int, metavar="R", help=f"timed calls of a backend, at most (default: {DEFAULTS['runs']})"
    )
    bench.add_argument(
        "--compile",
        choices=("largest", "all", "none"),
        help="class lists for which torch.compile of the eager code is measured too, with --scaling the points: there "
        f"largest is three patch grids (default: {DEFAULTS['compile']})",
    )
    bench.add_argument("--json", metavar="FILE", help="write everything measured as JSON")
    bench.add_argument("--plot", metavar="FILE.png", help="draw a chart; needs matplotlib")
    for mode in _MODES.values():
        mode.add_options(bench)
    bench.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    given = [
        name
        for name, value in vars(parsed).items()
        if name not in ("command", "run") and value is not None and value is not False
    ]
    chosen = next((name for name in _MODES if name in given), None)
    mode = bench_map if chosen is None else _MODES[chosen]
    for name in given:
        if name != chosen and name not in mode.TAKES:
            if chosen is not None:
                raise UsageError(f"{_option(name)}: takes no {_option(chosen)} as well")
            takers = [_option(taker) for taker, other in _MODES.items() if name in other.TAKES]
            raise UsageError(f"{_option(name)}: goes with {' or '.join(takers)} only")
    status: int = mode.run(parsed)
    return status


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
