"""ProxyCLIP (Lan et al., 2024): attention by the features of another encoder, without residual and MLP."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cdam_fast.arguments import check_positive, working_dtype
from cdam_fast.models.base import Base, Grid, LastBlock, See
from cdam_fast.models.blocks import Block

NAME = "proxyclip"


def proxyclip(features: See, *, beta: float = 1.2, gamma: float = 3.0) -> Base:
    """ProxyCLIP's rule as a base: patches attend where another encoder finds them similar.

    Cosines S of the encoder's features of every two patches become ``A = softmax(gamma * (S - beta * mean(S)))``,
    the mean over all pairs of an image, with no weight where the difference is negative; A is the same for all heads
    and is applied to CLIP's values of the last block. A patch always keeps its own value, even where it is the mean.

    Args:
        features: from the pixels ``[B, 3, H, W]`` that CLIP gets, normalised for CLIP, to floating features
            ``[B, D, h', w']`` or, of as many patches as CLIP's and in their order, ``[B, N, D]``. Another grid is
            resized to CLIP's bilinearly, so that CDAM's map fits (the released code resizes CLIP's values instead).
        beta, gamma: the shift and the scale, the released code's for every encoder and data set.

    Raises:
        TypeError, ValueError: arguments that are no such things, by name; when it is called, features of another shape.
    """
    if features is None:
        raise TypeError("features: got None, takes a callable from pixels to features")
    shift, scale = check_positive("beta", beta), check_positive("gamma", gamma)

    def attend(block: Block, last: LastBlock, applied_to: Tensor) -> Tensor:
        assert last.seen is not None
        x = functional.normalize(_on_grid(last.seen, last.grid), dim=-1)
        similarity = x @ x.mT
        shifted = (similarity - shift * similarity.mean((1, 2), keepdim=True)) * scale
        return masked_softmax(shifted).to(applied_to.dtype).unsqueeze(1) @ applied_to[:, :, last.first_patch :]

    return Base(NAME, attend, keeps_residual=False, keeps_mlp=False, see=features)


def masked_softmax(shifted: Tensor) -> Tensor:
    """Softmax of each row of ``[B, N, N]`` over what is not negative, and over a patch itself."""
    itself = torch.eye(shifted.shape[-1], dtype=torch.bool, device=shifted.device)
    return torch.softmax(shifted.masked_fill((shifted < 0) & ~itself, -torch.inf), dim=-1)


def _on_grid(features: Tensor, grid: Grid) -> Tensor:
    """``[B, D, h', w']`` or ``[B, N, D]`` -> ``[B, N, D]``, float32 or float64."""
    x = features.to(working_dtype(features.dtype))
    if x.dim() == 4 and 0 not in x.shape:
        if x.shape[-2:] != grid:
            x = functional.interpolate(x, size=grid, mode="bilinear", align_corners=False)
        return x.flatten(2).mT
    if x.dim() == 3 and x.shape[1] == grid[0] * grid[1] and x.shape[2] > 0:
        return x
    raise ValueError(
        f"base {NAME!r}, see: got features of shape {tuple(features.shape)}, takes [B, D, h', w'] or [B, N, D] with "
        f"N = {grid[0] * grid[1]}, the patches of CLIP's grid {grid[0]}x{grid[1]}"
    )
