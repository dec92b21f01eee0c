"""The main job: the attention map of a real photograph, by every backend, checked and then timed side by side."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cdam_fast import __version__, cdam_attention, reference, testing
from cdam_fast.compat import compiled
from cdam_fast.measuring.devices import device_name
from cdam_fast.measuring.inputs import MODEL, TEMPLATE, ClassList, build_inputs
from cdam_fast.measuring.measure import (
    AUTOTUNED,
    COMPILED,
    EAGER,
    Row,
    Yardstick,
    available_memory,
    check,
    time_round,
)
from cdam_fast.processes import cores

ROUNDS = 3
SECONDS_PER_BACKEND = 4.0


@dataclass(frozen=True)
class BenchOptions:
    """What the command line asked for, checked."""

    class_lists: list[ClassList]
    device: torch.device
    image: str | None = None
    pretrained: str | None = None
    grid: tuple[int, int] = (28, 28)
    batch: int = 1
    runs: int = 30
    compile: str = "largest"


@dataclass
class Report:
    """Everything that was measured and on what."""

    environment: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    interrupted: bool = False

    def as_json(self) -> dict[str, Any]:
        """Plain values, every single time included."""
        return {**self.environment, "interrupted": self.interrupted, "rows": [asdict(row) for row in self.rows]}


def run_bench(options: BenchOptions, report: Report, on_step: Callable[[str], None]) -> None:
    """Measure every class list into report, in place, so that an interrupt keeps what is done."""
    inputs = build_inputs(
        options.class_lists,
        image=options.image,
        pretrained=options.pretrained,
        grid=options.grid,
        batch=options.batch,
        device=options.device,
        on_step=on_step,
    )
    report.environment |= {"photograph": inputs.photograph, "weights": inputs.weights}
    largest = options.class_lists[-1].name
    for entry in options.class_lists:
        similarity = inputs.similarities[entry.name]
        on_step(f"{entry.name}: float64 oracle")
        exact = testing.oracle(similarity)
        with_compile = options.compile == "all" or (options.compile == "largest" and entry.name == largest)
        _measure_list(options, report, entry, similarity, exact, with_compile, on_step)


def _measure_list(
    options: BenchOptions,
    report: Report,
    entry: ClassList,
    similarity: Tensor,
    exact: Tensor,
    with_compile: bool,
    on_step: Callable[[str], None],
) -> None:
    rows: list[tuple[Row, Callable[[], Tensor]]] = []
    for name, function in _backends(with_compile, options.device):
        row = Row(entry.name, similarity.shape[1], name)
        report.rows.append(row)
        needed = _eager_bytes(similarity) if name == EAGER else 0
        if needed > available_memory(options.device):
            row.status, row.note = "does not fit", f"needs about {needed / 1e9:.0f} GB"
            continue
        on_step(f"{entry.name}: {name}" + (" (compiling)" if name in (COMPILED, AUTOTUNED) else ""))
        call: Callable[[], Tensor] = partial(_without_gradient, function, similarity)
        if check(row, call, exact, options.device):
            rows.append((row, call))
    yardstick = Yardstick(options.device)
    try:
        # backends take turns, so that a slower minute of the machine falls on all of them
        for turn in range(ROUNDS):
            yardstick.take()
            for row, call in rows:
                on_step(f"{entry.name}: {row.backend}, round {turn + 1} of {ROUNDS}")
                _time_round(row, call, turn, options)
    finally:  # an interrupt keeps the rounds that are done
        for row, _ in rows:
            row.summarise(options.batch)
            row.yardstick = yardstick.seconds
        _fill_ratios(rows)


def _time_round(row: Row, call: Callable[[], Tensor], turn: int, options: BenchOptions) -> None:
    time_round(row, call, options.device, turn, ROUNDS, options.runs, SECONDS_PER_BACKEND)


def _fill_ratios(rows: list[tuple[Row, Callable[[], Tensor]]]) -> None:
    medians = {row.backend: row.p50_ms for row, _ in rows}
    for row, _ in rows:
        if row.p50_ms:
            eager, compiled, autotuned = (medians.get(name) for name in (EAGER, COMPILED, AUTOTUNED))
            row.over_eager = eager / row.p50_ms if eager else None
            row.over_compile = compiled / row.p50_ms if compiled else None
            row.over_autotune = autotuned / row.p50_ms if autotuned else None


def _backends(with_compile: bool, device: torch.device) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    yield EAGER, reference.cdam_attention
    if with_compile:
        yield COMPILED, compiled(reference.cdam_attention)
        if device.type == "cuda":
            yield AUTOTUNED, compiled(reference.cdam_attention, mode="max-autotune")
    yield "portable", partial(cdam_attention, backend="portable")
    if device.type == "cuda":
        yield "triton", partial(cdam_attention, backend="triton")
        yield "triton, CUDA graph", _Replayed()


class _Replayed:
    """The Triton map as a CUDA graph of one input, captured by the first call."""

    def __init__(self) -> None:
        self.graph: torch.cuda.CUDAGraph | None = None
        self.result: Tensor | None = None

    def __call__(self, similarity: Tensor) -> Tensor:
        if self.graph is None or self.result is None:
            cdam_attention(similarity, backend="triton")  # compiles, and builds the tables
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.result = cdam_attention(similarity, backend="triton")
        self.graph.replay()
        return self.result


def _without_gradient(function: Callable[[Tensor], Tensor], similarity: Tensor) -> Tensor:
    with torch.no_grad():
        return function(similarity)


def _eager_bytes(similarity: Tensor) -> int:
    """Three [B, N, N, C] temporaries are live at once in the eager divergence."""
    batch, classes, height, width = similarity.shape
    return 3 * batch * (height * width) ** 2 * classes * similarity.element_size()


def describe_environment(options: BenchOptions) -> dict[str, Any]:
    """What a reader needs to judge the numbers or repeat them."""
    return {
        **describe_machine(options.device),
        "model": MODEL,
        "prompt_template": TEMPLATE,
        "grid": list(options.grid),
        "batch": options.batch,
        "budget": testing.MAP_BUDGET,
    }


def describe_machine(device: torch.device) -> dict[str, Any]:
    """When, with what versions, and on what."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cdam_fast": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(device),
        "device_name": device_name(device),
        "cores": cores(),
        "threads": torch.get_num_threads(),
    }
