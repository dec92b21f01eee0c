"""``--device``: which one, and which backend serves there."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from cdam_fast import ops
from cdam_fast.attention import choose_backend
from cdam_fast.commands.streams import tell
from cdam_fast.errors import UsageError, reason_of
from cdam_fast.measuring.devices import device_name

KINDS = ("cuda", "mps", "xpu", "cpu")
"""In the order in which ``auto`` takes them."""


def add_device(parser: Any, default: str | None = "auto") -> None:
    """Add ``--device``; a default of None is auto for a command that tells whether it was given."""
    parser.add_argument(
        "--device",
        default=default,
        help="auto, cpu, cuda, cuda:1, mps, xpu; auto is the first that is there of cuda, mps, xpu and cpu "
        "(default: auto)",
    )


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
