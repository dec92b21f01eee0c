"""A block of open_clip's or OpenAI's CLIP."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from cdam_fast.models.blocks import Block


class OpenCLIPBlock(Block):
    """A residual attention block: ``ln_1``, ``attn`` of `torch.nn.MultiheadAttention`, ``ln_2``, ``mlp``."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.heads = int(module.attn.num_heads)

    def run(self, x: Tensor) -> Tensor:
        """The whole block; older open_clip puts the tokens first."""
        tokens_first = not self.module.attn.batch_first
        result: Tensor = self.module(x.transpose(0, 1)).transpose(0, 1) if tokens_first else self.module(x)
        return result

    def normalise(self, x: Tensor) -> Tensor:
        """``ln_1``."""
        normalised: Tensor = self.module.ln_1(x)
        return normalised

    def project(self, tokens: Tensor, part: str) -> Tensor:
        """Its third of ``in_proj``."""
        start = "qkv".index(part) * tokens.shape[-1]
        rows = slice(start, start + tokens.shape[-1])
        attention = self.module.attn
        return functional.linear(tokens, attention.in_proj_weight[rows], attention.in_proj_bias[rows])

    def output(self, attended: Tensor) -> Tensor:
        """``out_proj`` and ``ls_1``."""
        return self._scaled("ls_1", self.module.attn.out_proj(attended))

    def add_mlp(self, x: Tensor) -> Tensor:
        """``ln_2``, ``mlp`` and ``ls_2``."""
        return x + self._scaled("ls_2", self.module.mlp(self.module.ln_2(x)))

    def _scaled(self, name: str, x: Tensor) -> Tensor:
        """Layer scale, which OpenAI's blocks do not have."""
        scale = getattr(self.module, name, None)
        scaled: Tensor = x if scale is None else scale(x)
        return scaled
