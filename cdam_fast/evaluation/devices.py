"""``--device``: which one, and which backend serves there."""

from __future__ import annotations

import platform
from pathlib import Path

import torch
from torch.nn import functional

from cdam_fast import ops
from cdam_fast.attention import choose_backend
from cdam_fast.evaluation.errors import UsageError, reason_of
from cdam_fast.evaluation.streams import tell

KINDS = ("cuda", "mps", "xpu", "cpu")
"""In the order in which ``auto`` takes them."""


def parse_device(text: str) -> torch.device:
    """A device on which a tensor can be made; ``auto`` is the first of KINDS that does what is needed here."""
    if text == "auto":
        return next(device for device in map(torch.device, KINDS) if is_there(device))
    try:
        device = torch.device(text)
        torch.zeros(1, device=device).cpu()
        return device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"--device: got {text!r}, which cannot be used here: {reason_of(error)}") from None


def is_there(device: torch.device) -> bool:
    """Whether it can be used for all that this package does; a line says why one that is there cannot."""
    if device.type == "cpu":
        return True
    backend = torch.backends.mps if device.type == "mps" else getattr(torch, device.type, None)
    if backend is None or not backend.is_available():
        return False
    try:
        image = torch.zeros(1, 3, 8, 8, device=device)
        small = functional.interpolate(image, size=(5, 5), mode="bicubic", antialias=True)
        (small.flatten(2).mT @ small.flatten(2)).softmax(-1).cpu()
        return True
    except (RuntimeError, NotImplementedError) as error:  # an operation that this PyTorch lacks there, or no memory
        tell(f"device {device}: there, and passed over: {reason_of(error)}")
        return False


def device_name(device: torch.device) -> str:
    """What the device is called."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "xpu":
        return str(torch.xpu.get_device_name(device))
    return _processor()


def auto_backend(device: torch.device, patches: int = 0) -> tuple[str, str | None]:
    """Which backend ``auto`` takes for a map of a float32 similarity on this device, and why not the kernels."""
    similarity = torch.empty(0, device=device)
    chosen = choose_backend("auto", similarity, patches)
    if chosen == "triton":
        return chosen, None
    return chosen, ops.refusal(similarity, patches) or "interpreted kernels are for tests"


def describe_device(device: torch.device, patches: int = 0) -> str:
    """One line: device, its name, and the backend."""
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"device {device} ({device_name(device)}{threads}), backend {auto_backend(device, patches)[0]}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
