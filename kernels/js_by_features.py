"""Jensen-Shannon divergence of a tile as a squared distance of features, on tensor cores."""

import triton
import triton.language as tl

from . import features
from .functions import reciprocal, sqrt
from .tiles import _left_of

ROOT_HALF = tl.constexpr(0.7071067811865476)


@triton.jit
def _position(x, FAST: tl.constexpr):
    """``s = (sqrt p - sqrt b) / (sqrt p + sqrt b)`` and ``(sqrt p - sqrt b) / sqrt(2 b)``, of ``x = p / (2 b)``.

    By ``x - 1/2``, which is exact where p is near b: a difference of roots would have rounded its digits away.
    """
    inverse = reciprocal(sqrt(x, FAST) + ROOT_HALF, FAST)
    step = (x - 0.5) * inverse
    return step * inverse, step


@triton.jit
def _rounded(x):
    """To the 10 bits after the point that TF32 has, to nearest."""
    return ((x.to(tl.int32, bitcast=True) + 4096) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def _half_up(x):
    """What a tensor core, which drops the last 13 bits, so rounds to nearest: dropped alone they would add up."""
    return (x.to(tl.int32, bitcast=True) + 4096).to(tl.float32, bitcast=True)


@triton.jit
def _half_up_too(x):
    """The same, as a value of its own: see `_product`."""
    return (x.to(tl.int32, bitcast=True) - -4096).to(tl.float32, bitcast=True)


@triton.jit
def _as_matrix(columns, K_MAJOR: tl.constexpr):
    """``[4, classes / 4, columns] -> [classes, columns]``, where they are in fours: see `_js_by_features`."""
    if K_MAJOR:
        return tl.reshape(tl.permute(columns, 1, 0, 2), 4 * columns.shape[1], columns.shape[2])
    else:
        return columns


@triton.jit
def _once(x):
    """x, opaque: else Triton computes what follows in the layout of mma.sync, where warps repeat each other."""
    return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=False, pack=1)


@triton.jit
def _product(rows, columns, cross, SPLIT: tl.constexpr, PRODUCTS: tl.constexpr, K_MAJOR: tl.constexpr):
    """``rows columns + cross``; SPLIT: to float32 accuracy, by three products of TF32 numbers and what they leave.

    The small ones come first, because tensor cores truncate their sums. Each factor of rows is a value of its own: then
    Triton computes it where wgmma wants it, in registers; one with two uses would go through shared memory.
    """
    if PRODUCTS != "tf32":
        return tl.dot(rows, _as_matrix(columns, K_MAJOR), cross, input_precision=PRODUCTS)
    elif SPLIT:
        high = _rounded(columns)
        high_columns = _as_matrix(high, K_MAJOR)
        cross = tl.dot(rows - _rounded(rows), high_columns, cross, input_precision="tf32")
        cross = tl.dot(_half_up(rows), _as_matrix(columns - high, K_MAJOR), cross, input_precision="tf32")
        return tl.dot(_half_up_too(rows), high_columns, cross, input_precision="tf32")
    else:
        return tl.dot(_half_up(rows), _as_matrix(_half_up(columns), K_MAJOR), cross, input_precision="tf32")


@triton.jit
def _js_by_features(
    row_ptr,
    column_ptr,
    base_ptr,
    row_to_base,
    column_to_base,
    rows_total,
    padded_classes,
    one,
    WIDE: tl.constexpr,
    FAST: tl.constexpr,
    PRODUCTS: tl.constexpr,
    K_MAJOR: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
):
    """``JS(p, q) = JS(p, b) + JS(q, b) - sum_c k``, k a sum over features of products, on tensor cores.

    K_MAJOR: a thread holds four classes of a column, which it then stores at once as wgmma and tcgen05 read them.
    """
    RANK: tl.constexpr = features.WIDE_RANK if WIDE else features.NARROW_RANK
    SPLIT: tl.constexpr = features.WIDE_SPLIT if WIDE else features.NARROW_SPLIT
    lane = tl.arange(0, BLOCK)
    row_offsets = tl.arange(0, BLOCK_CLASSES)[None, :] * rows_total + lane[:, None]
    if K_MAJOR:
        QUADS: tl.constexpr = BLOCK_CLASSES // 4
        column_class = tl.arange(0, 4)[:, None, None] + 4 * tl.arange(0, QUADS)[None, :, None]
        # times one: of lanes that it knows to be neighbours Triton would give a thread four
        column_offsets = column_class * rows_total + (lane * one)[None, None, :]
    else:
        column_class = tl.arange(0, BLOCK_CLASSES)[:, None]
        column_offsets = column_class * rows_total + lane[None, :]
    cross = tl.zeros([BLOCK, BLOCK], tl.float32)
    for start in range(0, padded_classes, BLOCK_CLASSES):
        row_x = tl.load(row_ptr + row_offsets)
        column_x = tl.load(column_ptr + column_offsets)
        if PRODUCTS == "tf32" and not K_MAJOR:
            row_x = _once(row_x)
            column_x = _once(column_x)
        row_s, row_power = _position(row_x, FAST)
        column_s, column_power = _position(column_x, FAST)
        column_power *= 2 * tl.load(base_ptr + start + column_class)
        row_ptr += BLOCK_CLASSES * rows_total
        column_ptr += BLOCK_CLASSES * rows_total
        row_first = row_power
        column_first = column_power
        # each chunk has a sum of its own, and the first feature, by far the largest, comes last: see _product
        partial = tl.zeros([BLOCK, BLOCK], tl.float32)
        for r in tl.static_range(1, RANK):
            row_power *= row_s
            column_power *= column_s
            rows = features.feature(row_s, r, WIDE) * row_power
            columns = features.feature(column_s, r, WIDE) * column_power
            partial = _product(rows, columns, partial, r < SPLIT, PRODUCTS, K_MAJOR)
        rows = features.feature(row_s, 0, WIDE) * row_first
        columns = features.feature(column_s, 0, WIDE) * column_first
        cross += _product(rows, columns, partial, True, PRODUCTS, K_MAJOR)
    return _left_of(row_to_base[:, None] + column_to_base[None, :], cross)
