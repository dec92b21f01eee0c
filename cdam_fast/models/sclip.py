"""SCLIP (Wang et al., 2023): correlative self-attention; residual and MLP stay."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cdam_fast.compat import scaled_dot_product_attention
from cdam_fast.models.base import Base, LastBlock
from cdam_fast.models.tower import project, split_heads


def _query_query_and_key_key(block: Any, last: LastBlock, applied_to: Tensor) -> Tensor:
    attended = []
    for part in "qk":
        x = split_heads(block, project(block, last.tokens, part))
        attended.append(scaled_dot_product_attention(x[:, :, 1:], x, applied_to))
    return attended[0] + attended[1]


SCLIP = Base("sclip", _query_query_and_key_key, keeps_residual=True, keeps_mlp=True)
"""Attention ``softmax(q q^T s) + softmax(k k^T s)``, ``s = head_dim^-0.5``; its rows sum to 2."""
