"""Second stage: the divergence of every pair of patches of every scale, in one launch over a list of tiles.

Jensen-Shannon has three paths, and a tile takes the cheapest that the statistics of its scale allow; README.md has
the derivations, the bounds and the counts. The rows that they read hold ``x = p / (2 b)``, b the base distribution.
"""

import triton
import triton.language as tl

from . import features
from .distributions import FIELDS, STATISTICS
from .js_by_definition import _js_by_definition
from .js_by_features import _js_by_features
from .js_by_logarithms import _js_by_logarithms
from .other_metrics import _kl, _wasserstein

TRUNCATION = tl.constexpr(3e-6)  # most that features may leave out, as a share of the contrast
NEGLIGIBLE_RANGE = tl.constexpr(1e-8)  # rows of a smaller range are judged as if they had this one
LEAST_CONTRAST = tl.constexpr(2e-3)  # below, logarithms right to 2^-22 are not enough for MANY_CLASSES or more
MANY_CLASSES = tl.constexpr(128)  # errors of fewer average less: their least contrast goes with 1 over the root
FEW_CLASSES = tl.constexpr(16)  # and of so few they may all be of one sign, while the definition is cheap
MOST_BITS = tl.constexpr(9.0)  # of a distribution's KL to the base: one-hot rows of classes that no sample has


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
