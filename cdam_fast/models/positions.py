"""Position embeddings at another resolution: each base method's own rule, which differ visibly."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def by_scale_factor(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bicubic, sampled with the scale ``(n + 0.1) / g``: the CDAM, SCLIP and ClearCLIP code.

    ``[1, width, g_h, g_w] -> [1, width, h, w]``. The 0.1 keeps the size from rounding down, and moves every sample.
    """
    scales = [(n + 0.1) / trained for n, trained in zip(grid, positions.shape[-2:])]
    return functional.interpolate(positions, scale_factor=scales, mode="bicubic")


def by_size(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bicubic to the size, antialiased: GEM. ``[1, width, g_h, g_w] -> [1, width, h, w]``."""
    return functional.interpolate(positions, size=grid, mode="bicubic", antialias=True)
