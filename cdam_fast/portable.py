"""CDAM's attention map in plain PyTorch on any device, without an N x N x C tensor.

The stages carry the names of `cdam_fast.reference`; the work behind `pairwise_divergence` is in
`cdam_fast.divergence`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from cdam_fast.arguments import MapOptions
from cdam_fast.constants import EPSILON, FLATNESS, metric_terms, scaled_grid
from cdam_fast.divergence import pairwise_divergence
from cdam_fast.jensen_shannon import FINE_TRUNCATION, NEGLIGIBLE_RANGE
from cdam_fast.opaque import operator
from cdam_fast.tracing import as_batch, is_compiling, is_differentiated, is_traced, refuse_jit

__all__ = ["cdam_attention", "distributions", "normalise", "pairwise_divergence", "resize"]

_BLOCK = 1 << 20  # elements of a block of rows: 4 MB, so that a stage's temporaries stay in the last-level cache

LEAST_SHARE = 0.3
"""Of a row's largest divergence: a scale with a row of smaller range goes in float64. CLIP-like rows have 0.4."""

MANY_CLASSES = 64
LEAST_LOGIT = -4.0
"""Class distributions are float32 from so many classes, while the least logit lies so near the largest: CLIP's."""

MOST_LOGIT = 10.0
"""Of the softmax over patches, in float32."""

LEAST_REACH = 4e-3
"""As much, of the largest probability: error x sqrt(range) was 1.8e-7 with 2 classes, 1e-7 with 5, 2.5e-9 with 161."""


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


class _Rows(NamedTuple):
    """A divergence whose rows are to be normalised, with their extremes."""

    pairs: Tensor
    """``[B, rows, columns]``"""
    low: Tensor
    high: Tensor
    """``[B, rows, 1]``"""
    flat: Tensor | None
    """``[B, rows, 1]``: whether rounding is all that a row holds; None where no row is flat."""

    def block(self, start: int, stop: int) -> _Rows:
        """Some of the rows."""
        return _Rows(*(None if part is None else part[:, start:stop] for part in self))  # type: ignore[arg-type]


def normalise(rows: _Rows, attention_temperature: float, minmax: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
    """Row min-max of ``1 - D``, row softmax (Eq. 2), row min-max, as two factors of the attention map.

    The softmax does not see a row's constant, so ``1 - D`` and its shift never round away the few digits of D.
    The second factor is ``[B, rows, 1]``: whoever adds maps up multiplies it in on the way. Flat rows are constant.
    """
    divergence, low, high, flat = rows
    reach = high - low
    span = reach + EPSILON if minmax[0] else torch.ones_like(low)
    rates = 1 / (attention_temperature * span)
    if flat is not None:
        rates = rates.masked_fill(flat, 0)
    if minmax == (False, True):
        # e^-u - e^-U with U the row's range: nearly flat rows, unstretched, would cancel in the softmax
        exponential = torch.exp((divergence - low) * -rates)
        shifted = -exponential * torch.expm1((divergence - high) * rates)
        contrast = -torch.expm1(-reach * rates)
        return shifted, 1 / (contrast + EPSILON * exponential.sum(-1, keepdim=True))
    softmax = torch.softmax(divergence * -rates, dim=-1)
    if not minmax[1]:
        return softmax, torch.ones_like(rates)
    most = softmax.amax(-1, keepdim=True)
    least = most * torch.exp(-reach * rates)
    shifted = softmax - least if is_differentiated(softmax) else softmax.sub_(least)
    return shifted, 1 / (most - least + EPSILON)


def flat_rows(rows: _Rows, terms: float) -> Tensor:
    """Whether rounding is all that a row holds, ``[B, rows, 1]``; see `cdam_fast.constants.FLATNESS`."""
    resolution = torch.finfo(rows.low.dtype).eps * (terms + FLATNESS * rows.high)
    return (rows.high - rows.low <= resolution) & rows.high.isfinite()


def _is_resolved(rows: _Rows, p: Tensor, terms: float, options: MapOptions) -> bool:
    """Whether float32 holds every row's range to what a map is held to; no row is flat then.

    A divergence is off by its own rounding, and by about ``1e-7 sqrt(JS p)`` for that of a float32 p.
    """
    reach = rows.high - rows.low
    least = p.amax() * LEAST_REACH if p.dtype == torch.float32 else 100 * torch.finfo(reach.dtype).eps * terms
    coarse = (reach < least) | (reach < rows.high * LEAST_SHARE)
    if not options.minmax[0]:  # the softmax then sees the divergence itself
        coarse = coarse | (rows.high > MOST_LOGIT * options.attention_temperature)
    return not bool(coarse.any())


def add_attention(total: Tensor, rows: _Rows, options: MapOptions) -> None:
    """Add one scale's share of the mean attention map to total, a block of rows at a time."""
    count, share = total.shape[-2], 1 / len(options.scales)
    whole = is_compiling() or total.numel() <= _BLOCK
    step = count if whole else max(1, _BLOCK // (total.shape[0] * total.shape[-1]))
    for start in (0,) if whole else range(0, count, step):
        block = rows if whole else rows.block(start, start + step)
        shifted, gain = normalise(block, options.attention_temperature, options.minmax)
        place = total if whole else total[:, start : start + step]
        factors = shifted.to(total.dtype), gain.to(total.dtype)
        if is_traced(shifted):  # torch.vmap has no rule for the other
            place.add_(factors[0] * factors[1], alpha=share)
        else:
            place.addcmul_(*factors, value=share)


def _logits(similarity: Tensor, options: MapOptions) -> Tensor:
    """The similarity over the temperature; in the paper's order, its softmax over classes."""
    # a softmax over classes does not see a patch's constant, resized or not; without it, large logits keep their digits
    logits = (similarity - similarity.amax(-3, keepdim=True).detach()) / options.temperature
    return torch.softmax(logits, dim=-3) if options.order == "paper" else logits


def _needs_float64(logits: Tensor, metric: str, *, traced: bool) -> bool:
    """Whether float32 distributions are too far off: a resize is, by the ulp of an index times a step of the logits.

    KL and Wasserstein are of first order in it, JS of second; many classes average it, logits far apart enlarge it.
    """
    if metric != "js" or logits.shape[-3] < MANY_CLASSES:
        return True
    return not traced and logits.numel() > 0 and float(logits.detach().amin()) < LEAST_LOGIT


def rows_at(
    logits: Tensor, scale: float, options: MapOptions, divergence: Callable[..., Tensor], dtype: torch.dtype
) -> tuple[_Rows, Tensor]:
    """The divergence at one scale as it is to be normalised, and the class distributions that it is of."""
    height, width = logits.shape[-2:]
    p = distributions(logits, scale, options.order)
    if options.metric == "js":
        p = p.to(dtype)
    pairs = divergence(p, metric=options.metric).to(dtype)
    if options.order == "official" and scale != 1:
        grid = scaled_grid(height, width, scale)
        pairs = resize(pairs, grid, height, width, symmetric=options.metric != "kl")
    return _Rows(pairs, pairs.amin(-1, keepdim=True), pairs.amax(-1, keepdim=True), None), p


def _exact_rows(logits: Tensor, scale: float, options: MapOptions, divergence: Callable[..., Tensor]) -> _Rows:
    """As `rows_at`, in float64; by the definition where a row needs more than fine features give."""
    rows, _ = rows_at(logits, scale, options, partial(divergence, fine=True), torch.float64)
    reach = rows.high - rows.low
    if bool((reach < 1e6 * FINE_TRUNCATION * (rows.high.amax() + NEGLIGIBLE_RANGE)).any()):
        rows, _ = rows_at(logits, scale, options, divergence, torch.float64)
    return rows


def map_logits(similarity: Tensor, options: MapOptions, *, traced: bool) -> Tensor:
    """`_logits`, in float64 where float32 distributions would be too far off."""
    logits = _logits(similarity, options)
    if _needs_float64(logits, options.metric, traced=traced):
        return _logits(similarity.double(), options)
    return logits


def judged_rows(
    similarity: Tensor, logits: Tensor, scale: float, options: MapOptions, divergence: Callable[..., Tensor]
) -> tuple[_Rows, bool]:
    """The divergence at one scale in what holds it, and whether that is float32."""
    terms = metric_terms(options.metric, similarity.shape[-3])
    rows, p = rows_at(logits, scale, options, divergence, torch.float32)
    if _is_resolved(rows, p, terms, options):
        return rows, True
    rows = _exact_rows(_logits(similarity.double(), options), scale, options, divergence)
    return rows._replace(flat=flat_rows(rows, terms)), False


def _add_resized(total: Tensor, rows: _Rows, scale: float, size: tuple[int, int], options: MapOptions) -> None:
    """As `add_attention`, for the paper's order at a reduced scale: the attention map itself is resized."""
    shifted, gain = normalise(rows, options.attention_temperature, options.minmax)
    resized = resize(shifted * gain, scaled_grid(*size, scale), *size, symmetric=False)
    total.add_(resized.to(total.dtype), alpha=1 / len(options.scales))


def _attention_of_images(
    similarity: Tensor, options: MapOptions, divergence: Callable[..., Tensor], *, traced: bool
) -> Tensor:
    """``[B, C, h, w] -> [B, N, N]``: the mean over scales; where traced, no value chooses what is computed."""
    height, width = similarity.shape[-2:]
    logits = map_logits(similarity, options, traced=traced)
    total = similarity.new_zeros(similarity.shape[0], height * width, height * width)
    judged = total.dtype == torch.float32 and divergence is pairwise_divergence and not traced and len(total) > 0
    terms = metric_terms(options.metric, similarity.shape[-3])
    for scale in options.scales:
        if judged:
            rows, _ = judged_rows(similarity, logits, scale, options, divergence)
        else:
            rows, _ = rows_at(logits, scale, options, divergence, total.dtype)
            rows = _Rows(rows.pairs, rows.low, rows.high, flat_rows(rows, terms))
        if options.order == "official" or scale == 1:
            add_attention(total, rows, options)
        else:
            _add_resized(total, rows, scale, (height, width), options)
    return total


def parts(images: Tensor) -> Sequence[Tensor]:
    """What is computed at once: one image's maps fit a CPU's cache, a batch's do not."""
    return (images,) if images.device.type != "cpu" or images.shape[0] < 2 else torch.split(images, 1)


def _compute_map(
    images: Tensor,
    scales: Sequence[float],
    temperature: float,
    attention_temperature: float,
    metric: str,
    order: str,
    minmax_before: bool,
    minmax_after: bool,
    divergence: Callable[..., Tensor] = pairwise_divergence,
) -> Tensor:
    """``[B, C, h, w] -> [B, N, N]``."""
    minmax = (minmax_before, minmax_after)
    options = MapOptions(tuple(scales), temperature, attention_temperature, metric, order, minmax)
    each = [_attention_of_images(part, options, divergence, traced=False) for part in parts(images)]
    return each[0] if len(each) == 1 else torch.cat(each)


def _fake_map(images: Tensor, *options: Any) -> Tensor:
    batch, _, height, width = images.shape
    return images.new_empty(batch, height * width, height * width)


_map = operator(
    "portable_map",
    "(Tensor images, float[] scales, float temperature, float attention_temperature, str metric, str order, "
    "bool minmax_before, bool minmax_after) -> Tensor",
    _compute_map,
    _fake_map,
)


def cdam_attention(
    similarity: Tensor, options: MapOptions, divergence: Callable[..., Tensor] = pairwise_divergence
) -> Tensor:
    """``[..., C, h, w]`` in the working dtype -> ``[..., N, N]`` (Eq. 3).

    ``divergence`` is `pairwise_divergence` or the same from elsewhere. A tracer sees one operator, so that values still
    choose what is computed; with gradients it sees every stage, in float64, where they need not.

    Raises:
        RuntimeError: torch.jit.trace with gradients, which would keep the patch grid of its example.
    """
    images = as_batch(similarity, 3)
    scales, temperature, attention_temperature, metric, order, (before, after) = options  # torch 2.6 traces no slice
    plain = (scales, temperature, attention_temperature, metric, order, before, after)
    if not is_traced(similarity):
        maps = _compute_map(images, *plain, divergence)
    elif not is_differentiated(similarity):
        maps = _map(images, *plain)
    else:
        refuse_jit("gradients")
        if divergence is pairwise_divergence:
            exact = partial(pairwise_divergence, fine=images.dtype != torch.float64)
            maps = _attention_of_images(images.double(), options, exact, traced=True).to(images.dtype)
        else:
            maps = _attention_of_images(images, options, divergence, traced=True)
    return maps.reshape(*similarity.shape[:-3], *maps.shape[1:])
