"""Pairwise divergence in plain PyTorch, without an N x N x C tensor, forward or backward.

One image at a time. Jensen-Shannon is in `cdam_fast.jensen_shannon`; Kullback-Leibler is a float64 matrix product;
Wasserstein is ``torch.cdist``. Two operators make all of it one opaque step for autograd and torch.compile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cdam_fast import compat, jensen_shannon, opaque
from cdam_fast.jensen_shannon import FINE_TRUNCATION, Decision
from cdam_fast.tracing import as_batch, is_differentiated, is_traced


def pairwise_divergence(
    p: Tensor,
    q: Tensor | None = None,
    *,
    metric: str = "js",
    fine: bool = False,
    decisions: list[Decision] | None = None,
) -> Tensor:
    """``p [..., N, C]``, ``q [..., M, C]`` of one working dtype -> ``[..., N, M]``; differentiable once.

    Jensen-Shannon of float64 is by the definition; where fine, to within `FINE_TRUNCATION` if features serve. The
    decision on each image is appended to ``decisions``, where neither a gradient nor a tracer is about.
    """
    flat_p, flat_q = as_batch(p, 2), None if q is None else as_batch(q, 2)
    if is_differentiated(p, q) or is_traced(p, q):
        result: Tensor = _divergence(flat_p, flat_q, metric, fine)
    else:  # without the operator's 0.1 ms
        result = _compute(flat_p, flat_q, metric, fine, decisions)
    return result.reshape(*p.shape[:-2], *result.shape[1:])


def _compute(
    p: Tensor, q: Tensor | None, metric: str, fine: bool = False, decisions: list[Decision] | None = None
) -> Tensor:
    """``p [B, N, C]``, ``q [B, M, C]`` -> ``[B, N, M]``."""
    result = p.new_empty(p.shape[0], p.shape[1], p.shape[1] if q is None else q.shape[1])
    if result.numel() == 0:
        return result
    with compat.without_autocast(p.device.type):
        for i in range(p.shape[0]):
            columns = None if q is None else q[i]
            if metric == "js":
                decision = jensen_shannon.forward(p[i], columns, result[i], FINE_TRUNCATION if fine else None)
                if decisions is not None:
                    decisions.append(decision)
            else:
                _FORWARD[metric](p[i], columns, result[i])
    return result


def _fake(p: Tensor, q: Tensor | None, metric: str, fine: bool = False) -> Tensor:
    return p.new_empty(p.shape[0], p.shape[1], p.shape[1] if q is None else q.shape[1])


def _compute_backward(grad: Tensor, p: Tensor, q: Tensor | None, metric: str) -> tuple[Tensor, Tensor]:
    """Gradients of p and of q; without q, p's is that of both places and the other is empty."""
    grad_p = torch.zeros_like(p, memory_format=torch.contiguous_format)
    grad_q = p.new_empty(0) if q is None else torch.zeros_like(q, memory_format=torch.contiguous_format)
    with compat.without_autocast(p.device.type):
        for i in range(p.shape[0]):
            if q is None:
                _BACKWARD[metric](grad[i], p[i], p[i], grad_p[i], grad_p[i])
            else:
                _BACKWARD[metric](grad[i], p[i], q[i], grad_p[i], grad_q[i])
    return grad_p, grad_q


def _fake_backward(grad: Tensor, p: Tensor, q: Tensor | None, metric: str) -> tuple[Tensor, Tensor]:
    return p.new_empty(p.shape), p.new_empty(0) if q is None else q.new_empty(q.shape)


divergence_backward = opaque.operator(
    "divergence_backward",
    "(Tensor grad, Tensor p, Tensor? q, str metric) -> (Tensor, Tensor)",
    _compute_backward,
    _fake_backward,
    opaque.keep_nothing,
    opaque.refuse_second_derivative,
)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor | None, str, bool], output: Tensor) -> None:
    p, q, ctx.metric, _ = inputs
    ctx.save_for_backward(p, q)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
    p, q = ctx.saved_tensors
    grad_p, grad_q = divergence_backward(grad, p, q, ctx.metric)
    return grad_p, None if q is None else grad_q, None, None


_divergence = opaque.operator(
    "divergence",
    "(Tensor p, Tensor? q, str metric, bool fine=False) -> Tensor",
    _compute,
    _fake,
    _setup_context,
    _backward,
)


# --- Kullback-Leibler -------------------------------------------------------------------------------------------


def _kl(p: Tensor, q: Tensor | None, out: Tensor) -> None:
    """``sum p ln p - sum p ln q`` in float64, logarithms about a class's mean: sums no larger than they must be."""
    rows = p.double()
    log_rows = rows.log()
    log_columns = log_rows if q is None else q.double().log()
    finite = log_columns.isfinite()
    centre = torch.where(finite, log_columns, 0).mean(0)
    log_columns = log_columns - centre
    negentropy = (rows * torch.where(rows == 0, 0, log_rows - centre)).sum(-1, keepdim=True)
    if bool(finite.all()):
        out.copy_(negentropy - rows @ log_columns.mT)
        return
    # zeros (and NaN) in q: 0 ln(p/0) is infinite where p is not 0, and says nothing where it is
    result = negentropy - rows @ torch.where(finite, log_columns, 0).mT
    present = (rows != 0).double()
    absent = (log_columns == -torch.inf).double()
    result.masked_fill_((present @ absent.mT) > 0, torch.inf)
    touched = log_columns.isnan().any(-1)
    result[:, touched] = torch.nan
    result[rows.isnan().any(-1)] = torch.nan
    out.copy_(result)


def _kl_backward(grad: Tensor, p: Tensor, q: Tensor, grad_p: Tensor, grad_q: Tensor) -> None:
    """``dKL/dp = ln(p/q) + 1`` where p is not 0, and ``dKL/dq = -p/q``; adds to grad_p and grad_q."""
    rows, columns, weight = p.double(), q.double(), grad.double()
    slope = weight.sum(1, keepdim=True) * (rows.log() + 1) - weight @ columns.log()
    grad_p += slope.masked_fill_(rows == 0, 0).to(p.dtype)
    grad_q -= (weight.mT @ rows / columns).to(q.dtype)


# --- Wasserstein ------------------------------------------------------------------------------------------------


def _wasserstein(p: Tensor, q: Tensor | None, out: Tensor) -> None:
    cdf_p = p.cumsum(-1)
    out.copy_(torch.cdist(cdf_p, cdf_p if q is None else q.cumsum(-1), p=1.0))


def _wasserstein_backward(grad: Tensor, p: Tensor, q: Tensor, grad_p: Tensor, grad_q: Tensor) -> None:
    """The sign of the difference of the distribution functions, summed from the last class down; adds to both."""
    cdf_p, cdf_q = p.cumsum(-1).contiguous(), q.cumsum(-1).contiguous()
    unused = grad.new_zeros(grad.shape)  # the distances, which only other orders of the norm need
    for slope, (x, y, pairs) in (
        (grad_p, (cdf_p, cdf_q, grad.contiguous())),
        (grad_q, (cdf_q, cdf_p, grad.mT.contiguous())),
    ):
        by_cdf = torch.ops.aten._cdist_backward(pairs, x, y, 1.0, unused if pairs.shape == unused.shape else unused.mT)
        slope += by_cdf.flip(-1).cumsum(-1).flip(-1)


_FORWARD = {"kl": _kl, "wasserstein": _wasserstein}
_BACKWARD = {"js": jensen_shannon.backward, "kl": _kl_backward, "wasserstein": _wasserstein_backward}
