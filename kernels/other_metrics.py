"""Kullback-Leibler and Wasserstein divergence of a tile."""

import triton
import triton.language as tl

from .tiles import _as_tile, _thread_rows


@triton.jit
def _kl(
    row_ptr,
    column_ptr,
    plane,
    rows_total,
    classes,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """``KL = sum_c p (ln(p/b) - ln(q/b))``."""
    row_ptr += _thread_rows(BLOCK, ROWS)
    column_ptr += _thread_rows(BLOCK, COLUMNS) + plane
    total = tl.zeros([ROWS, COLUMNS, BLOCK // ROWS, BLOCK // COLUMNS], tl.float32)
    for c in range(0, classes):
        p = tl.load(row_ptr + c * rows_total)[:, None, :, None]
        log_p = tl.load(row_ptr + plane + c * rows_total)[:, None, :, None]
        log_q = tl.load(column_ptr + c * rows_total)[None, :, None, :]
        total += p * (log_p - log_q)
    # an absent class stands as -1e38
    return _as_tile(tl.where(total > 1e6, float("inf"), total), BLOCK)


@triton.jit
def _wasserstein(
    row_ptr, column_ptr, rows_total, classes, BLOCK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """The sum over classes of the difference of two distribution functions."""
    row_ptr += _thread_rows(BLOCK, ROWS)
    column_ptr += _thread_rows(BLOCK, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS, BLOCK // ROWS, BLOCK // COLUMNS], tl.float32)
    for c in range(0, classes):
        x = tl.load(row_ptr + c * rows_total)
        y = tl.load(column_ptr + c * rows_total)
        total += tl.abs(x[:, None, :, None] - y[None, :, None, :])
    return _as_tile(total, BLOCK)
