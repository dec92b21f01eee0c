"""Other configurations of the kernels than the shipped ones, each checked and then timed on this machine's GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any
from unittest import mock

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from cdam_fast import cdam_attention, testing
from cdam_fast.measuring.measure import seconds_of

ROUNDS, REPEATS = 5, 20

CANDIDATES: dict[str, list[dict[str, Any]]] = {
    "distributions": [
        {"num_warps": warps, "BLOCK_CLASSES": classes, "PER_THREAD": max(2, classes // warps)}
        for warps in (4, 8)
        for classes in (16, 32, 64)
    ],
    "divergence": [
        *({"num_stages": stages} for stages in (1, 2, 3, 4)),
        *({"num_warps": warps} for warps in (4, 8)),
        *({"ROWS": rows, "COLUMNS": columns} for rows, columns in ((2, 16), (8, 4), (16, 2), (8, 8))),
        *({"PRODUCTS": products} for products in ("tf32", "ieee")),
        {"K_MAJOR": True},
        {"K_MAJOR": False},
        {"FEATURES_FIRST": True},
        {"FEATURES_FIRST": False},
    ],
    "attention": [
        *({"BLOCK_ROWS": rows, "num_warps": warps} for rows in (1, 2, 4, 8) for warps in (1, 2, 4, 8) if warps >= rows),
        *({"BLOCK_SCALED": slots} for slots in (1, 2, 8)),
    ],
}
"""Changes to the launch options of each stage, one at a time."""


@dataclass
class Trial:
    """One stage with changed options. Microseconds of the whole map; None is not measured."""

    stage: str
    changes: dict[str, Any]
    status: str = "not run"
    note: str = ""
    error: float | None = None
    us: float | None = None
    over_shipped: float | None = None


@dataclass
class TuneReport:
    """Every trial, and what it ran on."""

    environment: dict[str, Any]
    trials: list[Trial] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**self.environment, "trials": [asdict(trial) for trial in self.trials]}


def run_tune(similarity: Tensor, report: TuneReport, on_step: Callable[[str], None]) -> None:
    """Try every candidate on ``similarity [B, C, h, w]`` into report, in place; the first trial is what is shipped."""
    exact = testing.oracle(similarity)
    for stage, changes in _trials():
        trial = Trial(stage, changes)
        report.trials.append(trial)
        on_step(f"{stage} {changes or 'as shipped'}")
        try:
            with _changed(stage, changes):
                _try(trial, similarity, exact)
        except Exception as error:  # a configuration that does not compile is a result too
            trial.status, trial.note = "failed", str(error).strip().splitlines()[0][:120] if str(error) else ""
        shipped = report.trials[0].us
        if trial.us and shipped:
            trial.over_shipped = shipped / trial.us


def count() -> int:
    """Of the trials."""
    return sum(1 for _ in _trials())


def _trials() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "divergence", {}
    for stage, candidates in CANDIDATES.items():
        yield from ((stage, changes) for changes in candidates)


@contextlib.contextmanager
def _changed(stage: str, changes: dict[str, Any]) -> Iterator[None]:
    from cdam_fast.kernels import configurations, stages

    shipped = getattr(configurations, stage)
    try:
        with mock.patch.object(configurations, stage, lambda *arguments: {**shipped(*arguments), **changes}):
            stages.forget()
            yield
    finally:
        stages.forget()


def _try(trial: Trial, similarity: Tensor, exact: Tensor) -> None:
    def call() -> Tensor:
        return cdam_attention(similarity, backend="triton")

    trial.error = testing.largest_error(call(), exact)
    if not trial.error <= testing.MAP_BUDGET:
        trial.status, trial.note = "wrong", "error over the budget: not timed"
        return
    trial.status = "ok"
    if similarity.device.type == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = call()

        def replay() -> Tensor:
            graph.replay()
            return result

        times = [seconds_of(replay, similarity.device, REPEATS)[0] for _ in range(ROUNDS)]
        trial.us = 1e6 * sorted(times)[ROUNDS // 2] / similarity.shape[0]


def table(report: TuneReport) -> Table:
    """Microseconds of the map with each change, and how it compares with what is shipped."""
    result = Table(
        title=f"Configurations of the kernels, {report.environment['device_name']}",
        caption="microseconds per image of the whole map in a CUDA graph; the first row is what is shipped, the others "
        "change one thing of it.\nNothing is kept: a better one belongs in kernels/configurations.py",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("stage", "change"):
        result.add_column(heading)
    for heading in ("µs", "x shipped", "error"):
        result.add_column(heading, justify="right")
    for trial in report.trials:
        result.add_row(
            trial.stage,
            ", ".join(f"{name}={value}" for name, value in trial.changes.items()) or "as shipped",
            f"{trial.us:.1f}" if trial.us else trial.status.upper() if trial.status != "ok" else "not measured",
            "" if trial.over_shipped is None else f"{trial.over_shipped:.2f}",
            "" if trial.error is None else f"{trial.error:.1e}",
        )
    return result
