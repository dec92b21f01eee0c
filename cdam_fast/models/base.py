"""What the base methods share: the penultimate features once, and the last block with either attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Optional

import torch
from torch import Tensor
from torch.nn import functional

from cdam_fast.arguments import working_dtype
from cdam_fast.models.blocks import Block, join_heads
from cdam_fast.models.hooks import check_seen, check_tensor
from cdam_fast.models.positions import by_scale_factor
from cdam_fast.models.tower import ResizePositions, Tower

Grid = tuple[int, int]
"""Rows and columns of patches, ``h * w = N``."""


class LastBlock(NamedTuple):
    """What both passes of the last block start from. T tokens: N patches, after a CLS token where there is one."""

    tokens: Tensor
    """``[B, T, width]`` normalised input of the attention."""
    values: Tensor
    """Value projection of the tokens, of the same shape.

    Tokens and values may be P widths wide: P paths side by side, each with its own attention, whose attended values
    are added up.
    """
    residual: Tensor
    """``[B, N, width]`` patches that the attention's output is added to."""
    grid: Grid
    first_patch: int = 1
    """Place of the first patch among the tokens: 1 after a CLS token, 0 without one."""
    seen: Tensor | None = None
    """What the base's ``see`` made of the pixels, or what its ``run`` leaves for its ``attend``."""

    @property
    def patch_values(self) -> Tensor:
        """``[B, N, width]``: what CDAM's map applies to. Its CLS row and column are zero, so the CLS stays out."""
        return self.add_paths(self.values[:, self.first_patch :])

    def split_heads(self, block: Block, x: Tensor) -> Tensor:
        """``[B, L, P * width] -> [B, P * heads, L, width / heads]``."""
        head_size = self.residual.shape[-1] // block.heads
        return x.reshape(*x.shape[:2], -1, head_size).transpose(1, 2)

    def add_paths(self, x: Tensor) -> Tensor:
        """``[B, L, P * width] -> [B, L, width]``."""
        width = self.residual.shape[-1]
        return x if x.shape[-1] == width else x.reshape(*x.shape[:2], -1, width).sum(2)


def last_block(tower: Tower, x: Tensor, grid: Grid, seen: Tensor | None) -> LastBlock:
    """Run all blocks but the last on ``[B, T, width]`` and project the values: what ``run`` is unless it is given."""
    for block in tower.blocks[:-1]:
        x = block.run(x)
    block = tower.blocks[-1]
    tokens, first_patch = block.normalise(x), int(tower.has_cls)
    return LastBlock(tokens, block.project(tokens, "v"), x[:, first_patch:], grid, first_patch, seen)


Attend = Callable[[Block, LastBlock, Tensor], Tensor]
See = Callable[[Tensor], Tensor]
Run = Callable[[Tower, Tensor, Grid, Optional[Tensor]], LastBlock]
Adjust = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Base:
    """A base method: its attention in the last block and what it keeps around it.

    CDAM's second pass puts the map in the place of ``attend`` and keeps everything else. The hooks run in the order
    ``see``, ``resize_positions``, ``run``, ``attend``, ``adjust``; without gradients and without autocast. B images of
    N = h * w patches; T = N + 1 tokens where the model has a CLS token, which is the first, and N where it has none.

    Raises:
        TypeError, ValueError: a field that is no such thing, by name, when it is made; what a hook returns that has
            another shape, dtype or device than the one here, by base and hook, when it is called.
    """

    name: str
    """Of which messages and figures speak."""
    attend: Attend
    """``attend(block, last, applied_to)``, once a pass of the base method: the last `Block`, its `LastBlock`, and what
    its attention is applied to, ``[B, heads, T, E]``: the values (E = width / heads), or an identity matrix (E = T).
    Returns ``[B, heads, N, E]`` in the same dtype: the patches alone."""
    keeps_residual: bool
    """Whether the attention's output is added to ``last.residual``."""
    keeps_mlp: bool
    """Whether the last block's MLP follows, with its own residual."""
    resize_positions: ResizePositions = by_scale_factor
    """``resize_positions(positions, grid)``, for pixels of another size than the model's own: the trained position
    embedding ``[1, width, g_h, g_w]`` to ``[1, width, h, w]``."""
    see: See | None = None
    """``see(pixels)``, first: the pixels ``[B, 3, H, W]`` as the model gets them, normalised, to a floating tensor
    ``[B, ...]`` that is ``last.seen`` from then on: the features of another encoder, say."""
    run: Run = last_block
    """``run(tower, tokens, grid, seen)``: from the tokens ``[B, T, width]`` before the first block to the `LastBlock`
    at the last. `last_block` runs the blocks unchanged."""
    adjust: Adjust | None = None
    """``adjust(similarity)``, after each pass: ``[B, Q, h, w]`` cosines of the patches with Q words to the same; in
    the first pass the augmented prompts are among the words, and it is what the map is made from."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"name: got {self.name!r}, takes a string that is not empty")
        for hook in ("attend", "resize_positions", "run"):
            if not callable(getattr(self, hook)):
                raise TypeError(f"{self._says(hook)}: got {getattr(self, hook)!r}, takes a callable")
        for hook in ("see", "adjust"):
            if getattr(self, hook) is not None and not callable(getattr(self, hook)):
                raise TypeError(f"{self._says(hook)}: got {getattr(self, hook)!r}, takes None or a callable")
        for flag in ("keeps_residual", "keeps_mlp"):
            if not isinstance(getattr(self, flag), bool):
                raise TypeError(f"{self._says(flag)}: got {getattr(self, flag)!r}, takes True or False")

    def prepare(self, tower: Tower, pixels: Tensor) -> LastBlock:
        """``[B, 3, H, W]`` checked pixels -> what both passes start from."""
        grid = tower.grid(pixels)
        seen = None if self.see is None else check_seen(self.see(pixels), self._says("see"), pixels)
        tokens = tower.embed(pixels, self._resized)
        return self._checked(self.run(tower, tokens, grid, seen), tokens, grid)

    def first_pass(self, tower: Tower, last: LastBlock) -> Tensor:
        """L2-normalised patch features of the base method, ``[B, N, D]``."""
        block = tower.blocks[-1]
        attended = self._attended(block, last, last.split_heads(block, last.values))
        return self.finish(tower, last, last.add_paths(join_heads(attended)))

    def attention(self, tower: Tower, last: LastBlock) -> Tensor:
        """The base method's own attention of patches to patches, mean over heads, ``[B, N, N]``; for looking at."""
        block = tower.blocks[-1]
        identity = torch.eye(last.values.shape[1], dtype=last.values.dtype, device=last.values.device)
        heads = block.heads * last.values.shape[-1] // last.residual.shape[-1]
        weights = self._attended(block, last, identity.expand(len(last.values), heads, -1, -1))
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

    def similarity(self, features: Tensor, text: Tensor, grid: Grid) -> Tensor:
        """Cosines of either pass's features ``[B, N, D]`` with words ``[Q, D]``, adjusted, ``[B, Q, h, w]``."""
        cosines = (text @ features.mT).reshape(len(features), len(text), *grid)
        if self.adjust is None:
            return cosines
        return check_tensor(self.adjust(cosines), self._says("adjust"), cosines.shape, "[B, Q, h, w]", cosines)

    def _says(self, hook: str) -> str:
        return f"base {self.name!r}, {hook}"

    def _resized(self, positions: Tensor, grid: Grid) -> Tensor:
        shape = (*positions.shape[:2], *grid)
        resized = self.resize_positions(positions, grid)
        return check_tensor(resized, self._says("resize_positions"), shape, "[1, width, h, w]", positions)

    def _attended(self, block: Block, last: LastBlock, applied_to: Tensor) -> Tensor:
        images, heads, _, size = applied_to.shape
        shape = (images, heads, last.residual.shape[1], size)
        attended = self.attend(block, last, applied_to)
        return check_tensor(attended, self._says("attend"), shape, "[B, heads, N, E]", applied_to)

    def _checked(self, last: object, tokens: Tensor, grid: Grid) -> LastBlock:
        owner = self._says("run")
        if not isinstance(last, LastBlock):
            raise TypeError(f"{owner}: got {type(last).__name__}, takes a LastBlock")
        if last.grid != grid or last.first_patch not in (0, 1):
            raise ValueError(
                f"{owner}: got grid {last.grid}, first_patch {last.first_patch}, takes grid {grid}, first_patch 0 or 1"
            )
        images, patches, width = len(tokens), grid[0] * grid[1], tokens.shape[-1]
        check_tensor(last.residual, f"{owner}, residual", (images, patches, width), "[B, N, width]", tokens)
        wide = last.values.shape[-1] if isinstance(last.values, Tensor) and last.values.dim() == 3 else width
        shape = (images, patches + last.first_patch, max(1, wide // width) * width)
        check_tensor(last.values, f"{owner}, values", shape, "[B, T, width]", tokens)
        check_tensor(last.tokens, f"{owner}, tokens", shape, "[B, T, width]", tokens)
        return last
