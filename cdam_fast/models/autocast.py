"""Blocks in half precision, by autocast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cdam_fast.models.blocks import Block


class AutocastBlock(Block):
    """A float32 block under autocast: its products in bfloat16 on a CPU, in float16 elsewhere.

    What goes in and out is float32, the residual path between its pieces too.
    """

    def __init__(self, block: Block) -> None:
        self._block = block
        self.heads = block.heads

    def run(self, x: Tensor) -> Tensor:
        """``[B, L, width] -> [B, L, width]``."""
        return _cast(self._block.run, x)

    def normalise(self, x: Tensor) -> Tensor:
        """As the block's."""
        return self._block.normalise(x)

    def project(self, tokens: Tensor, part: str) -> Tensor:
        """As the block's."""
        return _cast(self._block.project, tokens, part)

    def output(self, attended: Tensor) -> Tensor:
        """As the block's."""
        return _cast(self._block.output, attended)

    def add_mlp(self, x: Tensor) -> Tensor:
        """As the block's."""
        return _cast(self._block.add_mlp, x)


def _cast(method: Callable[..., Tensor], x: Tensor, *arguments: Any) -> Tensor:
    kind = x.device.type
    with torch.autocast(kind, dtype=torch.bfloat16 if kind == "cpu" else torch.float16):
        return method(x, *arguments).to(x.dtype)
