"""What the caller has set in PyTorch stays out of the results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from cdam_fast.compat import without_autocast


@contextmanager
def own_settings(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast, and new tensors on this device.

    Autocast would make float32 results bfloat16, and a tokenizer or a text tower that makes tensors without naming a
    device would make them on the caller's default.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for kind in {"cpu", device.type}:
            stack.enter_context(without_autocast(kind))
        if _default_device() != device.type:
            stack.enter_context(device)
        yield


def _default_device() -> str:
    """Before PyTorch 2.3 it could not be asked for, and before 2.0 it was the CPU or, in all but name, CUDA."""
    made: str = torch.empty(0).device.type
    return made
