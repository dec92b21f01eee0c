"""NACLIP (Hajimiri et al., 2025): key-key attention that favours a patch's neighbours, without residual and MLP."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cdam_fast.compat import scaled_dot_product_attention
from cdam_fast.models.base import Base, LastBlock
from cdam_fast.models.blocks import Block

DEVIATION = 5.0
"""Standard deviation of the Gaussian, in patches."""


def _neighbours(rows: int, columns: int, like: Tensor) -> Tensor:
    """``exp(-d^2 / (2 * DEVIATION^2))`` of every two patches at distance d in the grid, ``[N, N]``: 1 for itself."""
    along = []
    for side in (rows, columns):
        place = torch.arange(side, dtype=torch.float64, device="cpu")
        along.append(torch.exp(-((place[:, None] - place) ** 2) / (2 * DEVIATION**2)))
    return torch.kron(*along).to(like)


def _key_key_and_neighbours(block: Block, last: LastBlock, applied_to: Tensor) -> Tensor:
    keys = block.split_heads(block.project(last.tokens, "k"))
    bias = functional.pad(_neighbours(*last.grid, keys), (last.first_patch, 0))  # none for the CLS token
    return scaled_dot_product_attention(keys[:, :, last.first_patch :], keys, applied_to, bias=bias)


NACLIP = Base("naclip", _key_key_and_neighbours, keeps_residual=False, keeps_mlp=False)
"""Attention ``softmax(k k^T s + G)``, ``s = head_dim^-0.5``, G a Gaussian of the distance between two patches; the
block's output is the attention's alone, which the paper calls a reduced block."""
