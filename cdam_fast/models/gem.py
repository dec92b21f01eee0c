"""GEM (Bousselham et al., 2024): self-self attention on a path beside the last six blocks."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from cdam_fast.models.base import Base, LastBlock
from cdam_fast.models.positions import by_size
from cdam_fast.models.tower import (
    Tower,
    add_mlp,
    attention_output,
    join_heads,
    project,
    run_block,
    split_heads,
)

DEPTH = 6
"""Blocks with a second path; all of them in a shallower model."""


def _self_self(block: Any, tokens: Tensor, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Mean of q-q, k-k and v-v attention, each after one iteration on itself, ``[B, L, width]``.

    Projections of the tokens, each ``[B, L, width]``. Every softmax is over cosines times the image's mean token
    norm over ``sqrt(head_dim)``.
    """
    value_heads = split_heads(block, values)
    rate = tokens.norm(dim=-1).mean(-1)[:, None, None, None] * value_heads.shape[-1] ** -0.5
    attended = []
    for projected in (queries, keys, values):
        x = functional.normalize(split_heads(block, projected), dim=-1)
        x = functional.scaled_dot_product_attention(x * rate, x, x, scale=1.0)
        x = functional.normalize(x, dim=-1)
        attended.append(functional.scaled_dot_product_attention(x * rate, x, value_heads, scale=1.0))
    return join_heads((attended[0] + attended[1] + attended[2]) / 3)


def _attend(block: Any, last: LastBlock) -> Tensor:
    queries, keys = (project(block, last.tokens, part) for part in "qk")
    return _self_self(block, last.tokens, queries, keys, last.values)[:, 1:]


def _two_paths(tower: Tower, x: Tensor) -> LastBlock:
    first = max(0, len(tower.blocks) - DEPTH)
    for block in tower.blocks[:first]:
        x = run_block(block, x)
    parallel = x
    for block in tower.blocks[first:-1]:
        tokens = block.ln_1(x)
        queries, keys, values = (project(block, tokens, part) for part in "qkv")
        parallel = parallel + attention_output(block, _self_self(block, tokens, queries, keys, values))
        heads = [split_heads(block, projected) for projected in (queries, keys, values)]
        attended = join_heads(functional.scaled_dot_product_attention(heads[0], heads[1], heads[2]))
        x = add_mlp(block, x + attention_output(block, attended))
    block = tower.blocks[-1]
    tokens = block.ln_1(x)
    return LastBlock(tokens, project(block, tokens, "v"), parallel[:, 1:])


GEM = Base("gem", _attend, keeps_residual=True, keeps_mlp=False, resize_positions=by_size, run=_two_paths)
"""The second path starts as a copy of the first and adds up the self-self attention of each block's tokens, which
are the first path's; it has no MLP. CDAM's second pass is on that path: its input of the last block, plus the map
applied to the values of the last block's tokens, no MLP."""
