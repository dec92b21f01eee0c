"""About how long the bench takes, from one short measurement and what was measured elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence

from cdam_fast import reference, testing
from cdam_fast.measuring.bench import SECONDS_PER_BACKEND, BenchOptions
from cdam_fast.measuring.measure import COMPILED, LEAST_RUNS
from cdam_fast.measuring.peer_bench import KINDS, PeerOptions
from cdam_fast.measuring.peers import Peer

_CLASSES, _SIDE = 64, 12  # of the short measurement

ORACLE = 3.0
"""Times of the eager code's that the float64 oracle takes."""

COMPILING = 60.0
"""Seconds of torch.compile."""

_LOADING, _PER_WORD, _TOWER = 10.0, 0.06, 0.3
"""Seconds: of the model, of one prompt, of an image through the tower."""

_STAGE = 0.4
"""Share of the eager map's time that is the divergence at its largest scale."""

_BUILDING = 6.0
"""Seconds that another package takes to build what it calls."""


def of_bench(options: BenchOptions, *, end_to_end: bool) -> float:
    """Seconds, within a factor of two."""
    unit = eager_unit()
    total = _LOADING + _PER_WORD * len({word for entry in options.class_lists for word in entry.words})
    patches = options.grid[0] * options.grid[1]
    for entry in options.class_lists:
        compiled = options.compile == "all" or (options.compile == "largest" and entry is options.class_lists[-1])
        eager = unit * options.batch * patches**2 * len(entry.words)
        tower = _TOWER * options.batch * patches / 784 if end_to_end else 0.0
        if options.device.type != "cpu":
            eager, tower = eager / 50, tower / 50
        rows = (4 if end_to_end else 1) * [eager] + (11 if end_to_end else 1) * [eager / 50]
        rows += [eager / 4] if compiled else []
        checks = ORACLE * unit * options.batch * patches**2 * len(entry.words) * (len(rows) if end_to_end else 1)
        rows = [row + tower for row in rows]
        timed = [row + min(options.runs * row, max(SECONDS_PER_BACKEND, LEAST_RUNS * row)) for row in rows]
        total += checks + sum(timed) + (COMPILING if compiled else 0)
    return total


def of_peers(options: PeerOptions, peers: Sequence[Peer]) -> float:
    """Seconds, within a factor of two."""
    unit = eager_unit() * _STAGE
    if options.device.type != "cpu":
        unit /= 50
    total = sum(_BUILDING for peer in peers if peer.compiles)
    for grid in options.grids:
        for classes in options.classes:
            eager = unit * (grid[0] * grid[1]) ** 2 * classes
            total += ORACLE * eager * len(KINDS)
            compiled = options.compile == "all" or (grid, classes) == (options.grids[-1], options.classes[-1])
            total += COMPILING if compiled and options.compile != "none" else 0
            for peer in peers:
                if peer.name != COMPILED or (compiled and options.compile != "none"):
                    one = peer.cost * eager
                    timed = min(options.runs * one, max(SECONDS_PER_BACKEND, LEAST_RUNS * one))
                    total += len(KINDS) * (2 * one + timed)
    return total


def eager_unit() -> float:
    """Seconds of the eager code for one pair of patches and one class, on the CPU."""
    similarity = testing.clip_like(_CLASSES, _SIDE, _SIDE)
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        reference.cdam_attention(similarity)
        seconds.append(time.perf_counter() - begin)
    return min(seconds) / (_SIDE**4 * _CLASSES)
