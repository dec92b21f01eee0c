"""``cdam-fast env``: what a report of a fault needs, and whether every backend that serves here is right."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import platform
from typing import Any

import torch

from cdam_fast import __version__, cdam_attention, testing
from cdam_fast.commands.devices import KINDS, auto_backend, is_there
from cdam_fast.commands.streams import say
from cdam_fast.errors import reason_of
from cdam_fast.measuring.devices import device_name
from cdam_fast.measuring.measure import EAGER
from cdam_fast.processes import cores

_PACKAGES = {
    "triton": ("triton", "pytorch-triton", "pytorch-triton-rocm", "pytorch-triton-xpu", "triton-windows"),
    "numpy": ("numpy",),
    "open_clip": ("open_clip_torch",),
    "safetensors": ("safetensors",),
    "Pillow": ("pillow",),
    "rich": ("rich",),
    "matplotlib": ("matplotlib",),
}
"""By what one calls them: names of the distributions, and the module where it is another."""

_MODULES = {"Pillow": "PIL"}


def add_command(commands: Any) -> None:
    """Add it to argparse's."""
    env = commands.add_parser(
        "env",
        help="print versions, devices and backends, and check every backend that serves here",
        description="Print what a report of a fault needs: versions, devices, which backend 'auto' takes here and why, "
        "and a check of every backend against float64. The exit status is 1 where one is wrong.",
    )
    env.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    """The exit status: 1 where a backend is wrong or fails."""
    for name, value in _versions().items():
        say(f"{name:<12} {value}")
    devices = [device for device in map(torch.device, KINDS) if is_there(device)]
    first = devices[0]
    for device in devices:
        say(f"{'device':<12} {device}: {device_name(device)}" + (f", {_cpu()}" if device.type == "cpu" else ""))
    say(f"{'auto':<12} --device auto takes {first}")
    for device in devices:
        backend, why_not = auto_backend(device)
        say(f"{'auto':<12} {device}: backend {backend}" + (f"; not triton: {why_not}" if why_not else ""))
    lines = [_check(device, backend) for device in devices for backend in ("reference", "portable", "triton")]
    for line, _ in lines:
        say(f"{'check':<12} {line}")
    return 1 if any(wrong for _, wrong in lines) else 0


def _versions() -> dict[str, str]:
    return {
        "cdam_fast": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": platform.platform(),
        "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'no'}, ROCm {torch.version.hip or 'no'})",
        **{name: _version(name) for name in _PACKAGES},
    }


def _version(name: str) -> str:
    if importlib.util.find_spec(_MODULES.get(name, name)) is None:
        return "not installed"
    for distribution in _PACKAGES[name]:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:  # noqa: PERF203 - one of the few names
            continue
    return "installed, of no known version"


def _cpu() -> str:
    return f"{cores()} cores, {torch.get_num_threads()} threads"


def _check(device: torch.device, backend: str) -> tuple[str, bool]:
    """A line on a backend's error against float64 on a small input, and whether it is wrong."""
    why_not = auto_backend(device)[1]
    if backend == "triton" and why_not is not None:
        return f"{device}, triton: does not serve here", False
    similarity = testing.clip_like(24, 10, 12, batch=(2,))
    budget = testing.map_budget(eager=backend == "reference")
    try:
        largest = testing.largest_error(
            cdam_attention(similarity.to(device), backend=backend), testing.oracle(similarity)
        )
    except Exception as error:  # whatever it is, it belongs in a report
        return f"{device}, {backend}: FAILED, {type(error).__name__}: {reason_of(error)}", True
    verdict = "right" if largest <= budget else "WRONG"
    kind = f" ({EAGER})" if backend == "reference" else ""
    return (
        f"{device}, {backend}{kind}: {verdict}, largest error {largest:.1e} against float64, budget {budget:.0e}",
        not largest <= budget,
    )
