"""Second stage: the divergence of every pair of patches of every scale, in one launch over a list of tiles.

Jensen-Shannon has three paths, and a tile takes the cheapest that the statistics of its scale allow; README.md has
the derivations, the bounds and the counts. The rows that they read hold ``x = p / (2 b)``, b the base distribution.
"""

import triton
import triton.language as tl

from .distributions import FIELDS, STATISTICS
from .functions import log2, reciprocal, sqrt

LN2 = tl.constexpr(0.6931471805599453)
RANKS = tl.constexpr(6)
COEFFICIENTS = tl.constexpr(12)  # of a feature, the largest degree plus 1
WIDTHS = tl.constexpr(16)  # of the feature table, padded
TRUNCATION = tl.constexpr(3e-6)  # most that features may leave out, as a share of the largest range of a row
ROUNDING = tl.constexpr(5e-7)  # of a float32 product of features, as a share of their squared length
NEGLIGIBLE_RANGE = tl.constexpr(1e-8)  # rows of a smaller range are judged as if they had this one
LEAST_CONTRAST = tl.constexpr(2e-3)  # below, logarithms right to 2^-22 are not enough for MANY_CLASSES or more
MANY_CLASSES = tl.constexpr(128)  # errors of fewer average less: their least contrast goes with 1 over the root
FEW_CLASSES = tl.constexpr(16)  # and of so few they may all be of one sign, while the definition is cheap

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
def _js_by_logarithms(
    row_ptr,
    column_ptr,
    base_ptr,
    row_entropy,
    column_entropy,
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
    for start in range(0, classes, 2):
        for k in tl.static_range(2):
            c = start + k
            x = tl.load(row_ptr + c * rows_total)
            y = tl.load(column_ptr + c * rows_total)
            m = x[:, None, :, None] + y[None, :, None, :]  # of the pair's mean, its ratio to the base
            cross += tl.load(base_ptr + c) * (m * log2(m, FAST))
    return ((row_entropy[:, None] + column_entropy[None, :]) / 2 - _as_tile(cross, BLOCK)) * LN2


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
def _cheapest_features(features_ptr, statistics_ptr, blocks, contrast):
    """Least rank whose bound the data meets, and the entry of the feature table that has it; rank 0 where none does.

    The bound is twice ``floor sum_c v^2 + growth sum_c v^2 (s/width)^6`` plus rounding; see README.md.
    """
    entry = tl.arange(0, WIDTHS)
    rank = tl.arange(0, 8)
    width = tl.load(features_ptr + entry)
    bound_ptr = features_ptr + WIDTHS + entry[:, None] * 8 + rank[None, :]
    floor = tl.load(bound_ptr)
    growth = tl.load(bound_ptr + WIDTHS * 8)
    tail = _largest(statistics_ptr, blocks, 1)
    mass = _largest(statistics_ptr, blocks, 2)
    inverse = 1 / width
    power = inverse * inverse * inverse
    bound = 2 * (floor * mass + growth * (tail * power * power)[:, None])
    bound += _largest(statistics_ptr, blocks, 3) * ROUNDING
    served = (width >= _largest(statistics_ptr, blocks, 0))[:, None]
    served = served & (bound <= (contrast + NEGLIGIBLE_RANGE) * TRUNCATION)
    none = (RANKS + 1) * WIDTHS
    choice = tl.where(served, (rank[None, :] + 1) * WIDTHS + entry[:, None], none)
    choice = tl.min(tl.min(choice, axis=1), axis=0)
    return tl.where(choice < none, choice // WIDTHS, 0), choice % WIDTHS


@triton.jit
def _feature(position, weight, coefficients_ptr, DEGREE: tl.constexpr):
    """A polynomial in ``s / width`` times ``v``, by Horner's rule."""
    value = position * tl.load(coefficients_ptr + DEGREE) + tl.load(coefficients_ptr + DEGREE - 1)
    for k in tl.static_range(DEGREE - 1):
        value = value * position + tl.load(coefficients_ptr + (DEGREE - 2 - k))
    return value * weight


@triton.jit
def _position(ratio, root_base, inverse_width, FAST: tl.constexpr):
    """``s / width`` and ``v``, where ``s = (sqrt p - sqrt b) / v`` and ``v = sqrt p + sqrt b``."""
    root = sqrt(2 * ratio, FAST)
    weight = root + 1
    return (root - 1) * inverse_width * reciprocal(weight, FAST), root_base * weight


@triton.jit
def _product(rows, columns, cross, FINE: tl.constexpr):
    """``rows^T columns + cross``, to float32 accuracy.

    Split: each factor as a TF32 number and the rest, and three products. Triton's own "tf32x3" splits again
    for every slice of the product: a third more instructions, and on mma.sync the warps repeat each other's work.
    """
    if FINE == "split":
        # TF32 has 10 bits after the point: 13 less than float32
        high_rows = (rows.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
        high_columns = (columns.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
        low_rows = tl.trans(rows - high_rows)
        low_columns = columns - high_columns
        high_rows = tl.trans(high_rows)
        cross = tl.dot(low_rows, high_columns, cross, input_precision="tf32")
        cross = tl.dot(high_rows, low_columns, cross, input_precision="tf32")
        return tl.dot(high_rows, high_columns, cross, input_precision="tf32")
    else:
        return tl.dot(tl.trans(rows), columns, cross, input_precision=FINE)


@triton.jit
def _js_by_features(
    row_ptr,
    column_ptr,
    base_ptr,
    coefficients_ptr,
    width,
    rank,
    rows_total,
    padded_classes,
    FAST: tl.constexpr,
    FINE: tl.constexpr,
    COARSE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
):
    """``JS = |f_i - f_j|^2 / 2``: products of the first features, on tensor cores.

    The first two carry nearly all of it and take FINE products; the others are small enough for COARSE ones.
    """
    inverse_width = 1 / width
    lane = tl.arange(0, BLOCK)[None, :]
    chunk = tl.arange(0, BLOCK_CLASSES)[:, None]
    cross = tl.zeros([BLOCK, BLOCK], tl.float32)
    row_square = tl.zeros([BLOCK_CLASSES, BLOCK], tl.float32)
    column_square = tl.zeros([BLOCK_CLASSES, BLOCK], tl.float32)
    for start in range(0, padded_classes, BLOCK_CLASSES):
        c = start + chunk
        root_base = sqrt(tl.load(base_ptr + c), FAST)
        # [BLOCK_CLASSES, BLOCK]
        row_position, row_weight = _position(tl.load(row_ptr + c * rows_total + lane), root_base, inverse_width, FAST)
        column_position, column_weight = _position(
            tl.load(column_ptr + c * rows_total + lane), root_base, inverse_width, FAST
        )
        rows = _feature(row_position, row_weight, coefficients_ptr, 11)
        columns = _feature(column_position, column_weight, coefficients_ptr, 11)
        cross = _product(rows, columns, cross, FINE)
        row_square += rows * rows
        column_square += columns * columns
        rows = _feature(row_position, row_weight, coefficients_ptr + COEFFICIENTS, 10)
        columns = _feature(column_position, column_weight, coefficients_ptr + COEFFICIENTS, 10)
        cross = _product(rows, columns, cross, FINE)
        row_square += rows * rows
        column_square += columns * columns
        for r in range(2, rank):
            rows = _feature(row_position, row_weight, coefficients_ptr + r * COEFFICIENTS, 8)
            columns = _feature(column_position, column_weight, coefficients_ptr + r * COEFFICIENTS, 8)
            cross = tl.dot(tl.trans(rows), columns, cross, input_precision=COARSE)
            row_square += rows * rows
            column_square += columns * columns
    return (tl.sum(row_square, axis=0)[:, None] + tl.sum(column_square, axis=0)[None, :]) / 2 - cross


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
    entropy_ptr,  # [B, rows]
    statistics_ptr,  # [B, blocks, STATISTICS]
    pairs_ptr,  # [B, pairs]
    scales_ptr,
    tiles_ptr,
    features_ptr,
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
    FINE: tl.constexpr,
    COARSE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One tile of the pairwise divergence of one scale of one image."""
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
    rows = i + tl.arange(0, BLOCK)
    columns = j + tl.arange(0, BLOCK)

    PLANES: tl.constexpr = 2 if METRIC == "kl" else 1
    plane = padded_classes.to(tl.int64) * rows_total
    row_ptr = planes_ptr + image * PLANES * plane + first_row + i
    column_ptr = planes_ptr + image * PLANES * plane + first_column + j
    if METRIC == "js":
        base_ptr += (image * n_scales + scale) * padded_classes
        statistics_ptr += (image * n_blocks + tl.load(scale_ptr + 10)) * STATISTICS
        blocks = tl.load(scale_ptr + 11).to(tl.int32)
        # JS(row, base) is at least this for some row, and no row's range is below a quarter of it
        contrast = 0.34 * _largest(statistics_ptr, blocks, 4)
        averaging = tl.minimum(classes, MANY_CLASSES).to(tl.float32)
        enough = contrast * contrast * averaging > LEAST_CONTRAST * LEAST_CONTRAST * MANY_CLASSES
        exact_enough = enough & (classes > FEW_CLASSES)
        rank, entry = _cheapest_features(features_ptr, statistics_ptr, blocks, contrast)
        if FEATURES_FIRST:
            by_features = rank > 0
        else:  # without tensor cores logarithms are cheaper, where they are exact enough
            by_features = (rank > 0) & (exact_enough == 0)
        if by_features:
            divergence = _js_by_features(
                row_ptr,
                column_ptr,
                base_ptr,
                features_ptr + WIDTHS * 17 + entry * (RANKS * COEFFICIENTS),
                tl.load(features_ptr + entry),
                rank,
                rows_total,
                padded_classes,
                FAST,
                FINE,
                COARSE,
                BLOCK,
                BLOCK_CLASSES,
            )
        elif exact_enough:
            entropy_ptr += image * rows_total
            divergence = _js_by_logarithms(
                row_ptr,
                column_ptr,
                base_ptr,
                tl.load(entropy_ptr + first_row + rows),
                tl.load(entropy_ptr + first_column + columns),
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
        # rounding may go below 0, and leave a trace on the diagonal; NaN stays
        itself = first_row + rows[:, None] == first_column + columns[None, :]
        divergence = tl.where((divergence < 0) | (itself & (divergence == divergence)), 0.0, divergence)
    elif METRIC == "kl":
        divergence = _kl(row_ptr, column_ptr, plane, rows_total, classes, BLOCK, ROWS, COLUMNS)
    else:
        divergence = _wasserstein(row_ptr, column_ptr, rows_total, classes, BLOCK, ROWS, COLUMNS)

    kept_first = tl.load(scale_ptr + 4)
    kept_stop = tl.load(scale_ptr + 5)
    pairs_ptr += image * pairs_total + tl.load(scale_ptr + 3)
    out = pairs_ptr + (rows - kept_first)[:, None] * columns_count + columns[None, :]
    kept = ((rows >= kept_first) & (rows < kept_stop))[:, None] & (columns < columns_count)[None, :]
    tl.store(out, divergence, kept)
    if MIRRORED:
        if i != j:
            out = pairs_ptr + columns[:, None] * columns_count + rows[None, :]
            kept = (columns < columns_count)[:, None] & (rows < kept_stop)[None, :]
            tl.store(out, tl.trans(divergence), kept)
