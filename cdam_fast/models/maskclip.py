"""MaskCLIP (Zhou et al., 2022): every patch keeps its own value; residual and MLP stay."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cdam_fast.models.base import Base, LastBlock


def _identity(block: Any, last: LastBlock, applied_to: Tensor) -> Tensor:
    return applied_to[:, :, 1:]


MASKCLIP = Base("maskclip", _identity, keeps_residual=True, keeps_mlp=True)
"""Attention I: ``out_proj(v)``."""
