"""Some rows of the float64 map, for sizes at which the whole of it takes too long."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from cdam_fast import reference
from cdam_fast.arguments import check_similarity, working_similarity
from cdam_fast.constants import ATTENTION_TEMPERATURE, SCALES, TEMPERATURE, metric_terms, scaled_grid

_BLOCK_ELEMENTS = 1 << 22


def exact_rows(similarity: Tensor, rows: Tensor, *, scales: Sequence[float] = SCALES) -> Tensor:
    """The chosen rows of `cdam_fast.testing.oracle`, from no more rows of the divergence than they are made of.

    Args:
        similarity: ``[B, C, h, w]``, any floating dtype.
        rows: ``[R]``, int64, below ``h * w``; the same of every image.
        scales: as of `cdam_fast.cdam_attention`; the other options are the defaults.

    Returns:
        ``[B, R, N]``, float64, on the similarity's device.
    """
    work = working_similarity(check_similarity(similarity).detach().double())
    height, width = work.shape[-2:]
    total = work.new_zeros(work.shape[0], len(rows), height * width)
    for scale in scales:
        grid = scaled_grid(height, width, scale)
        p = reference.distributions(work, scale, TEMPERATURE, "official")
        if scale == 1:
            pairs = _divergence(p[:, rows], p)
        else:
            weights = _row_weights(grid, height, width, rows).to(p)
            needed = weights.any(0).nonzero().squeeze(1)
            pairs = weights[:, needed] @ _divergence(p[:, needed], p)
            images = pairs.reshape(*pairs.shape[:2], *grid)
            pairs = functional.interpolate(images, size=(height, width), mode="bilinear").flatten(-2)
        flat = reference.flat_rows(pairs, metric_terms("js", p.shape[-1]))
        pairs = torch.where(flat, pairs.amin(-1, keepdim=True), pairs)
        total += reference.normalise(pairs, ATTENTION_TEMPERATURE, (True, True))
    return total / len(scales)


def some_rows(patches: int, count: int) -> Tensor:
    """So many rows of a map, ``[R]`` int64: the first, the last, and others at random from a fixed seed."""
    order = torch.randperm(patches, generator=torch.Generator().manual_seed(0))[:count]
    return torch.cat((order[:-2], order.new_tensor([0, patches - 1]))).unique()  # type: ignore[no-any-return,no-untyped-call]


def _row_weights(grid: tuple[int, int], height: int, width: int, rows: Tensor) -> Tensor:
    """What a bilinear resize from grid makes the chosen rows of, ``[R, h_s * w_s]``."""
    down, across = (
        functional.interpolate(torch.eye(side, dtype=torch.float64)[None], size=size, mode="linear")[0].mT
        for side, size in zip(grid, (height, width))
    )
    return (down[rows // width, :, None] * across[rows % width, None, :]).flatten(1)


def _divergence(rows: Tensor, columns: Tensor) -> Tensor:
    step = max(1, _BLOCK_ELEMENTS // (columns.shape[0] * columns.shape[1] * columns.shape[2]))
    return torch.cat([reference.pairwise_divergence(block, columns) for block in torch.split(rows, step, -2)], -2)
