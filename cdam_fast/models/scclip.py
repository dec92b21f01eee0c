"""SC-CLIP (Bai et al., 2024): CLIP calibrated by its own intermediate features; no residual of patches, no MLP."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cdam_fast.arguments import working_dtype
from cdam_fast.compat import scaled_dot_product_attention
from cdam_fast.models.base import Base, Grid, LastBlock
from cdam_fast.models.blocks import Block
from cdam_fast.models.proxy import masked_softmax
from cdam_fast.models.tower import Tower

NEIGHBOURS = 30
"""Of the local outlier factor; an image of so few patches has no anomalies."""
NORMAL = 0.95
"""Share of the patches that are no anomalies."""
THRESHOLD = 0.4
"""Cosine from which patches are aggregated."""
SCALE = 3.0
"""Of the cosines, less their mean, in the softmax."""
CLS_SHARE = 0.3
"""Of the CLS token in a patch's feature."""

MIDDLE, EARLY = 9, 4
"""Blocks of twelve after which features are compared: for the attention and before it, and after it."""
FUSED = (4, 10)
"""The first and last block of twelve whose outputs are added up for the second path."""


def _place(block_of_twelve: int, depth: int) -> int:
    """That block's number in a model of this depth, from 1; never the last block, 0 before the only one."""
    return min(round(block_of_twelve * depth / 12), depth - 1)


def _calibrated(tower: Tower, x: Tensor, grid: Grid, seen: Tensor | None) -> LastBlock:
    if not tower.has_cls:
        raise ValueError("base: got 'scclip' for a model without a CLS token, takes one that has it")
    depth = len(tower.blocks)
    first, last = (_place(number, depth) for number in FUSED)
    kept: dict[int, Tensor] = {}
    fused = torch.zeros_like(x)
    for number in range(depth):
        if number > 0:
            x = tower.blocks[number - 1].run(x)
        if number in (_place(MIDDLE, depth), _place(EARLY, depth)):
            kept[number] = x[:, 1:]
        if first <= number <= last:
            fused = fused + x

    work = working_dtype(x.dtype)
    anomalies = _anomalies(x[:, 1:].to(work))
    middle = _cosines(_mend(kept[_place(MIDDLE, depth)].to(work), anomalies, grid))
    patches = _aggregation(middle) @ _mend(x[:, 1:].to(work), anomalies, grid)
    block = tower.blocks[-1]
    paths = [block.normalise(path) for path in (patches.to(x.dtype), fused[:, 1:])]
    values = [block.project(tokens, "v") for tokens in paths]
    # each path has the bias of the output projection, and what is added up before the projection gets it once
    second_bias = block.output(torch.zeros_like(values[0][:, :1]))
    residual = (CLS_SHARE * (x[:, :1] + fused[:, :1]) + second_bias).expand_as(values[0])
    matrices = torch.stack((middle, _cosines(kept[_place(EARLY, depth)].to(work))), 1)
    return LastBlock(torch.cat(paths, -1), torch.cat(values, -1), residual, grid, 0, matrices)


def _attend(block: Block, last: LastBlock, applied_to: Tensor) -> Tensor:
    assert last.seen is not None
    middle, early = last.seen.unbind(1)
    shared = masked_softmax((middle - middle.mean((1, 2), keepdim=True)) * SCALE).to(applied_to.dtype).unsqueeze(1)
    attended = []
    for tokens, one in zip(last.tokens.chunk(2, -1), applied_to.chunk(2, 1)):
        keys = block.split_heads(block.project(tokens, "k"))
        attended.append((scaled_dot_product_attention(keys, keys, one) + shared @ one) / 2)
    return _aggregation(early).to(applied_to.dtype).unsqueeze(1) @ torch.cat(attended, 1)


def _cosines(patches: Tensor) -> Tensor:
    x = functional.normalize(patches, dim=-1)
    return x @ x.mT


def _aggregation(cosines: Tensor) -> Tensor:
    """``[B, N, N]``, rows that sum to 1: cosines from the threshold on."""
    kept = cosines.masked_fill(cosines < THRESHOLD, 0)
    return kept / kept.sum(-1, keepdim=True)


def _anomalies(patches: Tensor) -> Tensor:
    """Patches whose local outlier factor is among the largest, ``[B, N, width] -> [B, N]``.

    As the released code has it: of squared distances, and with a patch's own distance to its furthest neighbour in the
    place of the neighbour's, so that the factor is the mean ratio of that distance to the neighbours'.
    """
    if patches.shape[1] <= NEIGHBOURS + 1:  # with all others as neighbours the two furthest apart always tie
        return torch.zeros(patches.shape[:2], dtype=torch.bool, device=patches.device)
    distances, nearest = torch.topk(torch.cdist(patches, patches) ** 2, NEIGHBOURS + 1, largest=False)
    reach = distances[..., -1]
    of_neighbours = reach.gather(1, nearest[..., 1:].flatten(1)).reshape(*reach.shape, NEIGHBOURS)
    factor = (reach.unsqueeze(-1) / of_neighbours).mean(-1)
    return factor > torch.quantile(factor, NORMAL, dim=1, keepdim=True)


def _mend(patches: Tensor, anomalies: Tensor, grid: Grid) -> Tensor:
    """Each anomaly as the mean of those of its 8 neighbours in the grid that are none, where there is any."""
    images = patches.mT.reshape(len(patches), -1, *grid)
    broken = anomalies.reshape(len(patches), 1, *grid)
    normal = (~broken).to(images.dtype)
    total, count = (functional.avg_pool2d(part, 3, stride=1, padding=1) for part in (images * normal, normal))
    mended = torch.where(broken & (count > 0), total / count, images)
    return mended.flatten(2).mT


SCCLIP = Base("scclip", _attend, keeps_residual=True, keeps_mlp=False, run=_calibrated)
"""Two paths whose outputs are added up: the last block's input, its anomalies mended and similar patches aggregated,
and the sum of the outputs of blocks 4 to 10. A path's attention is ``(softmax(3(M - mean M)) + softmax(k k^T s)) / 2``,
M the cosines of patches after block 9, and then the aggregation of patches that are similar after block 4. Of the
residual 0.3 of the CLS token is left. CDAM's second pass puts the map in the place of attention and aggregation."""
