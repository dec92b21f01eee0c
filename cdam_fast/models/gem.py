"""GEM (Bousselham et al., 2024): self-self attention on a path beside the last six blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from cdam_fast.compat import scaled_dot_product_attention
from cdam_fast.models.base import Base, Grid, LastBlock
from cdam_fast.models.blocks import Block, join_heads
from cdam_fast.models.positions import by_size
from cdam_fast.models.tower import Tower

DEPTH = 6
"""Blocks with a second path; all of them in a shallower model."""


def _self_self(block: Block, tokens: Tensor, projections: Sequence[Tensor], applied_to: Tensor) -> Tensor:
    """Mean of q-q, k-k and v-v attention, each after one iteration on itself, ``[B, heads, L, E]``.

    ``projections``: query, key and value of the tokens, ``[B, L, width]`` each. Every softmax is over cosines times
    the image's mean token norm over ``sqrt(head_dim)``.
    """
    head_size = tokens.shape[-1] // block.heads
    rate = tokens.norm(dim=-1).mean(-1)[:, None, None, None] * head_size**-0.5
    attended = []
    for projected in projections:
        x = functional.normalize(block.split_heads(projected), dim=-1)
        x = scaled_dot_product_attention(x * rate, x, x, scale=1.0)
        x = functional.normalize(x, dim=-1)
        attended.append(scaled_dot_product_attention(x * rate, x, applied_to, scale=1.0))
    return (attended[0] + attended[1] + attended[2]) / 3


def _attend(block: Block, last: LastBlock, applied_to: Tensor) -> Tensor:
    projections = [block.project(last.tokens, "q"), block.project(last.tokens, "k"), last.values]
    return _self_self(block, last.tokens, projections, applied_to)[:, :, last.first_patch :]


def _two_paths(tower: Tower, x: Tensor, grid: Grid, seen: Tensor | None) -> LastBlock:
    first = max(0, len(tower.blocks) - DEPTH)
    for block in tower.blocks[:first]:
        x = block.run(x)
    parallel = x
    for block in tower.blocks[first:-1]:
        tokens = block.normalise(x)
        projections = [block.project(tokens, part) for part in "qkv"]
        queries, keys, values = (block.split_heads(projected) for projected in projections)
        attended = _self_self(block, tokens, projections, values)
        parallel = parallel + block.output(join_heads(attended))
        attended = scaled_dot_product_attention(queries, keys, values)
        x = block.add_mlp(x + block.output(join_heads(attended)))
    block = tower.blocks[-1]
    tokens, first_patch = block.normalise(x), int(tower.has_cls)
    return LastBlock(tokens, block.project(tokens, "v"), parallel[:, first_patch:], grid, first_patch, seen)


GEM = Base("gem", _attend, keeps_residual=True, keeps_mlp=False, resize_positions=by_size, run=_two_paths)
"""The second path starts as a copy of the first and adds up the self-self attention of each block's tokens, which
are the first path's; it has no MLP. CDAM's second pass is on that path: its input of the last block, plus the map
applied to the values of the last block's tokens, no MLP."""
