"""What the caller has set in PyTorch stays out of the results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from cdam_fast.compat import without_autocast


@contextmanager
def own_settings(device: torch.device) -> Iterator[None]:
    """For a model on this device: no gradients, no autocast, no other default device than PyTorch's own, the CPU.

    Autocast would make float32 results bfloat16, and a tokenizer or a text tower that makes tensors without naming a
    device would make them on the caller's default.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for kind in {"cpu", device.type}:
            stack.enter_context(without_autocast(kind))
        if torch.empty(0).device.type != "cpu" and hasattr(device, "__enter__"):
            stack.enter_context(torch.device("cpu"))
        yield
