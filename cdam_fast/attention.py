"""The public functions: check the arguments, choose a backend, call it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from cdam_fast import compat, ops, portable, reference
from cdam_fast.arguments import (
    MapOptions,
    check_attention,
    check_backend,
    check_distributions,
    check_heads,
    check_metric,
    check_options,
    check_out_dtype,
    check_similarity,
    check_values,
    working_dtype,
    working_similarity,
)
from cdam_fast.constants import ATTENTION_TEMPERATURE, SCALES, TEMPERATURE
from cdam_fast.tracing import refuse_forward_gradients


def choose_backend(backend: object, tensor: Tensor, patches: int = 0, other: Tensor | None = None) -> str:
    """The backend that serves a tensor, and a map of so many patches; RuntimeError where the one asked for cannot."""
    chosen = check_backend(backend)
    if chosen != "reference":
        refuse_forward_gradients(tensor, other)
    if chosen == "auto":
        on_gpu = tensor.device.type in ("cuda", "xpu")
        return "triton" if on_gpu and ops.refusal(tensor, patches) is None else "portable"
    if chosen == "triton":
        reason = ops.refusal(tensor, patches)
        if reason is not None:
            raise RuntimeError(f"backend: 'triton' {reason}")
    return chosen


def _attention(similarity: Tensor, options: MapOptions, backend: str, out_dtype: torch.dtype) -> Tensor:
    """The map, in the working dtype or already in out_dtype."""
    if backend == "triton":
        return ops.cdam_attention(similarity, options, out_dtype)
    if backend == "reference":
        return reference.attention_map(similarity, options)
    return portable.cdam_attention(working_similarity(similarity), options)


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
    backend: str = "auto",
) -> Tensor:
    """Class distribution-induced attention map over several scales (Eq. 2 and 3 of the paper).

    Args:
        similarity: ``[..., C, h, w]`` cosine similarity of each patch with each class prompt, the augmented
            prompts included; float16, bfloat16, float32 or float64. Any leading batch dims, any strides.
        scales: factors of the patch grid, each side truncated; ``(1.0,)`` is the single-scale map of Eq. 2.
        temperature: of the softmax over classes.
        attention_temperature: of the softmax over patches (tau of Eq. 2).
        metric: ``"js"``, ``"kl"`` or ``"wasserstein"`` (Table 8).
        order: ``"official"``, as the authors' code computes it, resizes the similarity down and the divergence
            up; ``"paper"``, as Eq. 3 is printed, resizes the probabilities down and the attention map up.
        minmax: row min-max before the row softmax, and after it.
        out_dtype: dtype of the result; None is the similarity's.
        backend: ``"reference"`` (eager, N x N x C memory), ``"portable"`` (PyTorch, any device), ``"triton"`` (fused
            kernels on a GPU, for anything but float64, up to 8192 patches) or ``"auto"``: Triton where it can serve
            the call, portable elsewhere.

    Returns:
        ``[..., N, N]`` with ``N = h * w``; row i is where patch i attends. With both min-max the largest entry of
        a row is about 1 and **rows do not sum to 1**; that is the method. Arithmetic is in float32, or float64
        for float64 input. NaN or infinity in the similarity gives NaN, never a silent finite value.

    Differentiable once with respect to similarity by torch.autograd and torch.func.grad, without an N x N x C tensor in
    the backward pass; torch.vmap over it is a call with a batch dim. ``"reference"`` has second and forward ones.

    Raises:
        TypeError: an argument of the wrong kind or dtype. ValueError: of the wrong shape or range, a scale that
            leaves no patch included. RuntimeError: a backend that cannot serve the call, torch.func.jvp or a dual
            tensor; in a backward pass, a second derivative. Each names the argument or what was asked.
            torch.OutOfMemoryError: Triton maps that cannot be allocated, with what they need.
    """
    similarity = check_similarity(similarity)
    options = check_options(similarity, MapOptions(scales, temperature, attention_temperature, metric, order, minmax))
    result_dtype = check_out_dtype(out_dtype, similarity.dtype)
    chosen = choose_backend(backend, similarity, similarity.shape[-2] * similarity.shape[-1])
    with compat.without_autocast(similarity.device.type):
        return _attention(similarity, options, chosen, result_dtype).to(result_dtype)


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
    backend: str = "auto",
) -> Tensor:
    """`cdam_attention` applied to values: ``attention @ values``, in one call.

    Args:
        similarity: as for `cdam_attention`.
        values: ``[..., N, D]`` with the batch dims and the device of similarity, any floating dtype; for CLIP the
            value projection of the last block, without the CLS token.
        scales, temperature, attention_temperature, metric, order, minmax, backend: as for `cdam_attention`.
        out_dtype: dtype of the result; None is the similarity's.

    Returns:
        ``[..., N, D]``. Differentiable with respect to similarity and values.

    Raises:
        TypeError, ValueError, RuntimeError: as `cdam_attention`; ValueError for values with other rows, batch dims or
            device too.
    """
    similarity = check_similarity(similarity)
    values = check_values(values, similarity)
    options = check_options(similarity, MapOptions(scales, temperature, attention_temperature, metric, order, minmax))
    result_dtype = check_out_dtype(out_dtype, similarity.dtype)
    chosen = choose_backend(backend, similarity, similarity.shape[-2] * similarity.shape[-1], values)
    with compat.without_autocast(similarity.device.type):
        if chosen == "triton":
            return ops.cdam_attend(similarity, values, options, result_dtype)
        attention = _attention(similarity, options, chosen, working_dtype(similarity.dtype))
        return (attention @ values.to(attention.dtype)).to(result_dtype)


def pairwise_divergence(p: Tensor, q: Tensor | None = None, *, metric: str = "js", backend: str = "auto") -> Tensor:
    """Divergence of every distribution of p from every distribution of q, in nats.

    Args:
        p: ``[..., N, C]`` class distributions, non-negative; float16, bfloat16, float32 or float64.
        q: ``[..., M, C]`` of the same batch dims, dtype, device and C; None is p itself.
        metric: ``"js"``, at most ln 2; ``"kl"``, ``sum p ln(p/q)``, infinite where q is 0 and p is not;
            ``"wasserstein"``, ``sum_c |CDF_p - CDF_q|`` over the class index.
        backend: as for `cdam_attention`.

    Returns:
        ``[..., N, M]`` of p's dtype; arithmetic in float32, or float64 for float64 input. NaN in a row of p or q
        gives NaN in the row or column that it touches. Portable ``"js"`` in float32 leaves out at most 3e-6 of the
        smallest of the rows' largest divergences, besides the rounding of the probabilities.

    Raises:
        TypeError: no tensor, or an integer dtype. ValueError: other shapes, an unknown metric or backend.
            RuntimeError: a backend that is not there; derivatives as for `cdam_attention`.
    """
    p, other = check_distributions(p, q)
    metric = check_metric(metric)
    chosen = choose_backend(backend, p, other=other)
    dtype = working_dtype(p.dtype)
    with compat.without_autocast(p.device.type):
        if chosen == "triton":
            return ops.pairwise_divergence(p, other, metric=metric)
        if chosen == "reference":
            return reference.pairwise_divergence(p, other, metric=metric)
        second = None if other is None else other.to(dtype)
        return portable.pairwise_divergence(p.to(dtype), second, metric=metric).to(p.dtype)


def with_cls_token(attention: Tensor, *, heads: int | None = None) -> Tensor:
    """Add a zero CLS row and a zero CLS column in front: ``[..., N, N] -> [..., N+1, N+1]``.

    What CLIP's last block takes: the CLS token neither attends nor is attended to.

    Args:
        attention: ``[..., N, N]``, any floating dtype, which the result keeps.
        heads: None, or the number of heads that share an image's map: the result is then what
            ``torch.bmm(weight, v)`` takes where v was made by ``reshape(tokens, batch * heads, -1).transpose(0, 1)``,
            as in CLIP's ``multi_head_attention_forward``.

    Returns:
        ``[..., N+1, N+1]``. With heads the leading dims become one, in their order, an image's heads in a row:
        ``[B, N, N] -> [B * heads, N+1, N+1]``, and ``[N, N]`` is one image. One image's map is not copied: its heads
        are a view of one storage, to be read and not written into; of several images each head has a copy.

    Differentiable.

    Raises:
        TypeError: attention that is no tensor or of an integer dtype; heads that is no integer. ValueError: attention
            that is not square; heads below 1.
    """
    checked, count = check_attention(attention), check_heads(heads)
    padded = functional.pad(checked, (1, 0, 1, 0))
    if count is None:
        return padded
    tokens = padded.shape[-1]
    return padded.reshape(-1, 1, tokens, tokens).expand(-1, count, -1, -1).flatten(0, 1)
