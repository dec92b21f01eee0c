"""Time, memory and error of one backend on one input."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from cdam_fast import testing
from cdam_fast.processes import cores as cores

SLOW = 1.0
"""Seconds from which a first call counts as a measurement: warm-up is lost in it."""


@dataclass
class Row:
    """One backend on one class list. Times are milliseconds per image; None is not measured."""

    class_list: str
    classes: int
    backend: str
    status: str = "not run"
    note: str = ""
    error: float | None = None
    memory_bytes: int | None = None
    first_call_s: float | None = None
    p20_ms: float | None = None
    p50_ms: float | None = None
    p80_ms: float | None = None
    runs: int = 0
    over_eager: float | None = None
    over_compile: float | None = None
    over_autotune: float | None = None
    seconds: list[float] = field(default_factory=list, repr=False)

    def summarise(self, batch: int) -> None:
        """Turn the seconds of the calls into percentiles per image."""
        if self.seconds:
            quantiles = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
            per_image = torch.tensor(self.seconds, dtype=torch.float64) * 1e3 / batch
            self.p20_ms, self.p50_ms, self.p80_ms = per_image.quantile(quantiles).tolist()
            self.runs = len(self.seconds)


def seconds_of(call: Callable[[], Tensor], device: torch.device, repeats: int = 1) -> tuple[float, Tensor]:
    """Seconds of one call, the device idle before and after; the mean of ``repeats`` calls in a row.

    By the wall clock on a CPU, by the device's events on a GPU.
    """
    if device.type == "cuda":
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(device)
        with torch.cuda.device(device):
            start.record()
            for _ in range(repeats):
                result = call()
            stop.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(stop) / 1e3 / repeats, result
    begin = time.perf_counter()
    for _ in range(repeats):
        result = call()
    return (time.perf_counter() - begin) / repeats, result


def peak_memory(call: Callable[[], Tensor], device: torch.device) -> tuple[int, float, Tensor]:
    """Peak bytes that PyTorch allocates during one call, its result included; its seconds; the result."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        seconds, result = seconds_of(call, device)
        return torch.cuda.max_memory_allocated(device) - before, seconds, result
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its profiler complains of a missing GPU on stderr
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        seconds, result = seconds_of(call, device)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    total = peak = 0
    for _, change in changes:
        total += change
        peak = max(peak, total)
    return peak, seconds, result


def available_memory(device: torch.device) -> float:
    """Bytes that may still be allocated; infinite where nobody can tell."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
        return float("inf")
    except OSError:
        return float("inf")


EAGER, COMPILED, AUTOTUNED = "eager", "torch.compile", "torch.compile max-autotune"
"""The reference in float32, and PyTorch's compiler on it, which the last lets try its kernels out."""


def check(row: Row, call: Callable[[], Tensor], exact: Tensor, device: torch.device) -> bool:
    """Run once for memory and error; whether the result is within the budget and may be timed."""
    try:
        row.memory_bytes, row.first_call_s, result = peak_memory(call, device)
    except (RuntimeError, MemoryError, OSError, ImportError) as error:
        message = str(error).strip().splitlines()
        row.status, row.note = "failed", f"{type(error).__name__}: {message[0][:120] if message else ''}"
        return False
    row.error = testing.largest_error(result, exact)
    budget = testing.map_budget(result.dtype, eager=row.backend in (EAGER, COMPILED, AUTOTUNED))
    if not row.error <= budget:
        row.status, row.note = "wrong", f"error over the budget of {budget:.0e}: not timed"
        return False
    row.status = "ok"
    if row.first_call_s > SLOW and row.backend not in (COMPILED, AUTOTUNED) and device.type == "cpu":
        row.seconds.append(row.first_call_s)
    return True
