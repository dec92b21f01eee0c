"""CDAM's attention map in plain PyTorch on any device, without an N x N x C tensor.

The stages carry the names of `cdam_fast.reference`; the work behind `pairwise_divergence` is in
`cdam_fast.divergence`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from cdam_fast import compat
from cdam_fast.arguments import MapOptions
from cdam_fast.constants import EPSILON, scaled_grid
from cdam_fast.divergence import pairwise_divergence

__all__ = ["cdam_attention", "distributions", "normalise", "pairwise_divergence", "resize"]

_BLOCK = 1 << 20  # elements of a block of rows: 4 MB, so that a stage's temporaries stay in the last-level cache


def _resize_grid(grid: Tensor, height: int, width: int) -> Tensor:
    """``[B, C, h, w] -> [B, C, height, width]``, bilinear."""
    return functional.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False)


def distributions(logits: Tensor, scale: float, order: str) -> Tensor:
    """Class distributions of the patches at one scale, ``[B, C, h, w] -> [B, N_s, C]`` (class-major in memory).

    ``logits`` is the similarity over the temperature; in the paper's order, its softmax over classes.
    """
    scaled = logits if scale == 1 else _resize_grid(logits, *scaled_grid(logits.shape[-2], logits.shape[-1], scale))
    return (torch.softmax(scaled, dim=-3) if order == "official" else scaled).flatten(-2).mT


def _resize_rows(pairs: Tensor, grid: tuple[int, int], height: int, width: int) -> Tensor:
    """``[B, N_s, M] -> [B, N, M]``. The columns go as channels, last in memory: 5 times faster than as images."""
    channels_last = pairs.reshape(-1, *grid, pairs.shape[-1]).permute(0, 3, 1, 2)
    return _resize_grid(channels_last, height, width).permute(0, 2, 3, 1).flatten(1, 2)


def resize(pairs: Tensor, grid: tuple[int, int], height: int, width: int, *, symmetric: bool) -> Tensor:
    """Resize both patch axes of ``[B, N_s, N_s]`` over ``grid`` to ``[B, N, N]`` over height x width."""
    columns = pairs if symmetric else pairs.mT.contiguous()
    resized = _resize_rows(columns, grid, height, width).mT.contiguous()
    return _resize_rows(resized, grid, height, width)


def normalise(divergence: Tensor, attention_temperature: float, minmax: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
    """Row min-max of ``1 - D``, row softmax (Eq. 2), row min-max, as two factors of the attention map.

    The softmax does not see a row's constant, so ``1 - D`` and its shift never round away the few digits of D.
    The second factor is ``[B, rows, 1]``: whoever adds maps up multiplies it in on the way.
    """
    low, high = divergence.amin(-1, keepdim=True), divergence.amax(-1, keepdim=True)
    if minmax == (False, True):
        # e^-u - e^-U with U the row's range: nearly flat rows, unstretched, would cancel in the softmax
        rate = 1 / attention_temperature
        above, below = (divergence - low) * -rate, (divergence - high) * rate
        exponential = torch.exp(above)
        shifted = -exponential * torch.expm1(below)
        contrast = -torch.expm1((low - high) * rate)
        return shifted, 1 / (contrast + EPSILON * exponential.sum(-1, keepdim=True))
    span = high - low + EPSILON if minmax[0] else torch.ones_like(low)
    rates = 1 / (attention_temperature * span)
    softmax = torch.softmax(divergence * -rates, dim=-1)
    if not minmax[1]:
        return softmax, torch.ones_like(rates)
    most = softmax.amax(-1, keepdim=True)
    least = most * torch.exp((low - high) * rates)
    shifted = softmax - least if softmax.requires_grad else softmax.sub_(least)
    return shifted, 1 / (most - least + EPSILON)


def _add_attention(total: Tensor, divergence: Tensor, options: MapOptions) -> None:
    """Add one scale's share of the mean attention map to total, a block of rows at a time."""
    rows, share = total.shape[-2], 1 / len(options.scales)
    step = rows if compat.is_compiling() else max(1, _BLOCK // max(1, total.shape[0] * total.shape[-1]))
    for start in range(0, rows, step):
        block = divergence if step >= rows else divergence[:, start : start + step]
        shifted, gain = normalise(block, options.attention_temperature, options.minmax)
        total[:, start : start + step].addcmul_(shifted, gain, value=share)


def _attention_of_images(similarity: Tensor, options: MapOptions, divergence: Callable[..., Tensor]) -> Tensor:
    """``[B, C, h, w] -> [B, N, N]``: the mean over scales."""
    height, width = similarity.shape[-2:]
    symmetric = options.metric != "kl"
    # a softmax over classes does not see a patch's constant, resized or not; without it, large logits keep their digits
    logits = (similarity - similarity.amax(-3, keepdim=True).detach()) / options.temperature
    if options.metric != "js":  # of first order in a probability's rounding, where JS is of second order
        logits = logits.double()
    if options.order == "paper":
        logits = torch.softmax(logits, dim=-3)
    total = similarity.new_zeros(similarity.shape[0], height * width, height * width)
    for scale in options.scales:
        grid = scaled_grid(height, width, scale)
        pairs = divergence(distributions(logits, scale, options.order), metric=options.metric)
        pairs = pairs.to(similarity.dtype)
        if options.order == "official" or scale == 1:
            _add_attention(
                total, pairs if scale == 1 else resize(pairs, grid, height, width, symmetric=symmetric), options
            )
        else:
            shifted, gain = normalise(pairs, options.attention_temperature, options.minmax)
            resized = resize(shifted * gain, grid, height, width, symmetric=False)
            total.add_(resized, alpha=1 / len(options.scales))
    return total


def cdam_attention(
    similarity: Tensor, options: MapOptions, divergence: Callable[..., Tensor] = pairwise_divergence
) -> Tensor:
    """``[..., C, h, w]`` in the working dtype -> ``[..., N, N]`` (Eq. 3).

    ``divergence`` is `pairwise_divergence` or the same from elsewhere.
    """
    batch = similarity.shape[:-3]
    images = similarity.reshape(batch.numel(), *similarity.shape[-3:])
    if similarity.device.type != "cpu" or compat.is_compiling() or images.shape[0] < 2:
        maps = _attention_of_images(images, options, divergence)
    else:  # one image's maps fit a CPU's cache, a batch's do not
        maps = torch.cat([_attention_of_images(image, options, divergence) for image in torch.split(images, 1)])
    return maps.reshape(*batch, *maps.shape[1:])
