"""Blocks whose unchanged run is in half precision, by autocast."""

from __future__ import annotations

import torch
from torch import Tensor

from cdam_fast.models.blocks import Block


class AutocastBlock(Block):
    """A float32 block that runs under autocast: products in bfloat16 on a CPU, in float16 elsewhere.

    What goes in and out is float32, the residual path too; its pieces, which the last block is taken apart into, are as
    they were.
    """

    def __init__(self, block: Block) -> None:
        self._block = block
        self.heads = block.heads

    def run(self, x: Tensor) -> Tensor:
        """``[B, L, width] -> [B, L, width]``."""
        kind = x.device.type
        with torch.autocast(kind, dtype=torch.bfloat16 if kind == "cpu" else torch.float16):
            return self._block.run(x).to(x.dtype)

    def normalise(self, x: Tensor) -> Tensor:
        """As the block's."""
        return self._block.normalise(x)

    def project(self, tokens: Tensor, part: str) -> Tensor:
        """As the block's."""
        return self._block.project(tokens, part)

    def output(self, attended: Tensor) -> Tensor:
        """As the block's."""
        return self._block.output(attended)

    def add_mlp(self, x: Tensor) -> Tensor:
        """As the block's."""
        return self._block.add_mlp(x)
