"""Jensen-Shannon divergence of a tile by one logarithm a pair-class."""

import triton
import triton.language as tl

from .functions import LN2, log2
from .tiles import _as_tile, _left_of, _thread_rows

CLASSES_OF_A_SUM = tl.constexpr(16)  # one after the other, a peaked row's many small terms would round away


@triton.jit
def _weighted_logarithm(row_ptr, column_ptr, base_ptr, rows_total, c, FAST: tl.constexpr):
    """``m ln(m/b)`` of one class in bits, m the mean of each pair of a row and a column."""
    x = tl.load(row_ptr + c * rows_total)
    y = tl.load(column_ptr + c * rows_total)
    m = x[:, None, :, None] + y[None, :, None, :]  # its ratio to the base
    return tl.load(base_ptr + c) * (m * log2(m, FAST))


@triton.jit
def _js_by_logarithms(
    row_ptr,
    column_ptr,
    base_ptr,
    row_to_base,
    column_to_base,
    rows_total,
    classes,
    FAST: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """``JS = (KL(p|b) + KL(q|b))/2 - sum_c m ln(m/b)``: one logarithm a pair-class, sums no larger than JS."""
    row_ptr += _thread_rows(BLOCK, ROWS)
    column_ptr += _thread_rows(BLOCK, COLUMNS)
    cross = tl.zeros([ROWS, COLUMNS, BLOCK // ROWS, BLOCK // COLUMNS], tl.float32)
    for start in range(0, classes - CLASSES_OF_A_SUM + 1, CLASSES_OF_A_SUM):
        partial = tl.zeros([ROWS, COLUMNS, BLOCK // ROWS, BLOCK // COLUMNS], tl.float32)
        for k in tl.static_range(CLASSES_OF_A_SUM):
            partial += _weighted_logarithm(row_ptr, column_ptr, base_ptr, rows_total, start + k, FAST)
        cross += partial
    for start in range(classes - classes % CLASSES_OF_A_SUM, classes, 2):
        for k in tl.static_range(2):
            cross += _weighted_logarithm(row_ptr, column_ptr, base_ptr, rows_total, start + k, FAST)
    return _left_of((row_to_base[:, None] + column_to_base[None, :]) / 2, _as_tile(cross, BLOCK)) * LN2
