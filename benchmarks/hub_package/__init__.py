"""Class distribution-induced attention maps (CDAM) for CLIP, in three Triton launches.

`cdam_attention` makes the map of an image or a batch, `cdam_attend` applies it, `pairwise_divergence` compares class
distributions. Arithmetic is in float32 and right to 3e-5 of a map whose entries lie in [0, 1], whatever the input.
NVIDIA GPUs from compute capability 7.5, ROCm and XPU; CPU tensors where TRITON_INTERPRET=1 was set before the first
call, slowly. Forward only. Kang, Kim and Chun, Class Distribution-induced Attention Map for Open-vocabulary Semantic
Segmentations, ICLR 2025.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import operators
from .arguments import (
    MapOptions,
    check_distributions,
    check_metric,
    check_options,
    check_out_dtype,
    check_similarity,
    check_values,
)
from .compat import without_autocast
from .constants import ATTENTION_TEMPERATURE, SCALES, TEMPERATURE
from .operators import check_dtype, check_served

__all__ = ["cdam_attend", "cdam_attention", "pairwise_divergence"]


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
    """Class distribution-induced attention map over several scales (Eq. 2 and 3 of the paper).

    Args:
        similarity: ``[..., C, h, w]`` cosine similarity of each patch with each class prompt; float16, bfloat16 or
            float32, up to 8192 patches. Any leading batch dims, any strides.
        scales: factors of the patch grid, each side truncated; the default is the paper's seven, from 0.25 to 1.
        temperature: of the softmax over classes, 0.1 by default.
        attention_temperature: of the softmax over patches (tau of Eq. 2), 0.1 by default.
        metric: ``"js"``, ``"kl"`` or ``"wasserstein"`` (Table 8).
        order: ``"official"``, as the authors' code computes it, resizes the similarity down and the divergence
            up; ``"paper"``, as Eq. 3 is printed, resizes the probabilities down and the attention map up.
        minmax: row min-max before the row softmax, and after it.
        out_dtype: dtype of the result; None is the similarity's.

    Returns:
        ``[..., N, N]`` with ``N = h * w``; row i is where patch i attends. With both min-max the largest entry of
        a row is about 1 and rows do not sum to 1. NaN or infinity in the similarity gives NaN.

    Raises:
        TypeError: an argument of the wrong kind or dtype. ValueError: of the wrong shape or range, or a tensor that
            requires gradients. RuntimeError: a device or a version that the kernels do not run on. Each names the
            argument. torch.OutOfMemoryError: maps that cannot be allocated, with what they need.
    """
    check_dtype("similarity", similarity)
    similarity = check_similarity(similarity)
    options = check_options(similarity, MapOptions(scales, temperature, attention_temperature, metric, order, minmax))
    result_dtype = check_out_dtype(out_dtype, similarity.dtype)
    check_served(similarity.shape[-2] * similarity.shape[-1], similarity=similarity)
    with without_autocast(similarity.device.type):
        return operators.attention(similarity, options, result_dtype)


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
    """`cdam_attention` applied to values, ``attention @ values``, without the map where it would be large.

    Args:
        similarity: ``[..., C, h, w]``, as for `cdam_attention`.
        values: ``[..., N, D]`` on the device of similarity, any floating dtype.
        scales, temperature, attention_temperature, metric, order, minmax: as for `cdam_attention`.
        out_dtype: dtype of the result; None is the similarity's.

    Returns:
        ``[..., N, D]``.

    Raises:
        As `cdam_attention`, and ValueError for values with other rows, batch dims or device.
    """
    check_dtype("similarity", similarity)
    similarity = check_similarity(similarity)
    values = check_values(values, similarity)
    options = check_options(similarity, MapOptions(scales, temperature, attention_temperature, metric, order, minmax))
    result_dtype = check_out_dtype(out_dtype, similarity.dtype)
    check_served(similarity.shape[-2] * similarity.shape[-1], similarity=similarity, values=values)
    with without_autocast(similarity.device.type):
        return operators.attend(similarity, values, options, result_dtype)


def pairwise_divergence(p: Tensor, q: Tensor | None = None, *, metric: str = "js") -> Tensor:
    """Divergence of every distribution of p from every distribution of q, in nats.

    Args:
        p: ``[..., N, C]`` class distributions, non-negative; float16, bfloat16 or float32.
        q: ``[..., M, C]`` of the same batch dims, dtype, device and C; None is p itself.
        metric: ``"js"``, at most ln 2; ``"kl"``, ``sum p ln(p/q)``, infinite where q is 0 and p is not;
            ``"wasserstein"``, ``sum_c |CDF_p - CDF_q|`` over the class index.

    Returns:
        ``[..., N, M]`` of p's dtype. NaN in a row of p or q gives NaN in the row or column that it touches.

    Raises:
        TypeError: no tensor, or another dtype. ValueError: other shapes, an unknown metric, or a tensor that requires
            gradients. RuntimeError: a device or a version that the kernels do not run on.
    """
    check_dtype("p", p)
    p, other = check_distributions(p, q)
    metric = check_metric(metric)
    check_served(p=p, q=other)
    with without_autocast(p.device.type):
        return operators.divergence(p, other, metric)
