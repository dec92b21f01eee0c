"""Second stage: the divergence of every pair of patches of every scale, in one launch over a list of tiles.

Jensen-Shannon has three paths, and a tile takes the cheapest that the statistics of its scale allow; README.md has
the derivations, the bounds and the counts. The rows that they read hold ``x = p / (2 b)``, b the base distribution.
"""

import triton
import triton.language as tl

from . import features
from .distributions import FIELDS, STATISTICS
from .functions import log2, reciprocal, sqrt

LN2 = tl.constexpr(0.6931471805599453)
ROOT_HALF = tl.constexpr(0.7071067811865476)
TRUNCATION = tl.constexpr(3e-6)  # most that features may leave out, as a share of the contrast
NEGLIGIBLE_RANGE = tl.constexpr(1e-8)  # rows of a smaller range are judged as if they had this one
LEAST_CONTRAST = tl.constexpr(2e-3)  # below, logarithms right to 2^-22 are not enough for MANY_CLASSES or more
MANY_CLASSES = tl.constexpr(128)  # errors of fewer average less: their least contrast goes with 1 over the root
FEW_CLASSES = tl.constexpr(16)  # and of so few they may all be of one sign, while the definition is cheap

ROUNDING = tl.constexpr(2.0**-21)  # of a difference of sums, as a share of them: what is less is 0

MOST_BITS = tl.constexpr(9.0)  # of a distribution's KL to the base: one-hot rows of classes that no sample has
CLASSES_OF_A_SUM = tl.constexpr(16)  # one after the other, a peaked row's many small terms would round away

# A thread's pairs are the two leading dimensions of a tile of shape [ROWS, COLUMNS, BLOCK/ROWS, BLOCK/COLUMNS]: with
# 4 warps 4 x 8 pairs, whose 12 values a class loads once. As [BLOCK, BLOCK] a thread would hold 1 x 32, and load 33.


@triton.jit
def _thread_rows(BLOCK: tl.constexpr, PER_THREAD: tl.constexpr):
    """Row of a tile for each place of ``[PER_THREAD, BLOCK / PER_THREAD]``."""
    STEP: tl.constexpr = BLOCK // PER_THREAD
    return tl.arange(0, PER_THREAD)[:, None] * STEP + tl.arange(0, STEP)[None, :]


@triton.jit
def _as_tile(pairs, BLOCK: tl.constexpr):
    """``[ROWS, COLUMNS, BLOCK/ROWS, BLOCK/COLUMNS] -> [BLOCK, BLOCK]``."""
    return tl.reshape(tl.permute(pairs, 0, 2, 1, 3), BLOCK, BLOCK)


@triton.jit
def _left_of(to_base, cross):
    """``to_base - cross``, and 0 where only rounding is left: equal rows are at no distance, at every scale."""
    left = to_base - cross
    return tl.where(left <= to_base * ROUNDING, 0.0, left)


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


@triton.jit
def _js_by_definition(
    row_ptr,
    column_ptr,
    base_ptr,
    rows_total,
    classes,
    FAST: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """``JS = sum_c m g(u)``, ``u = (p-q)/(p+q)``, without a difference of near numbers; 4 times slower."""
    row_ptr += _thread_rows(BLOCK, ROWS)
    column_ptr += _thread_rows(BLOCK, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS, BLOCK // ROWS, BLOCK // COLUMNS], tl.float32)
    for c in range(0, classes):
        x = tl.load(row_ptr + c * rows_total)[:, None, :, None]
        y = tl.load(column_ptr + c * rows_total)[None, :, None, :]
        m = x + y
        inverse = reciprocal(m, FAST)
        u = (x - y) * inverse
        v = u * u
        # g(u) = ((1+u) ln(1+u) + (1-u) ln(1-u))/2 = sum of v^k / (2k (2k-1)); 9 terms leave 2e-8 of it at |u| = 1/2
        series = v * (1 / 306) + 1 / 240
        series = v * series + 1 / 182
        series = v * series + 1 / 132
        series = v * series + 1 / 90
        series = v * series + 1 / 56
        series = v * series + 1 / 30
        series = v * series + 1 / 12
        series = v * (v * series + 1 / 2)
        high = 1 + tl.abs(u)
        low = 2 * tl.minimum(x, y) * inverse
        by_logarithms = (high * log2(high, FAST) + low * log2(low, FAST)) * (0.5 * LN2)
        total += (tl.load(base_ptr + c) * m) * tl.where(v < 0.25, series, by_logarithms)
    return _as_tile(total, BLOCK)


@triton.jit
def _largest(statistics_ptr, count, which: tl.constexpr):
    """Largest of one statistic over the blocks of a scale."""
    lane = tl.arange(0, 64)
    most = tl.zeros([64], tl.float32)
    for start in range(0, count, 64):
        here = start + lane < count
        most = tl.maximum(most, tl.load(statistics_ptr + (start + lane) * STATISTICS + which, here, 0.0))
    return tl.max(most, axis=0)


@triton.jit
def _most_bits(kl_rows_ptr, kl_columns_ptr):
    """Largest KL of a tile's rows and columns and the base: the size of the sums that logarithms subtract."""
    return tl.max(tl.maximum(tl.load(kl_rows_ptr), tl.load(kl_columns_ptr)), axis=0)


@triton.jit
def choice(statistics_ptr, blocks, classes, FEATURES_FIRST: tl.constexpr):
    """Whether a scale takes narrow features, else wide ones, else logarithms, and the numbers that say so."""
    # JS of some two rows is at least this, so no row's range is below a quarter of it
    contrast = 0.34 * _largest(statistics_ptr, blocks, 3)
    averaging = tl.minimum(classes, MANY_CLASSES).to(tl.float32)
    enough = contrast * contrast * averaging > LEAST_CONTRAST * LEAST_CONTRAST * MANY_CLASSES
    exact_enough = enough & (classes > FEW_CLASSES)
    allowed = (contrast + NEGLIGIBLE_RANGE) * TRUNCATION
    reach = _largest(statistics_ptr, blocks, 0)
    tail = _largest(statistics_ptr, blocks, 1)
    length = _largest(statistics_ptr, blocks, 2)
    narrow = (reach <= features.NARROW_REACH) & (
        length * features.NARROW_FLOOR + tail * features.NARROW_GROWTH <= allowed
    )
    wide = (reach <= features.WIDE_REACH) & (length * features.WIDE_FLOOR + tail * features.WIDE_GROWTH <= allowed)
    if not FEATURES_FIRST:  # without fast tensor cores logarithms are cheaper, where they are exact enough
        narrow = narrow & (exact_enough == 0)
        wide = wide & (exact_enough == 0)
    return narrow, wide, exact_enough, reach, tail, length, contrast, allowed


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


# one compilation for all sizes
@triton.jit(do_not_specialize=["classes", "pairs_total", "n_tiles", "n_blocks", "n_scales"])
def divergence_kernel(
    planes_ptr,  # [B, PLANES, classes padded, rows]
    base_ptr,  # [B, S, classes padded]
    to_base_ptr,  # [B, 2, rows]: KL and JS of a row and the base
    statistics_ptr,  # [B, blocks, STATISTICS]
    pairs_ptr,  # [B, pairs]
    scales_ptr,
    tiles_ptr,
    classes,
    padded_classes,
    rows_total,
    pairs_total,
    n_tiles,
    n_blocks,
    n_scales,
    METRIC: tl.constexpr,
    MIRRORED: tl.constexpr,
    FAST: tl.constexpr,
    FEATURES_FIRST: tl.constexpr,
    PRODUCTS: tl.constexpr,
    K_MAJOR: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LARGE: tl.constexpr = False,
):
    """One tile of the pairwise divergence of one scale of one image. LARGE: a plane has 2^31 elements or more."""
    program = tl.program_id(0)
    image = (program // n_tiles).to(tl.int64)
    tile_ptr = tiles_ptr + 3 * (program % n_tiles)
    scale = tl.load(tile_ptr)
    i = tl.multiple_of(tl.load(tile_ptr + 1), BLOCK)
    j = tl.multiple_of(tl.load(tile_ptr + 2), BLOCK)
    scale_ptr = scales_ptr + scale * FIELDS
    first_row = tl.multiple_of(tl.load(scale_ptr + 2), BLOCK)
    first_column = tl.multiple_of(tl.load(scale_ptr + 12), BLOCK)
    columns_count = tl.load(scale_ptr + 13)
    lane = tl.arange(0, BLOCK)

    PLANES: tl.constexpr = 2 if METRIC == "kl" else 1
    plane = padded_classes.to(tl.int64) * rows_total
    if LARGE:
        rows_total = rows_total.to(tl.int64)
    row_ptr = planes_ptr + image * PLANES * plane + first_row + i
    column_ptr = planes_ptr + image * PLANES * plane + first_column + j
    if METRIC == "js":
        base_ptr += (image * n_scales + scale) * padded_classes
        statistics_ptr += (image * n_blocks + tl.load(scale_ptr + 10)) * STATISTICS
        blocks = tl.load(scale_ptr + 11).to(tl.int32)
        narrow, wide, exact_enough, _, _, _, _, _ = choice(statistics_ptr, blocks, classes, FEATURES_FIRST)
        one = (columns_count > 0).to(tl.int32)
        to_base_ptr += image * 2 * rows_total
        kl_rows_ptr = to_base_ptr + first_row + i + lane
        kl_columns_ptr = to_base_ptr + first_column + j + lane
        if narrow:
            divergence = _js_by_features(
                row_ptr,
                column_ptr,
                base_ptr,
                tl.load(kl_rows_ptr + rows_total),
                tl.load(kl_columns_ptr + rows_total),
                rows_total,
                padded_classes,
                one,
                False,
                FAST,
                PRODUCTS,
                K_MAJOR,
                BLOCK,
                BLOCK_CLASSES,
            )
        elif wide:
            divergence = _js_by_features(
                row_ptr,
                column_ptr,
                base_ptr,
                tl.load(kl_rows_ptr + rows_total),
                tl.load(kl_columns_ptr + rows_total),
                rows_total,
                padded_classes,
                one,
                True,
                FAST,
                PRODUCTS,
                K_MAJOR,
                BLOCK,
                BLOCK_CLASSES,
            )
        elif exact_enough & (_most_bits(kl_rows_ptr, kl_columns_ptr) <= MOST_BITS):
            divergence = _js_by_logarithms(
                row_ptr,
                column_ptr,
                base_ptr,
                tl.load(kl_rows_ptr),
                tl.load(kl_columns_ptr),
                rows_total,
                classes,
                FAST,
                BLOCK,
                ROWS,
                COLUMNS,
            )
        else:
            divergence = _js_by_definition(
                row_ptr, column_ptr, base_ptr, rows_total, classes, FAST, BLOCK, ROWS, COLUMNS
            )
        # rounding leaves a trace on the diagonal; NaN stays
        apart = (first_column + j - first_row - i).to(tl.int32)  # rows of the planes, a multiple of BLOCK
        itself = lane[:, None] == (lane + apart)[None, :]
        divergence = tl.where(itself, tl.minimum(divergence, 0.0, propagate_nan=tl.PropagateNan.ALL), divergence)
    elif METRIC == "kl":
        divergence = _kl(row_ptr, column_ptr, plane, rows_total, classes, BLOCK, ROWS, COLUMNS)
    else:
        divergence = _wasserstein(row_ptr, column_ptr, rows_total, classes, BLOCK, ROWS, COLUMNS)

    kept_first = tl.load(scale_ptr + 4)
    kept_stop = tl.load(scale_ptr + 5)
    pairs_ptr += image * pairs_total + tl.load(scale_ptr + 3)
    # from the tile's corner on 32 bits suffice
    row = lane + (i - kept_first).to(tl.int32)
    inside_row = (row >= 0) & (row < (kept_stop - kept_first).to(tl.int32))
    inside_column = lane < (columns_count - j).to(tl.int32)
    step = columns_count.to(tl.int32)
    corner_ptr = pairs_ptr + (i - kept_first) * columns_count + j
    tl.store(
        corner_ptr + (lane[:, None] * step + lane[None, :]), divergence, inside_row[:, None] & inside_column[None, :]
    )
    if MIRRORED:
        if i != j:
            corner_ptr = pairs_ptr + j * columns_count + i
            offsets = lane[:, None] * step + lane[None, :]
            tl.store(corner_ptr + offsets, tl.trans(divergence), inside_column[:, None] & inside_row[None, :])
