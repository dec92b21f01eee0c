"""MaskCLIP (Zhou et al., 2022): every patch keeps its own value; residual and MLP stay."""

from __future__ import annotations

from torch import Tensor

from cdam_fast.models.base import Base, LastBlock
from cdam_fast.models.blocks import Block


def _identity(block: Block, last: LastBlock, applied_to: Tensor) -> Tensor:
    return applied_to[:, :, last.first_patch :]


MASKCLIP = Base("maskclip", _identity, keeps_residual=True, keeps_mlp=True)
"""Attention I: ``out_proj(v)``."""
