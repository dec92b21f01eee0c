"""The one oracle: CDAM's attention map in eager PyTorch, one function a stage, in the order of the equations.

It builds the N x N x C tensors that the rest of the package exists to avoid. Run it in float64 to judge
anything else; run it in float32 to see what CDAM costs without this package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from cdam_fast import compat
from cdam_fast.arguments import (
    MapOptions,
    check_distributions,
    check_metric,
    check_options,
    check_out_dtype,
    check_similarity,
    check_values,
    working_dtype,
    working_similarity,
)
from cdam_fast.constants import ATTENTION_TEMPERATURE, EPSILON, FLATNESS, SCALES, TEMPERATURE, metric_terms, scaled_grid
from cdam_fast.tracing import refuse_jit


def _resize_grid(grid: Tensor, height: int, width: int) -> Tensor:
    """``[..., h, w] -> [..., height, width]``, bilinear, align_corners=False, no antialias."""
    flat = grid.reshape(1, -1, *grid.shape[-2:])
    resized = functional.interpolate(flat, size=(height, width), mode="bilinear", align_corners=False)
    return resized.reshape(*grid.shape[:-2], height, width)


def distributions(similarity: Tensor, scale: float, temperature: float, order: str) -> Tensor:
    """Class distributions of the patches at one scale, ``[..., C, h, w] -> [..., N_s, C]``.

    ``order="official"`` resizes the similarity and then takes the softmax over classes; ``"paper"`` resizes
    the probabilities (Dn of Eq. 3).
    """
    height, width = scaled_grid(similarity.shape[-2], similarity.shape[-1], scale)
    if order == "official":
        scaled = similarity if scale == 1 else _resize_grid(similarity, height, width)
        probabilities = torch.softmax(scaled / temperature, dim=-3)
    else:
        probabilities = torch.softmax(similarity / temperature, dim=-3)
        probabilities = probabilities if scale == 1 else _resize_grid(probabilities, height, width)
    return probabilities.flatten(-2).mT


def _js(p: Tensor, q: Tensor) -> Tensor:
    # 0 ln 0 is 0: the smallest normal number stands for 0, too small to be seen in any sum
    tiny = torch.finfo(p.dtype).tiny
    p, q = p.clamp_min(tiny), q.clamp_min(tiny)
    m = (p + q) / 2
    if p.dtype != torch.float64:
        return (p * torch.log(p / m)).sum(-1) / 2 + (q * torch.log(q / m)).sum(-1) / 2
    # the judge: p/m = 1 + u would round away what saturated distributions differ by
    u = (p - q) / (p + q)
    near = u.abs() <= 0.5
    u = u.clamp(-0.5, 0.5)
    log_p = torch.where(near, torch.log1p(u), torch.log(p / m))
    log_q = torch.where(near, torch.log1p(-u), torch.log(q / m))
    return (p * log_p + q * log_q).sum(-1) / 2


def _kl(p: Tensor, q: Tensor) -> Tensor:
    present = p != 0  # 0 ln(0/q) is 0 for every q; NaN counts as present and stays
    log_ratio = torch.log(torch.where(present, p, 1)) - torch.log(torch.where(present, q, 1))
    return (p * log_ratio).sum(-1)


def _wasserstein(p: Tensor, q: Tensor) -> Tensor:
    return (p.cumsum(-1) - q.cumsum(-1)).abs().sum(-1)


_DIVERGENCES = {"js": _js, "kl": _kl, "wasserstein": _wasserstein}


def pairwise_divergence(p: Tensor, q: Tensor | None = None, *, metric: str = "js") -> Tensor:
    """Divergence of every row of ``p [..., N, C]`` from every row of ``q [..., M, C]``, ``[..., N, M]``.

    As `cdam_fast.pairwise_divergence`, by the definition: ``js`` is half the sum of ``p ln(p/m)`` and
    ``q ln(q/m)`` with ``m = (p+q)/2``, ``kl`` the sum of ``p ln(p/q)``, ``wasserstein`` the sum of
    ``|CDF_p - CDF_q|`` (Table 8). Memory: several ``[..., N, M, C]`` tensors.
    """
    p, other = check_distributions(p, q)
    divergence = _DIVERGENCES[check_metric(metric)]
    dtype = working_dtype(p.dtype)
    first = p.to(dtype)
    second = first if other is None else other.to(dtype)
    return divergence(first.unsqueeze(-2), second.unsqueeze(-3)).to(p.dtype)


def resize(pairs: Tensor, grid: tuple[int, int], height: int, width: int) -> Tensor:
    """Resize both patch axes of ``[..., N_s, N_s]`` over ``grid`` to ``[..., N, N]`` over height x width."""
    columns = _resize_grid(pairs.reshape(*pairs.shape[:-1], *grid), height, width).flatten(-2)
    return _resize_grid(columns.mT.reshape(*columns.mT.shape[:-1], *grid), height, width).flatten(-2).mT


def flat_rows(divergence: Tensor, terms: float) -> Tensor:
    """Whether rounding is all that a row holds, ``[..., N, M] -> [..., N, 1]``; see `cdam_fast.constants.FLATNESS`."""
    low, high = divergence.amin(-1, keepdim=True), divergence.amax(-1, keepdim=True)
    return (high - low <= torch.finfo(low.dtype).eps * (terms + FLATNESS * high)) & high.isfinite()


def _row_minmax(attention: Tensor) -> Tensor:
    low = attention.amin(-1, keepdim=True)
    high = attention.amax(-1, keepdim=True)
    return (attention - low) / (high - low + EPSILON)


def normalise(divergence: Tensor, attention_temperature: float, minmax: tuple[bool, bool]) -> Tensor:
    """``1 - D``, row min-max, row softmax (Eq. 2), row min-max; each min-max can be switched off.

    Neither a min-max nor a softmax sees the 1, and adding it would round away the digits of a small float32 D.
    """
    attention = -divergence
    if minmax[0]:
        attention = _row_minmax(attention)
    attention = torch.softmax(attention / attention_temperature, dim=-1)
    return _row_minmax(attention) if minmax[1] else attention


def multi_scale_map(similarity: Tensor, options: MapOptions, divergence: Callable[..., Tensor]) -> Tensor:
    """The mean of the scales' attention maps (Eq. 3), ``[..., C, h, w] -> [..., N, N]``, in the similarity's dtype.

    KL and Wasserstein are of first order in the rounding of a probability, JS of second: they are taken in float64.

    ``divergence`` is `pairwise_divergence` or the same in blocks of rows, for what would not fit otherwise.
    """
    height, width = similarity.shape[-2:]
    if options.metric != "js":
        similarity = similarity.double()
    maps = []
    for scale in options.scales:
        grid = scaled_grid(height, width, scale)
        p = distributions(similarity, scale, options.temperature, options.order)
        pairs = divergence(p, metric=options.metric)
        if options.order == "official" and scale != 1:
            pairs = resize(pairs, grid, height, width)
        # a flat row is constant: 0 after a min-max, 1/N after the softmax
        flat = flat_rows(pairs, metric_terms(options.metric, p.shape[-1]))
        pairs = torch.where(flat, pairs.amin(-1, keepdim=True), pairs)
        attention = normalise(pairs, options.attention_temperature, options.minmax)
        if options.order == "paper" and scale != 1:
            attention = resize(attention, grid, height, width)
        maps.append(attention)
    return torch.stack(maps).mean(0)


def attention_map(similarity: Tensor, options: MapOptions) -> Tensor:
    """The map of a checked similarity ``[..., C, h, w]``, in the working dtype, ``[..., N, N]``."""
    refuse_jit("the reference")
    with compat.without_autocast(similarity.device.type):
        return multi_scale_map(working_similarity(similarity), options, pairwise_divergence)


def cdam_attention(
    similarity: Tensor,
    *,
    scales: Sequence[float] = SCALES,
    temperature: float = TEMPERATURE,
    attention_temperature: float = ATTENTION_TEMPERATURE,
    metric: str = "js",
    order: str = "official",
    minmax: tuple[bool, bool] = (True, True),
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """The multi-scale attention map (Eq. 2 and 3), as `cdam_fast.cdam_attention` without its backends."""
    similarity = check_similarity(similarity)
    options = check_options(similarity, MapOptions(scales, temperature, attention_temperature, metric, order, minmax))
    result_dtype = check_out_dtype(out_dtype, similarity.dtype)
    return attention_map(similarity, options).to(result_dtype)


def cdam_attend(
    similarity: Tensor,
    values: Tensor,
    *,
    scales: Sequence[float] = SCALES,
    temperature: float = TEMPERATURE,
    attention_temperature: float = ATTENTION_TEMPERATURE,
    metric: str = "js",
    order: str = "official",
    minmax: tuple[bool, bool] = (True, True),
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """The map applied to ``values [..., N, D]``, as `cdam_fast.cdam_attend` without its backends."""
    similarity = check_similarity(similarity)
    values = check_values(values, similarity)
    options = check_options(similarity, MapOptions(scales, temperature, attention_temperature, metric, order, minmax))
    result_dtype = check_out_dtype(out_dtype, similarity.dtype)
    attention = attention_map(similarity, options)
    with compat.without_autocast(similarity.device.type):
        return (attention @ values.to(attention.dtype)).to(result_dtype)
