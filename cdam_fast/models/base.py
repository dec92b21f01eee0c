"""What the base methods share: the penultimate features once, and the last block with either attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from cdam_fast.arguments import working_dtype
from cdam_fast.models.blocks import Block, join_heads
from cdam_fast.models.positions import by_scale_factor
from cdam_fast.models.tower import ResizePositions, Tower


class LastBlock(NamedTuple):
    """What both passes of the last block start from."""

    tokens: Tensor
    """``[B, N+1, width]`` normalised input of the attention, CLS first; ``[B, N, width]`` where there is none."""
    values: Tensor
    """Value projection of the tokens, of the same shape."""
    residual: Tensor
    """``[B, N, width]`` patches that the attention's output is added to."""
    first_patch: int = 1
    """Place of the first patch among the tokens: 1 after a CLS token, 0 without one."""

    @property
    def patch_values(self) -> Tensor:
        """``[B, N, width]``: what CDAM's map applies to. Its CLS row and column are zero, so the CLS stays out."""
        return self.values[:, self.first_patch :]


def last_block(tower: Tower, x: Tensor) -> LastBlock:
    """Run all blocks but the last on ``[B, N+1, width]`` and project the values."""
    for block in tower.blocks[:-1]:
        x = block.run(x)
    block = tower.blocks[-1]
    tokens, first_patch = block.normalise(x), int(tower.has_cls)
    return LastBlock(tokens, block.project(tokens, "v"), x[:, first_patch:], first_patch)


@dataclass(frozen=True)
class Base:
    """A base method: its attention in the last block and what it keeps around it.

    CDAM's second pass puts the map in the place of ``attend`` and keeps everything else.
    """

    name: str
    attend: Callable[[Block, LastBlock, Tensor], Tensor]
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
        return self.finish(tower, last, join_heads(self.attend(block, last, block.split_heads(last.values))))

    def attention(self, tower: Tower, last: LastBlock) -> Tensor:
        """The base method's own attention of patches to patches, mean over heads, ``[B, N, N]``; for looking at."""
        block = tower.blocks[-1]
        identity = torch.eye(last.values.shape[1], dtype=last.values.dtype, device=last.values.device)
        weights = self.attend(block, last, identity.expand(len(last.values), block.heads, -1, -1))
        return weights.mean(1)[..., last.first_patch :]

    def finish(self, tower: Tower, last: LastBlock, attended: Tensor) -> Tensor:
        """Attended values ``[B, N, width]`` -> L2-normalised patch features ``[B, N, D]``, float32 or float64."""
        block = tower.blocks[-1]
        x = block.output(attended.to(last.values.dtype))
        if self.keeps_residual:
            x = last.residual + x
        if self.keeps_mlp:
            x = block.add_mlp(x)
        features = tower.project_features(x)
        return functional.normalize(features.to(working_dtype(features.dtype)), dim=-1)
