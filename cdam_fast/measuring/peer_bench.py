"""The divergence stage alone by every package that computes it: equal to float64 first, then timed in turns."""

from __future__ import annotations

import ctypes
import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdam_fast import testing
from cdam_fast.constants import TEMPERATURE
from cdam_fast.measuring.bench import ROUNDS, SECONDS_PER_BACKEND, describe_machine
from cdam_fast.measuring.measure import (
    COMPILED,
    EAGER,
    LEAST_RUNS,
    SLOW,
    available_memory,
    one_thread,
    peak_memory,
    seconds_of,
)
from cdam_fast.measuring.peers import OURS, PEERS, RTOL, Call, Peer

BUDGETS = {torch.float32: testing.MAP_BUDGET, torch.float64: 1e-9}
"""Largest error as a share of the largest divergence, which then lies in [0, 1] as a map does."""

KINDS = ("CLIP-like", "peaked", "sparse")
SPARSE_CLASSES = 8
"""Of a sparse row that are not 0."""


@dataclass(frozen=True)
class PeerOptions:
    """What the command line asked for, checked."""

    grids: tuple[tuple[int, int], ...]
    classes: tuple[int, ...]
    device: torch.device
    runs: int = 30
    compile: str = "largest"


@dataclass
class PeerRow:
    """One way on one set of distributions. Times are of a call; None is not measured."""

    kind: str
    patches: int
    classes: int
    peer: str
    package: str
    dtype: str
    returns: str
    how: str = ""
    status: str = "not run"
    note: str = ""
    error: float | None = None
    """Largest, as a share of the largest divergence."""
    memory_bytes: int | None = None
    """Peak, the result included: what the process holds more on a CPU, what PyTorch allocates on a GPU."""
    first_call_s: float | None = None
    p20_ms: float | None = None
    p50_ms: float | None = None
    p80_ms: float | None = None
    cpu_ms: float | None = None
    """Of all threads, median: what other programs of the machine lengthen least."""
    runs: int = 0
    over_portable: float | None = None
    """Its median time over that of the portable float32 divergence; of CPU times where one thread computes."""
    seconds: list[float] = field(default_factory=list, repr=False)
    cpu_seconds: list[float] = field(default_factory=list, repr=False)

    def summarise(self) -> None:
        """Turn the seconds of the calls into percentiles."""
        if self.seconds:
            quantiles = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
            times = torch.tensor(self.seconds, dtype=torch.float64) * 1e3
            self.p20_ms, self.p50_ms, self.p80_ms = times.quantile(quantiles).tolist()
            self.cpu_ms = float(torch.tensor(self.cpu_seconds, dtype=torch.float64).quantile(0.5)) * 1e3
            self.runs = len(self.seconds)


@dataclass
class PeerReport:
    """Everything that was measured and on what."""

    environment: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    """Packages that have no row, and why."""
    rows: list[PeerRow] = field(default_factory=list)
    interrupted: bool = False

    def as_json(self) -> dict[str, Any]:
        """Plain values, every single time included."""
        found = {name: getattr(self, name) for name in ("versions", "absent", "interrupted")}
        return {**self.environment, **found, "rows": [asdict(row) for row in self.rows]}


def describe(options: PeerOptions) -> dict[str, Any]:
    """What a reader needs to judge the numbers or repeat them."""
    return {
        **describe_machine(options.device),
        "grids": [list(grid) for grid in options.grids],
        "classes": list(options.classes),
        "compile": options.compile,
        "budgets": {str(dtype).removeprefix("torch."): budget for dtype, budget in BUDGETS.items()},
        "rtol": RTOL,
    }


def distributions(kind: str, classes: int, grid: tuple[int, int]) -> Tensor:
    """``[N, C]`` float64, rows that sum to 1: of CLIP-like cosines, of ones spread ten times as wide, or those thinned.

    Sparse rows keep the `SPARSE_CLASSES` most probable classes.
    """
    spread = 0.03 if kind == "CLIP-like" else 0.3
    similarity = testing.clip_like(classes, *grid, spread=spread).double()
    p = torch.softmax(similarity / TEMPERATURE, 0).flatten(1).mT.contiguous()
    if kind != "sparse":
        return p
    most = p.topk(min(SPARSE_CLASSES, classes), dim=-1)
    p = torch.zeros_like(p).scatter_(1, most.indices, most.values)
    return p / p.sum(-1, keepdim=True)


def chosen_peers(report: PeerReport, device: torch.device, peers: Sequence[Peer] = PEERS) -> list[Peer]:
    """Those that are installed and run on the device; the versions of theirs, and why others are absent, in report."""
    chosen = []
    for peer in peers:
        if device.type not in peer.devices:
            if not peer.own:
                where = "a GPU" if "cuda" in peer.devices else "a CPU"
                report.absent[peer.package] = f"not measured: takes {where}"
        elif not peer.installed():
            report.absent[peer.package] = f"not installed: pip install {peer.install}"
        else:
            if not peer.own and peer.package not in report.versions:
                report.versions[peer.package] = peer.version()
            chosen.append(peer)
    return chosen


def run_peers(options: PeerOptions, report: PeerReport, peers: Sequence[Peer], on_step: Callable[[str], None]) -> None:
    """Measure every size and kind into report, in place, so that an interrupt keeps what is done."""
    largest = options.grids[-1], options.classes[-1]
    for grid in options.grids:
        for classes in options.classes:
            with_compile = options.compile == "all" or (options.compile == "largest" and (grid, classes) == largest)
            taking_part = [peer for peer in peers if peer.name != COMPILED or with_compile]
            for kind in KINDS:
                _measure_kind(options, report, taking_part, kind, distributions(kind, classes, grid), on_step)


def _measure_kind(
    options: PeerOptions,
    report: PeerReport,
    peers: Sequence[Peer],
    kind: str,
    p: Tensor,
    on_step: Callable[[str], None],
) -> None:
    name = f"{kind}, N = {p.shape[0]}, C = {p.shape[1]}"
    on_step(f"{name}: float64 oracle")
    exact = testing.exact_divergence(p)
    inputs = {dtype: p.to(options.device, dtype) for dtype in BUDGETS}
    ready: list[tuple[PeerRow, Callable[[], Any]]] = []
    rows = []
    for peer in peers:
        dtype = str(peer.dtype).removeprefix("torch.")
        row = PeerRow(kind, p.shape[0], p.shape[1], peer.name, peer.package, dtype, peer.returns)
        report.rows.append(row)
        rows.append(row)
        on_step(f"{name}: {peer.name}, {dtype}" + (" (compiling)" if peer.compiles else ""))
        call = check_peer(row, peer, inputs[peer.dtype], exact, options.device)
        if call is not None:
            ready.append((row, call))
    try:
        # they take turns, so that a slower minute of the machine falls on all of them
        for turn in range(ROUNDS):
            on_step(f"{name}: round {turn + 1} of {ROUNDS}")
            for row, call in ready:
                _time_round(row, call, turn, options)
    finally:  # an interrupt keeps the rounds that are done
        for row in rows:
            row.summarise()
        _fill_ratios(rows, "cpu_ms" if one_thread(options.device) else "p50_ms")


def check_peer(row: PeerRow, peer: Peer, p: Tensor, exact: Tensor, device: torch.device) -> Callable[[], Any] | None:
    """Call it for error and memory; what may be timed, None where the result is wrong or there is none."""
    needed = 3 * p.shape[0] ** 2 * p.shape[1] * p.element_size() if peer.name == EAGER else 0  # live at once
    if needed > available_memory(device) / 2:  # other packages keep what they have built
        row.status, row.note = "does not fit", f"needs about {needed / 1e9:.0f} GB"
        return None
    try:
        prepared: Call = peer.prepare(p)
        call = partial(_without_gradient, prepared.run)
        row.how = prepared.how
        row.memory_bytes, row.first_call_s, cpu, result = _measured(call, device)
        row.error = testing.largest_error(peer.convert(result), exact) / float(exact.max())
    except Exception as error:  # of whatever kind a package has
        message = str(error).strip().splitlines()
        row.status, row.note = "failed", f"{type(error).__name__}: {message[0][:120] if message else ''}"
        return None
    budget = testing.EAGER_BUDGET if peer.name in (EAGER, COMPILED) else BUDGETS[peer.dtype]
    if not row.error <= budget:
        row.status, row.note = "wrong", f"error over the budget of {budget:.0e}: not timed"
        if not math.isfinite(row.error):
            row.error, row.note = None, "NaN, infinite or of another shape: not timed"
        return None
    row.status = "ok"
    if row.first_call_s > SLOW and not peer.compiles and device.type == "cpu":
        row.seconds.append(row.first_call_s)
        row.cpu_seconds.append(cpu)
    else:
        row.memory_bytes = _measured(call, device)[0]  # without what a first call loads or builds
    return call


def _time_round(row: PeerRow, call: Callable[[], Any], turn: int, options: PeerOptions) -> None:
    if not row.seconds:
        seconds_of(call, options.device)  # warm-up
    target = -(-options.runs * (turn + 1) // ROUNDS)
    while len(row.seconds) < target:
        over = sum(row.seconds) + max(row.seconds, default=0.0) > SECONDS_PER_BACKEND * (turn + 1) / ROUNDS
        if over and len(row.seconds) >= min(LEAST_RUNS, turn + 1):
            break
        begin = time.process_time()
        row.seconds.append(seconds_of(call, options.device)[0])
        row.cpu_seconds.append(time.process_time() - begin)


def _fill_ratios(rows: list[PeerRow], name: str) -> None:
    own = next((getattr(row, name) for row in rows if row.package == OURS and row.dtype == "float32"), None)
    for row in rows:
        value = getattr(row, name)
        row.over_portable = value / own if value and own else None


def _without_gradient(function: Callable[[], Any]) -> Any:
    with torch.no_grad():
        return function()


def _measured(call: Callable[[], Any], device: torch.device) -> tuple[int | None, float, float, Any]:
    """Peak bytes, wall and CPU seconds and result of one call; None where the peak cannot be told."""
    begin = time.process_time()
    if device.type == "cuda":
        memory, seconds, result = peak_memory(call, device)
        return memory, seconds, time.process_time() - begin, result
    before = _reset_peak()
    begin = time.process_time()
    seconds, result = seconds_of(call, device)
    cpu = time.process_time() - begin
    return None if before is None else max(0, _resident("VmHWM:") - before), seconds, cpu, result


def _reset_peak() -> int | None:
    """Bytes that the process holds, once what it holds unused is given back and its peak forgotten; Linux's alone."""
    try:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
        if trim is None:
            return None
        gc.collect()
        trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return _resident("VmRSS:")
    except (OSError, TypeError):  # no such file, or none to load by None
        return None


def _resident(field_name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field_name):
            return int(line.split()[1]) * 1024
    return 0
