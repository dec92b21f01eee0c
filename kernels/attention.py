"""Third stage: resize the divergence to the full grid, normalise its rows, average the scales; in one launch.

A program holds whole rows of the map, so that a row's extremes and sum need no second pass.
"""

import triton
import triton.language as tl

from .distributions import FIELDS
from .functions import LOG2E, exp2

EPSILON = tl.constexpr(1e-8)  # added to the denominator of each row min-max
FLATNESS = tl.constexpr(2.0**-20)  # a row of a smaller range, as a share of its largest divergence, is flat


@triton.jit
def _one_minus_exp(x):
    """``1 - e^x`` for x <= 0, to the last digits also near 0."""
    series = 1 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x * (1 / 720)))))
    return tl.where(x > -0.25, -x * series, 1 - tl.exp(x))


@triton.jit
def normalise(
    divergence,
    inside,
    valid,
    valid_lane,
    inverse_temperature,
    rounding,
    MINMAX_BEFORE: tl.constexpr,
    MINMAX_AFTER: tl.constexpr,
    FAST: tl.constexpr,
):
    """Row min-max of ``1 - D``, row softmax (Eq. 2), row min-max by its closed form.  # [SLOTS, BLOCK_ROWS, LANES]

    Returned are values and their gain, a factor of each row's. Places inside that are not valid repeat a valid one.
    A flat row is constant. What is not inside costs nothing where the compiler knows: a sum with -0 vanishes.
    """
    low = tl.min(tl.min(tl.where(inside, divergence, float("inf")), axis=0), axis=1)[None, :, None]
    high = tl.max(tl.max(tl.where(inside, divergence, float("-inf")), axis=0), axis=1)[None, :, None]
    rate = inverse_temperature
    if MINMAX_BEFORE:
        rate = inverse_temperature / (high - low + EPSILON)
    # a row that holds rounding alone is flat; an infinite one is not
    rate = tl.where((high - low <= high * FLATNESS + rounding) & (high < float("inf")), 0.0, rate)
    # the softmax sees neither the 1 nor a row's constant: the rounding of the offset is one, and cancels
    slope = rate * -LOG2E
    offset = low * slope
    exponential = exp2(tl.fma(divergence, slope, -offset), FAST)
    total = tl.sum(tl.where(valid & inside, exponential, -0.0), axis=0)[None, :, :]
    total = tl.sum(tl.where(valid_lane, total, 0.0), axis=2)[:, :, None]
    most = exp2(tl.fma(low, slope, -offset), FAST)
    if not MINMAX_AFTER:
        return exponential, 1 / total
    elif MINMAX_BEFORE:
        least = exp2(tl.fma(high, slope, -offset), FAST)
        return exponential - least, 1 / ((most - least) + total * EPSILON)
    else:  # rows as flat as they come, where e^-a - e^-b would cancel
        gain = 1 / (most * _one_minus_exp((low - high) * rate) + total * EPSILON)
        return exponential * _one_minus_exp((divergence - high) * rate), gain


@triton.jit(do_not_specialize=["pairs_total", "n_rows"])
def normalise_kernel(
    pairs_ptr,  # [B, pairs], overwritten
    scales_ptr,
    pairs_total,
    n_rows,
    inverse_temperature,
    rounding,  # of a divergence of equal rows
    MINMAX_BEFORE: tl.constexpr,
    MINMAX_AFTER: tl.constexpr,
    FAST: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Normalises one row of every scale's divergence in place: the paper's order resizes the attention map."""
    program = tl.program_id(0)
    scale_ptr = scales_ptr + tl.program_id(1) * FIELDS
    image = (program // n_rows).to(tl.int64)
    row = (program % n_rows).to(tl.int64)
    count = tl.load(scale_ptr + 5) - tl.load(scale_ptr + 4)
    if row < count:
        columns_count = tl.load(scale_ptr + 13)
        columns = tl.arange(0, BLOCK_COLUMNS)[None, None, :]
        every = columns >= 0
        valid = columns < columns_count
        columns = tl.minimum(columns, columns_count - 1)
        pointers = pairs_ptr + image * pairs_total + tl.load(scale_ptr + 3) + row * columns_count + columns
        value, gain = normalise(
            tl.load(pointers), every, every, valid, inverse_temperature, rounding, MINMAX_BEFORE, MINMAX_AFTER, FAST
        )
        tl.debug_barrier()  # the places that are not valid read the last one
        tl.store(pointers, value * gain, valid)


@triton.jit
def up_tap(taps_ptr, index):
    """First of the two neighbours of a place on one axis, in patches of the grid, and the second's share."""
    entry = tl.load(taps_ptr + index)
    return entry.to(tl.int32), (entry >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _resized(row_ptr, y0, x0, wy, wx, next_row, next_column, inside):
    """Places of the full grid, bilinear, from a row over a scale's grid."""
    # contiguous is not quite true, and widens no load, as the offsets are multiples of nothing; without it Triton 3.2
    # to 3.7 lay the slots along a warp
    above = tl.max_contiguous(y0 + x0, [1, 1, 32])
    below = tl.max_contiguous(above + next_row, [1, 1, 32])
    top = tl.load(row_ptr + above, inside)
    top += wx * (tl.load(row_ptr + above + next_column, inside) - top)
    bottom = tl.load(row_ptr + below, inside)
    bottom += wx * (tl.load(row_ptr + below + next_column, inside) - bottom)
    return top + wy * (bottom - top)


# one compilation for all sizes of a layout
@triton.jit(
    do_not_specialize=[
        "height",
        "width",
        "pairs_total",
        "scratch_columns",
        "first_row",
        "row_count",
        "n_scales",
    ]
)
def attention_kernel(
    pairs_ptr,  # [B, pairs]
    scratch_ptr,  # [B, strip rows, scratch columns]
    out_ptr,  # [B, strip rows, N]
    scales_ptr,
    taps_ptr,
    height,
    width,
    pairs_total,
    scratch_columns,
    first_row,
    row_count,
    n_scales,
    inverse_temperature,
    rounding,
    OFFICIAL: tl.constexpr,
    MINMAX_BEFORE: tl.constexpr,
    MINMAX_AFTER: tl.constexpr,
    NARROW: tl.constexpr,
    FAST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    LANES: tl.constexpr,
    PATCH_ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    CERTAIN: tl.constexpr,
    USED: tl.constexpr,
    BLOCK_SCALED: tl.constexpr,
):
    """Rows of the mean attention map of one image: resize on both patch axes, normalise, mean over scales (Eq. 3).

    A row's places lie as [SLOTS, LANES]: a slot is PATCH_ROWS rows of patches, so that a lane keeps its column of
    patches, and the last slots, from USED on, are empty. The resize goes axis by axis: 4 rows of pairs, read along
    their columns, give a row of scratch, and 4 places of that row each place of the map.
    """
    program = tl.program_id(0)
    blocks = tl.cdiv(row_count, BLOCK_ROWS)
    image = (program // blocks).to(tl.int64)
    # the last program repeats the last row
    in_strip = tl.minimum((program % blocks) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS), row_count - 1)[None, :, None]
    row_y = (first_row + in_strip) // width
    row_x = (first_row + in_strip) % width
    lane = tl.arange(0, LANES)[None, None, :]
    slot = tl.arange(0, SLOTS)[:, None, None]
    if PATCH_ROWS == 1:
        valid_lane = lane < width
        x = tl.max_contiguous(tl.minimum(lane, width - 1), [1, 1, 32])
        y = slot
        tap_y = y
    else:
        valid_lane = lane < width * PATCH_ROWS
        x = tl.max_contiguous(lane % width, [1, 1, 32])
        y = tl.max_contiguous(slot * PATCH_ROWS + tl.minimum(lane // width, PATCH_ROWS - 1), [1, 1, 32])
        # for every row of the map itself, or the warps share the loads and exchange them
        tap_y = y + tl.zeros([SLOTS, BLOCK_ROWS, LANES], tl.int32)
    inside = slot < USED
    valid = (slot < CERTAIN) | (y < height)
    columns = tl.where(slot < CERTAIN, y, tl.minimum(y, height - 1)) * width + x
    columns = tl.max_contiguous(columns, [1, 1, 32])
    scaled_lane = tl.arange(0, BLOCK_SCALED)[:, None, None] * LANES + lane
    scratch = scratch_ptr + (image * row_count + in_strip) * scratch_columns

    attention = tl.zeros([SLOTS, BLOCK_ROWS, LANES], tl.float32)
    for scale in range(0, n_scales):
        scale_ptr = scales_ptr + scale * FIELDS
        scaled_height = tl.load(scale_ptr).to(tl.int32)
        scaled_width = tl.load(scale_ptr + 1).to(tl.int32)
        kept_first = tl.load(scale_ptr + 4).to(tl.int32)
        count = tl.load(scale_ptr + 13).to(tl.int32)
        scale_pairs_ptr = pairs_ptr + image * pairs_total + tl.load(scale_ptr + 3)
        if (scaled_height == height) & (scaled_width == width):
            row_ptr = scale_pairs_ptr + (first_row + in_strip - kept_first).to(tl.int64) * count
            value = tl.load(row_ptr + columns, inside)
        else:
            taps_y = taps_ptr + tl.load(scale_ptr + 8)
            taps_x = taps_ptr + tl.load(scale_ptr + 9)
            next_row = scaled_width
            next_column: tl.constexpr = 1
            if NARROW:
                next_row = tl.where(scaled_height > 1, scaled_width, 0)
                next_column = tl.minimum(scaled_width - 1, 1)
            y0, wy = up_tap(taps_y, row_y)
            x0, wx = up_tap(taps_x, row_x)
            row00 = scale_pairs_ptr + (y0 + x0 - kept_first).to(tl.int64) * count
            row01 = row00 + count * next_column
            row10 = row00 + next_row.to(tl.int64) * count
            row11 = row10 + count * next_column
            w11 = wy * wx
            w10 = wy - w11
            w01 = wx - w11
            w00 = 1 - wy - wx + w11
            tl.debug_barrier()  # the scale before has been read
            for start in range(0, count, BLOCK_SCALED * LANES):
                place = start + scaled_lane
                here = place < count
                value = w00 * tl.load(row00 + place, here) + w01 * tl.load(row01 + place, here)
                value += w10 * tl.load(row10 + place, here) + w11 * tl.load(row11 + place, here)
                tl.store(scratch + place, value, here)
            tl.debug_barrier()  # other threads read what these wrote
            y0, wy = up_tap(taps_y, tap_y)
            x0, wx = up_tap(taps_x, x)
            value = _resized(scratch, y0, x0, wy, wx, next_row, next_column, inside)
        gain = 1.0 / n_scales
        if OFFICIAL:
            value, row_gain = normalise(
                value, inside, valid, valid_lane, inverse_temperature, rounding, MINMAX_BEFORE, MINMAX_AFTER, FAST
            )
            gain *= row_gain
        attention += value * gain

    out = out_ptr + (image * row_count + in_strip) * (height * width) + columns
    tl.store(out, attention.to(out_ptr.dtype.element_ty), inside & valid & valid_lane)
