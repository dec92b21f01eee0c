"""ClearCLIP (Lan et al., 2024): query-query attention without residual and MLP."""

from __future__ import annotations

from torch import Tensor

from cdam_fast.compat import scaled_dot_product_attention
from cdam_fast.models.base import Base, LastBlock
from cdam_fast.models.blocks import Block


def _query_query(block: Block, last: LastBlock, applied_to: Tensor) -> Tensor:
    queries = block.split_heads(block.project(last.tokens, "q"))
    return scaled_dot_product_attention(queries[:, :, last.first_patch :], queries, applied_to)


CLEARCLIP = Base("clearclip", _query_query, keeps_residual=False, keeps_mlp=False)
"""Attention ``softmax(q q^T s)``, ``s = head_dim^-0.5``; the block's output is the attention's alone."""
