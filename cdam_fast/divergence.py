"""Pairwise divergence in plain PyTorch, without an N x N x C tensor, forward or backward.

One image at a time. Jensen-Shannon takes the matrix product of `cdam_fast.embedding` where its measured bound
allows and tiles of the definition elsewhere; Kullback-Leibler is a float64 matrix product; Wasserstein is
``torch.cdist``. Two operators make all of it one opaque step for autograd and torch.compile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cdam_fast import compat, embedding
from cdam_fast.tracing import as_batch, is_traced

TRUNCATION = 3e-6
"""Most that the features may leave out, as a share of the smallest of the rows' largest divergences. The rounding of
float32 probabilities comes on top: about 6e-8 times the square root of a divergence."""

FINE_TRUNCATION = 1e-9
"""As much, of float64 features: for rows that resizing has left a thousandth of their range."""

NEGLIGIBLE_RANGE = 1e-8
"""Rows of a smaller range are judged as if they had this one: rounding, 6e-4 of it, is what limits them."""

_TILE = 1 << 18  # elements of one temporary: 1 MB, the second-level cache of a core
_STRIP = 192  # columns of a strip of the symmetric product: 2.8 ms instead of 3.9 for 784 x 784 x 644 on two cores


def pairwise_divergence(p: Tensor, q: Tensor | None = None, *, metric: str = "js", fine: bool = False) -> Tensor:
    """``p [..., N, C]``, ``q [..., M, C]`` of one working dtype -> ``[..., N, M]``; differentiable once.

    Jensen-Shannon of float64 is by the definition; where fine, to within `FINE_TRUNCATION` if features serve.
    """
    flat_p, flat_q = as_batch(p, 2), None if q is None else as_batch(q, 2)
    differentiated = torch.is_grad_enabled() and (p.requires_grad or (q is not None and q.requires_grad))
    if differentiated or is_traced(p, q):
        result: Tensor = _divergence(flat_p, flat_q, metric, fine)
    else:  # without the operator's 0.1 ms
        result = _compute(flat_p, flat_q, metric, fine)
    return result.reshape(*p.shape[:-2], *result.shape[1:])


def _compute(p: Tensor, q: Tensor | None, metric: str, fine: bool = False) -> Tensor:
    """``p [B, N, C]``, ``q [B, M, C]`` -> ``[B, N, M]``."""
    result = p.new_empty(p.shape[0], p.shape[1], p.shape[1] if q is None else q.shape[1])
    if result.numel() == 0:
        return result
    with compat.without_autocast(p.device.type):
        for i in range(p.shape[0]):
            if fine and metric == "js":
                _js(p[i], None if q is None else q[i], result[i], FINE_TRUNCATION)
            else:
                _FORWARD[metric](p[i], None if q is None else q[i], result[i])
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


divergence_backward = compat.operator(
    "divergence_backward",
    "(Tensor grad, Tensor p, Tensor? q, str metric) -> (Tensor, Tensor)",
    _compute_backward,
    _fake_backward,
)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor | None, str, bool], output: Tensor) -> None:
    p, q, ctx.metric, _ = inputs
    ctx.save_for_backward(p, q)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
    p, q = ctx.saved_tensors
    grad_p, grad_q = divergence_backward(grad, p, q, ctx.metric)
    return grad_p, None if q is None else grad_q, None, None


_divergence = compat.operator(
    "divergence",
    "(Tensor p, Tensor? q, str metric, bool fine=False) -> Tensor",
    _compute,
    _fake,
    _setup_context,
    _backward,
)


# --- Jensen-Shannon ---------------------------------------------------------------------------------------------


def _js(p: Tensor, q: Tensor | None, out: Tensor, truncation: float | None = None) -> None:
    if truncation is None and p.dtype == torch.float32:  # float64 is asked for where 3e-6 is not enough
        truncation = TRUNCATION
    if truncation is None or not _js_by_embedding(p.mT, None if q is None else q.mT, out, truncation):
        _js_by_definition(p, q, out)


def _js_by_embedding(p: Tensor, q: Tensor | None, out: Tensor, truncation: float) -> bool:
    """``p [C, N]``, ``q [C, M]`` -> whether out now holds the divergence to within truncation."""
    mean = p.mean(1, keepdim=True) if q is None else torch.cat((p, q), 1).mean(1, keepdim=True)
    sides = [_position(side, mean) for side in ((p,) if q is None else (p, q))]
    reach = max(float(position.abs().max()) for _, position in sides)
    half_width = next((width for width in embedding.HALF_WIDTHS if reach <= width), None)
    if half_width is None:  # also where anything is NaN
        return False
    chosen = embedding.table(half_width)
    for _, position in sides:
        position /= half_width
    mass, tail, spread = (max(column) for column in zip(*(_moments(*side) for side in sides)))

    # JS(row, mean row) is about spread/2; a row's largest divergence is seldom below its mean divergence, twice that
    expected_range = spread * half_width**2
    for rank in range(1, len(chosen.floor) + 1):
        bound = 2 * (chosen.floor[rank - 1] * mass + chosen.growth[rank - 1] * tail)
        if bound > truncation * (expected_range + NEGLIGIBLE_RANGE):
            continue
        rows = embedding.features(*sides[0], chosen, rank)
        columns = rows if q is None else embedding.features(*sides[1], chosen, rank)
        _half_squared_distance(rows, columns, out)
        if bound <= truncation * (float(out.amax(-1).min()) + NEGLIGIBLE_RANGE):
            return True
    return False


def _position(p: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """``sqrt p + sqrt mean`` and ``s = (sqrt p - sqrt mean) / (sqrt p + sqrt mean)``; s is 0 where both are 0."""
    root, root_mean = p.sqrt(), mean.sqrt()
    weight = root + root_mean
    position = root.sub_(root_mean).div_(weight.clamp_min(torch.finfo(p.dtype).tiny))
    return weight, position


def _moments(weight: Tensor, position: Tensor) -> tuple[float, float, float]:
    """Largest ``sum_c v^2`` and ``sum_c v^2 z^6`` and mean ``sum_c v^2 z^2`` over the patches."""
    mass = weight.square()
    square = position.square()
    weighted = mass * square
    spread = weighted.sum(0).mean()
    tail = weighted.mul_(square.square_()).sum(0).amax()
    return float(mass.sum(0).amax()), float(tail), float(spread)


def _half_squared_distance(rows: Tensor, columns: Tensor, out: Tensor) -> None:
    """``rows [K, N]``, ``columns [K, M]`` -> ``|row - column|^2 / 2``, from half the products where they are one."""
    if _reduced_matmul_precision():
        rows, columns = rows.double(), rows.double() if columns is rows else columns.double()
    if columns is not rows:
        half_norm_rows, half_norm_columns = rows.square().sum(0) / 2, columns.square().sum(0) / 2
        product = rows.mT @ columns
        out.copy_(((half_norm_rows[:, None] - product) + half_norm_columns).clamp_(min=0))
        return
    count = rows.shape[1]
    product = out if out.dtype == rows.dtype else rows.new_empty(count, count)
    strips = max(1, count // _STRIP) if rows.device.type == "cpu" else 1
    edges = [count * k // strips for k in range(strips + 1)]
    for start, stop in zip(edges, edges[1:]):
        torch.mm(rows[:, start:stop].mT, rows[:, start:], out=product[start:stop, start:])
        product[stop:, start:stop] = product[start:stop, stop:].mT
    half_norm = product.diagonal() / 2
    torch.sub(half_norm[:, None], product, out=product).add_(half_norm).clamp_(min=0)
    if product is not out:
        out.copy_(product)


def _reduced_matmul_precision() -> bool:
    """Whether the user lets float32 products run in TF32 or bfloat16: the features need all 24 bits."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # set through both of PyTorch's interfaces, which then refuses to say
        return True


def _tiles(p: Tensor, q: Tensor) -> tuple[range, range, int]:
    """Starts of the row and column tiles whose ``[side, side, C]`` temporaries hold about `_TILE` elements."""
    side = max(1, int((_TILE / p.shape[-1]) ** 0.5))
    return range(0, p.shape[0], side), range(0, q.shape[0], side), side


def _js_by_definition(p: Tensor, q: Tensor | None, out: Tensor) -> None:
    """``(x ln(1+u) + y ln(1-u))/2`` with ``u = (x-y)/(x+y)``: x/m would round away what certain classes differ by."""
    tiny = torch.finfo(p.dtype).tiny  # 0 ln 0 is 0
    most = 1 - torch.finfo(p.dtype).eps / 2  # a finite logarithm, of a share of m that no sum sees
    rows = p.clamp_min(tiny).contiguous()
    columns = rows if q is None else q.clamp_min(tiny).contiguous()
    row_starts, column_starts, side = _tiles(rows, columns)
    for i in row_starts:
        x = rows[i : i + side, None]  # [side, 1, C]
        for j in column_starts:
            if q is None and j < i:
                continue
            y = columns[None, j : j + side]  # [1, side, C]
            u = (x - y).div_(x + y).clamp_(-most, most)
            first, second = torch.log1p(u).mul_(x), u.neg_().log1p_().mul_(y)
            tile = first.add_(second).sum(-1).div_(2)
            out[i : i + side, j : j + side] = tile
            if q is None and j > i:
                out[j : j + side, i : i + side] = tile.mT


def _js_backward(grad: Tensor, p: Tensor, q: Tensor, grad_p: Tensor, grad_q: Tensor) -> None:
    """``dJS/dp = ln(p/m)/2`` and likewise for q; adds to grad_p and grad_q."""
    tiny = torch.finfo(p.dtype).tiny
    rows, columns = p.clamp_min(tiny).contiguous(), q.clamp_min(tiny).contiguous()
    row_starts, column_starts, side = _tiles(rows, columns)
    for i in row_starts:
        x = rows[i : i + side, None]
        for j in column_starts:
            y = columns[None, j : j + side]
            half = (grad[i : i + side, j : j + side] / 2).unsqueeze(-1)
            m = (x + y).div_(2)
            grad_p[i : i + side] += torch.div(x, m).log_().mul_(half).sum(1)
            grad_q[j : j + side] += torch.div(y, m).log_().mul_(half).sum(0)
    # below tiny the clamp, and the contribution to the divergence, is constant
    grad_p.masked_fill_(p < tiny, 0)
    grad_q.masked_fill_(q < tiny, 0)


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


_FORWARD = {"js": _js, "kl": _kl, "wasserstein": _wasserstein}
_BACKWARD = {"js": _js_backward, "kl": _kl_backward, "wasserstein": _wasserstein_backward}
