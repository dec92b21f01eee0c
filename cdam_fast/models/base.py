"""What the base methods share: the penultimate features once, and the last block with either attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from cdam_fast.arguments import working_dtype
from cdam_fast.models.positions import by_scale_factor
from cdam_fast.models.tower import (
    ResizePositions,
    Tower,
    add_mlp,
    attention_output,
    join_heads,
    project,
    run_block,
    split_heads,
)


class LastBlock(NamedTuple):
    """What both passes of the last block start from."""

    tokens: Tensor
    """``[B, N+1, width]`` normalised input of the attention, CLS first."""
    values: Tensor
    """``[B, N+1, width]`` value projection of the tokens."""
    residual: Tensor
    """``[B, N, width]`` patches that the attention's output is added to."""

    @property
    def patch_values(self) -> Tensor:
        """``[B, N, width]``: what CDAM's map applies to. Its CLS row and column are zero, so the CLS stays out."""
        return self.values[:, 1:]


def last_block(tower: Tower, x: Tensor) -> LastBlock:
    """Run all blocks but the last on ``[B, N+1, width]`` and project the values."""
    for block in tower.blocks[:-1]:
        x = run_block(block, x)
    block = tower.blocks[-1]
    tokens = block.ln_1(x)
    return LastBlock(tokens, project(block, tokens, "v"), x[:, 1:])


@dataclass(frozen=True)
class Base:
    """A base method: its attention in the last block and what it keeps around it.

    CDAM's second pass puts the map in the place of ``attend`` and keeps everything else.
    """

    name: str
    attend: Callable[[Any, LastBlock, Tensor], Tensor]
    """The last block, its input and ``[B, heads, N+1, E]`` -> ``[B, heads, N, E]``: its attention of the patches,
    applied to something, such as the values."""
    keeps_residual: bool
    keeps_mlp: bool
    resize_positions: ResizePositions = by_scale_factor
    run: Callable[[Tower, Tensor], LastBlock] = last_block

    def prepare(self, tower: Tower, pixels: Tensor) -> LastBlock:
        """``[B, 3, H, W]`` checked pixels -> what both passes start from."""
        return self.run(tower, tower.embed(pixels, self.resize_positions))

    def first_pass(self, tower: Tower, last: LastBlock) -> Tensor:
        """L2-normalised patch features of the base method, ``[B, N, D]``."""
        block = tower.blocks[-1]
        return self.finish(tower, last, join_heads(self.attend(block, last, split_heads(block, last.values))))

    def attention(self, tower: Tower, last: LastBlock) -> Tensor:
        """The base method's own attention of patches to patches, mean over heads, ``[B, N, N]``; for looking at."""
        block = tower.blocks[-1]
        heads, tokens = block.attn.num_heads, last.values.shape[1]
        identity = torch.eye(tokens, dtype=last.values.dtype, device=last.values.device)
        weights = self.attend(block, last, identity.expand(len(last.values), heads, -1, -1))
        return weights.mean(1)[..., 1:]

    def finish(self, tower: Tower, last: LastBlock, attended: Tensor) -> Tensor:
        """Attended values ``[B, N, width]`` -> L2-normalised patch features ``[B, N, D]``, float32 or float64."""
        block = tower.blocks[-1]
        x = attention_output(block, attended.to(last.values.dtype))
        if self.keeps_residual:
            x = last.residual + x
        if self.keeps_mlp:
            x = add_mlp(block, x)
        features = tower.visual.ln_post(x) @ tower.visual.proj
        return functional.normalize(features.to(working_dtype(features.dtype)), dim=-1)
