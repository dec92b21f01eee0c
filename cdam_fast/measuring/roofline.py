"""What the stages of the map reach of what this machine can do: ``cdam-fast bench --roofline``.

On a CPU, of the portable path: a stage that is a matrix product is held against `torch.mm` of the same shape, of which
symmetry needs half; one that moves data against a copy of as many bytes as it has to read and write at least. Both are
measured in the rounds of the stage itself. On a GPU, of the kernels: against their floors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from cdam_fast import cdam_attention, portable, testing
from cdam_fast.arguments import MapOptions
from cdam_fast.constants import scaled_grid
from cdam_fast.jensen_shannon import Decision
from cdam_fast.measuring.devices import thread_count
from cdam_fast.measuring.measure import one_thread
from cdam_fast.measuring.report import milliseconds

ROUNDS = 20
STAGES = ("distributions", "divergence", "resize", "attention")
KERNEL_STAGES = ("distributions", "divergence", "attention")

COPY, PRODUCT, FLOOR = "copy", "product", "floor"
"""What a least time is of."""

_LARGE = 1 << 26  # bytes: more than a last-level cache


@dataclass
class StageRow:
    """One stage over all scales of one image; seconds are least times. None is not measured."""

    stage: str
    seconds: float | None = None
    least: float | None = None
    limit: str = ""
    work: float = 0.0
    """Bytes of a copy, operations of a product."""
    note: str = ""

    @property
    def share(self) -> float | None:
        """Of what the machine can do."""
        return self.least / self.seconds if self.seconds and self.least else None


@dataclass
class RooflineReport:
    """Every stage, and what it ran on."""

    environment: dict[str, Any]
    rows: list[StageRow] = field(default_factory=list)
    whole: float | None = None
    """Seconds of a call of the whole map."""
    product_rate: float | None = None
    """Operations a second of a product of two 1024 x 1024 matrices."""
    copy_rate: float | None = None
    """Bytes a second, read and written, of a copy that is in no cache."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        ceilings = {"product_flop_per_s": self.product_rate, "copy_bytes_per_s": self.copy_rate}
        rows = [asdict(row) | {"share": row.share} for row in self.rows]
        return {**self.environment, **ceilings, "whole_s": self.whole, "stages": rows}


@dataclass
class _Part:
    """One stage at one scale: its call, and the call that is its least."""

    stage: str
    call: Callable[[], Any]
    least: Callable[[], Any] | None
    limit: str
    work: float
    share_of_least: float = 1.0
    """What the stage needs of that call."""
    seconds: float = float("inf")
    least_seconds: float = float("inf")


def run_cpu(report: RooflineReport, classes: int, grid: tuple[int, int], on_step: Callable[[str], None]) -> None:
    """Measure the portable path's stages on `cdam_fast.testing.clip_like` into report."""
    similarity = testing.clip_like(classes, *grid, batch=(1,))
    on_step("a check against float64")
    error = testing.largest_error(cdam_attention(similarity, backend="portable"), testing.oracle(similarity))
    if not error <= testing.MAP_BUDGET:
        raise RuntimeError(f"the portable map is off by {error:.1e}: nothing is timed")
    parts, notes = _parts(similarity)
    whole = partial(cdam_attention, similarity, backend="portable")
    square = torch.ones(1024, 1024)
    large, target = torch.ones(_LARGE // 4), torch.ones(_LARGE // 4)
    others: dict[str, Callable[[], Any]] = {
        "whole": whole,
        PRODUCT: lambda: square @ square,
        COPY: lambda: target.copy_(large),
    }
    least = dict.fromkeys(others, float("inf"))
    for turn in range(ROUNDS):
        on_step(f"round {turn + 1} of {ROUNDS}")
        for part in parts:
            part.seconds = min(part.seconds, _seconds(part.call))
            if part.least is not None:
                part.least_seconds = min(part.least_seconds, _seconds(part.least))
        least = {name: min(least[name], _seconds(call)) for name, call in others.items()}
    report.whole = least["whole"]
    report.product_rate, report.copy_rate = 2 * 1024**3 / least[PRODUCT], 2 * _LARGE / least[COPY]
    for stage in STAGES:
        own = [part for part in parts if part.stage == stage]
        row = StageRow(stage, sum(part.seconds for part in own), limit=own[0].limit, note=notes.get(stage, ""))
        row.work = sum(part.work for part in own)
        if all(part.least is not None for part in own):
            row.least = sum(part.least_seconds * part.share_of_least for part in own)
        report.rows.append(row)


def _seconds(call: Callable[[], Any]) -> float:
    clock = time.process_time if one_thread(torch.device("cpu")) else time.perf_counter
    with torch.no_grad():
        call()  # into the caches
        begin = clock()
        call()
        return clock() - begin


def _parts(similarity: Tensor) -> tuple[list[_Part], dict[str, str]]:
    options, (height, width) = MapOptions(), similarity.shape[-2:]
    patches = height * width
    logits = portable.map_logits(similarity, options, traced=False)
    total = similarity.new_zeros(1, patches, patches)
    parts, paths = [], []
    for scale in options.scales:
        grid = scaled_grid(height, width, scale)
        count = grid[0] * grid[1]
        p = portable.distributions(logits, scale, options.order).float()
        decisions: list[Decision] = []
        pairs = portable.pairwise_divergence(p, decisions=decisions)
        rows, _ = portable.rows_at(logits, scale, options, portable.pairwise_divergence, torch.float32)
        paths.append(f"rank {decisions[0].rank}" if decisions[0].path == "features" else "definition")

        call = partial(portable.distributions, logits, scale, options.order)
        parts.append(_moving("distributions", call, logits.numel() + p.numel()))
        parts.append(_divergence(p, decisions[0]))
        if scale != 1:
            resized = partial(portable.resize, pairs, grid, height, width, symmetric=True)
            parts.append(_moving("resize", resized, count**2 + patches**2))
        attention = partial(_attention, total, rows, options)
        parts.append(_moving("attention", attention, 3 * patches**2))
    return parts, {"divergence": ", ".join(paths)}


def _attention(total: Tensor, rows: Any, options: MapOptions) -> None:
    extremes = rows.pairs.amin(-1, keepdim=True), rows.pairs.amax(-1, keepdim=True)
    portable.add_attention(total, rows._replace(low=extremes[0], high=extremes[1]), options)


def _moving(stage: str, call: Callable[[], Any], elements: int) -> _Part:
    """A stage that reads and writes so many float32 at least."""
    source, target = torch.ones(elements // 2), torch.ones(elements // 2)
    return _Part(stage, call, lambda: target.copy_(source), COPY, 4.0 * elements)


def _divergence(p: Tensor, decision: Decision) -> _Part:
    """Its features are not counted; by the definition there is no product to hold it against."""
    call = partial(portable.pairwise_divergence, p)
    if decision.path != "features":
        return _Part("divergence", call, None, PRODUCT, 0.0)
    count, inner = p.shape[-2], decision.rank * p.shape[-1]
    features = torch.ones(inner, count)
    work = float(count * (count + 1) * inner)
    return _Part("divergence", call, lambda: features.mT @ features, PRODUCT, work, (count + 1) / (2 * count))


def run_gpu(
    report: RooflineReport,
    classes: int,
    grid: tuple[int, int],
    device: torch.device,
    floors: Mapping[str, Sequence[tuple[float, str]]],
) -> None:
    """Times of the kernels by PyTorch's profiler into report; floors as of `gpu_rows`."""
    similarity = testing.clip_like(classes, *grid, batch=(1,)).to(device)
    error = testing.largest_error(cdam_attention(similarity, backend="triton"), testing.oracle(similarity))
    if not error <= testing.MAP_BUDGET:
        raise RuntimeError(f"the kernels' map is off by {error:.1e}: nothing is timed")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(ROUNDS):
            cdam_attention(similarity, backend="triton")
        torch.cuda.synchronize(device)
    times: dict[str, list[float]] = {}
    for event in profile.events():
        times.setdefault(event.name, []).append(float(getattr(event, "device_time", 0.0)) / 1e6)
    report.rows += gpu_rows({name: min(each) for name, each in times.items()}, floors)


def gpu_rows(seconds: Mapping[str, float], floors: Mapping[str, Sequence[tuple[float, str]]]) -> list[StageRow]:
    """Least seconds by kernel, and by stage the floors of the ways that it can go, each with the pipe that limits."""
    rows = []
    for stage in KERNEL_STAGES:
        row = StageRow(stage, seconds.get(f"{stage}_kernel"), limit=FLOOR)
        if floors.get(stage):
            row.least, row.note = min(floors[stage])
        rows.append(row)
    return rows


def table(report: RooflineReport) -> Table:
    """Time, work and rate of each stage, and the share of what the machine can do."""
    environment = report.environment
    grid = "x".join(map(str, environment["grid"]))
    result = Table(
        title=f"Roofline of one map, {grid}, C = {environment['classes']}, 7 scales, {environment['device_name']}, "
        f"{thread_count(environment['threads'])}",
        caption="milliseconds of a stage over all scales, least; least: of a copy of the bytes that it has to move, of "
        "torch.mm of the same shape and by symmetry half of it, or on a GPU the kernel's floor; share: least over ms",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    result.add_column("stage", no_wrap=True)
    for heading in ("ms", "work", "rate", "least ms", "share"):
        result.add_column(heading, justify="right", no_wrap=True)
    for heading in ("of", ""):
        result.add_column(heading, no_wrap=True)
    for row in report.rows:
        work, rate = work_and_rate(row)
        result.add_row(
            row.stage,
            "not measured" if row.seconds is None else milliseconds(1e3 * row.seconds),
            work,
            rate,
            "" if row.least is None else milliseconds(1e3 * row.least),
            "" if row.share is None else f"{100 * row.share:.0f} %",
            row.limit,
            row.note,
        )
    if report.whole is not None:
        total = sum(row.seconds or 0.0 for row in report.rows)
        least = sum(row.least or 0.0 for row in report.rows)
        result.add_section()
        result.add_row(
            "all stages", milliseconds(1e3 * total), "", "", milliseconds(1e3 * least), f"{100 * least / total:.0f} %"
        )
        result.add_row("a call", milliseconds(1e3 * report.whole))
    return result


def work_and_rate(row: StageRow) -> tuple[str, str]:
    """``"12.3 MB", "31 GB/s"`` or ``"1.1 GFLOP", "99 GFLOP/s"``; nothing where it is not known."""
    if not row.work or not row.seconds:
        return "", ""
    unit, factor = ("MB", 1e6) if row.limit == COPY else ("GFLOP", 1e9)
    work = f"{row.work / factor:.3g} {unit}"
    return work, f"{row.work / row.seconds / 1e9:.3g} {'GB' if row.limit == COPY else 'GFLOP'}/s"


def notes(report: RooflineReport) -> list[str]:
    """What the machine can do at most."""
    if report.product_rate is None or report.copy_rate is None:
        return []
    return [
        f"a product of 1024 x 1024 matrices: {report.product_rate / 1e9:.0f} GFLOP/s; a copy of "
        f"{_LARGE >> 20} MB: {report.copy_rate / 1e9:.1f} GB/s read and written",
        "on a GPU: not measured",
    ]
