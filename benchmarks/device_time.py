"""Seconds of work on a GPU, by its own events, while it never waits for the host."""

import statistics
import time

import torch

SECONDS_PER_ROUND = 0.02
MOST_CALLS = 100  # a GPU queues about a thousand launches; three are a call's
FLUSHED = 1 << 28  # bytes that push out any last-level cache
CYCLES_PER_SECOND = 2e9


def enqueued(call, calls, cycles):
    """Seconds of each of so many calls in a row, and whether all were queued before the first of them began."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(cycles)
    start.record()
    for _ in range(calls):
        call()
    stop.record()
    filled = not start.query()
    torch.cuda.synchronize()
    return start.elapsed_time(stop) / 1e3 / calls, filled


class Timed:
    """One backend: what a round of its calls took, on the device and as the host sees it."""

    def __init__(self, call):
        self.call = call
        self.seconds, self.flushed, self.waited, self.clocks = [], [], [], []
        self.calls, self.cycles, self.filled = 1, 0, False
        self.spent = 0.0  # seconds of the host in rounds
        for _ in range(2):
            call()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        call()
        host = time.perf_counter() - begin
        torch.cuda.synchronize()
        self.estimate = time.perf_counter() - begin
        self.calls = max(1, min(MOST_CALLS, int(SECONDS_PER_ROUND / self.estimate)))
        self.cycles = int(CYCLES_PER_SECOND * (1e-4 + 1.5 * host * self.calls))
        for _ in range(4):
            _, self.filled = enqueued(call, self.calls, self.cycles)
            if self.filled:
                break
            self.cycles *= 2

    def round(self, flush=None):
        """Another sample of each kind."""
        started = time.perf_counter()
        seconds, filled = enqueued(self.call, self.calls, self.cycles)
        self.seconds.append(seconds)
        self.filled &= filled
        self.clocks.append(clock())
        if flush is not None:
            self.flushed += after_flushes(self.call, min(self.calls, 20), self.cycles, flush)
        for _ in range(min(self.calls, 10)):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            self.call()
            torch.cuda.synchronize()
            self.waited.append(time.perf_counter() - begin)
        self.spent += time.perf_counter() - started

    def summary(self):
        """Microseconds of a call."""
        return {
            "device_us": spread(self.seconds),
            "device_us_cache_flushed": spread(self.flushed),
            "call_and_wait_us": spread(self.waited),
            "calls_in_a_row": self.calls,
            "queued_before_the_first": self.filled,
            "clocks_mhz": [min(self.clocks, default=0), max(self.clocks, default=0)],
        }


def after_flushes(call, calls, cycles, flush):
    """Seconds of single calls, each after the cache was overwritten."""
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(calls)]
    torch.cuda.synchronize()
    torch.cuda._sleep(cycles)
    for start, stop in events:
        flush.zero_()
        start.record()
        call()
        stop.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(stop) / 1e3 for start, stop in events]


def spread(seconds):
    """Median, 20th and 80th percentile in microseconds, and of how many."""
    if not seconds:
        return None
    ordered = sorted(1e6 * one for one in seconds)
    last = len(ordered) - 1
    return {
        "median": statistics.median(ordered),
        "p20": ordered[round(0.2 * last)],
        "p80": ordered[round(0.8 * last)],
        "samples": len(ordered),
    }


def clock():
    """MHz of the multiprocessors now; 0 where nobody can tell."""
    try:
        return int(torch.cuda.clock_rate())
    except Exception:  # it needs a package of NVIDIA's
        return 0
