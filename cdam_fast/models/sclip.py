"""SCLIP (Wang et al., 2023): correlative self-attention; residual and MLP stay."""

from __future__ import annotations

from torch import Tensor

from cdam_fast.compat import scaled_dot_product_attention
from cdam_fast.models.base import Base, LastBlock
from cdam_fast.models.blocks import Block


def _query_query_and_key_key(block: Block, last: LastBlock, applied_to: Tensor) -> Tensor:
    attended = []
    for part in "qk":
        x = block.split_heads(block.project(last.tokens, part))
        attended.append(scaled_dot_product_attention(x[:, :, last.first_patch :], x, applied_to))
    return attended[0] + attended[1]


SCLIP = Base("sclip", _query_query_and_key_key, keeps_residual=True, keeps_mlp=True)
"""Attention ``softmax(q q^T s) + softmax(k k^T s)``, ``s = head_dim^-0.5``; its rows sum to 2."""
