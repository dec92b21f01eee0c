"""Microseconds that a call of the Triton backend spends on the host, with nothing launched."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from cdam_fast import cdam_attend, cdam_attention, ops, pairwise_divergence
from cdam_fast.testing import clip_like

CALLS = 2000
"""Of which the median is taken."""

IN_A_ROW = 100
"""Calls that a GPU is given before it is waited for, so that its queue of launches never fills."""

STEPS = 5

KERNELS = ("distributions_kernel", "divergence_kernel", "attention_kernel", "normalise_kernel")


@dataclass
class HostRow:
    """One public function. Microseconds of a call; None is not measured."""

    call: str
    own_us: float
    """Of this package, its launches replaced by nothing."""
    launched_us: float | None = None
    """With Triton's launcher: on a GPU whole, the GPU not waited for; elsewhere without the driver's part."""


@dataclass
class HostReport:
    """Every function, and what it ran on."""

    environment: dict[str, Any]
    first_us: float | None = None
    """Of the first call for a patch grid: its tables, made once."""
    rows: list[HostRow] = field(default_factory=list)
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def run_host(report: HostReport, device: torch.device, grid: tuple[int, int], on_step: Callable[[str], None]) -> None:
    """Measure every function into report, in place.

    Inputs are small: the host's time depends on no size, and PyTorch's few operations then take little on a CPU too.

    Raises:
        ImportError: no Triton.
    """
    similarity = clip_like(5, 4, 4, batch=(1,)).to(device)
    values = torch.ones(1, 16, 8, device=device)
    p = similarity.flatten(2).mT.softmax(-1)
    calls: dict[str, Callable[[], Tensor]] = {
        "cdam_attention": lambda: cdam_attention(similarity, backend="triton"),
        'cdam_attention, order="paper"': lambda: cdam_attention(similarity, order="paper", backend="triton"),
        "cdam_attend": lambda: cdam_attend(similarity, values, backend="triton"),
        "pairwise_divergence": lambda: pairwise_divergence(p, backend="triton"),
    }
    with torch.no_grad():
        on_step(f"first call of {grid[0]}x{grid[1]} patches")
        with without_launches(device):
            report.first_us = _first(clip_like(5, *grid, batch=(1,)).to(device))
        for name, call in calls.items():
            on_step(name)
            with without_launches(device):
                row = HostRow(name, _median(call, device))
            report.rows.append(row)
            try:
                with contextlib.nullcontext() if device.type != "cpu" else _launcher_alone():
                    row.launched_us = _median(call, device)
            except Exception as error:  # Triton's insides differ from version to version
                report.note = f"Triton's launcher: not measured; {str(error).strip().splitlines()[0][:120]}"


def _first(similarity: Tensor) -> float:
    from cdam_fast.kernels import plan, stages

    stages.forget()
    plan.map_plan.cache_clear()
    begin = time.perf_counter()
    cdam_attention(similarity, backend="triton")
    return 1e6 * (time.perf_counter() - begin)


def _median(call: Callable[[], Tensor], device: torch.device) -> float:
    seconds = []
    for start in range(0, CALLS, IN_A_ROW):
        for _ in range(10 if start == 0 else 1):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        for _ in range(IN_A_ROW):
            begin = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - begin)
    return 1e6 * sorted(seconds)[len(seconds) // 2]


class _Nothing:
    """A kernel that launches nothing."""

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return _nothing


def _nothing(*arguments: Any, **options: Any) -> None:
    return None


@contextlib.contextmanager
def _served(device: torch.device) -> Iterator[contextlib.ExitStack]:
    """The kernels' host side on a CPU's tensors too, which the kernels themselves would not take."""
    with contextlib.ExitStack() as stack:
        if device.type == "cpu":
            stack.enter_context(mock.patch.object(ops, "_refusal_of_device", _nothing))
        yield stack


@contextlib.contextmanager
def without_launches(device: torch.device) -> Iterator[None]:
    """The Triton backend on any device, its kernels replaced by nothing."""
    from cdam_fast.kernels import launch

    with _served(device) as stack:
        for name in KERNELS:
            stack.enter_context(mock.patch.object(launch, name, _Nothing()))
        yield


@contextlib.contextmanager
def _launcher_alone() -> Iterator[None]:
    """Triton's launcher as for an H100, up to where it would call the driver; nothing is compiled."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    from cdam_fast.kernels import launch

    if launch.INTERPRETED:
        raise RuntimeError("TRITON_INTERPRET is set")
    nowhere = SimpleNamespace(
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
    )
    compiled = SimpleNamespace(function=None, packed_metadata=(), launch_metadata=_nothing, run=_nothing)
    with _served(torch.device("cpu")) as stack:
        active = "_active" if hasattr(driver, "_active") else "active"  # since Triton 3.4 a property asks the machine
        stack.enter_context(mock.patch.object(driver, active, nowhere))
        for name in KERNELS:
            kernel = getattr(launch, name)
            kernel.cache_key  # noqa: B018 - finds the constants that every launch compares
            caches = type(kernel.device_caches)(kernel.create_binder)
            stack.enter_context(mock.patch.object(kernel, "device_caches", caches))
            caches[0]  # sets what compiles
            stack.enter_context(mock.patch.object(kernel, "compile", return_value=compiled))
        yield


def table(report: HostReport) -> Table:
    """Microseconds of each function."""
    environment = report.environment
    gpu = environment["device"].partition(":")[0] != "cpu"
    result = Table(
        title=f"Host time of a call of the Triton backend, {environment['device_name']}",
        caption="microseconds, median; own: of this package, with its launches replaced by nothing; with Triton: "
        + ("the whole call, the GPU not waited for" if gpu else "Triton's launcher too, without the driver's part")
        + f".\nThe first call of a patch grid also makes its tables: {report.first_us or 0:.0f} here.",
        box=box.SIMPLE_HEAD,
    )
    result.add_column("call")
    for heading in ("own µs", "with Triton µs"):
        result.add_column(heading, justify="right")
    for row in report.rows:
        result.add_row(
            row.call, f"{row.own_us:.0f}", "not measured" if row.launched_us is None else f"{row.launched_us:.0f}"
        )
    return result
