"""Third stage: resize the divergence to the full grid, normalise its rows, average the scales; in one launch.

A program holds whole rows of the map, so that a row's extremes and sum need no second pass.
"""

import triton
import triton.language as tl

from .distributions import FIELDS, tap
from .functions import exp2

EPSILON = tl.constexpr(1e-8)  # added to the denominator of each row min-max
RESOLUTION = tl.constexpr(2.0**-23)  # of float32 at 1
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _one_minus_exp(x):
    """``1 - e^x`` for x <= 0, to the last digits also near 0."""
    series = 1 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x * (1 / 720)))))
    return tl.where(x > -0.25, -x * series, 1 - tl.exp(x))


@triton.jit
def normalise(
    divergence,
    valid,
    inverse_temperature,
    MINMAX_BEFORE: tl.constexpr,
    MINMAX_AFTER: tl.constexpr,
    FAST: tl.constexpr,
):
    """Row min-max of ``1 - D``, row softmax (Eq. 2), row min-max by its closed form.  # [BLOCK_ROWS, BLOCK_COLUMNS]

    Places that are not valid repeat a valid one. A flat row is constant.
    """
    low = tl.min(divergence, axis=1)[:, None]
    high = tl.max(divergence, axis=1)[:, None]
    rate = inverse_temperature
    if MINMAX_BEFORE:
        rate = inverse_temperature / (high - low + EPSILON)
    # a row that holds rounding alone is flat; an infinite one is not
    rate = tl.where((high - low <= (high * 8 + 1) * RESOLUTION) & (high < float("inf")), 0.0, rate)
    # the softmax sees neither the 1 nor a row's constant
    exponential = exp2((low - divergence) * (rate * LOG2E), FAST)
    total = tl.sum(tl.where(valid, exponential, 0.0), axis=1)[:, None]
    if not MINMAX_AFTER:
        return exponential * (1 / total)
    elif MINMAX_BEFORE:
        least = exp2((low - high) * (rate * LOG2E), FAST)
        return (exponential - least) * (1 / ((1 - least) + total * EPSILON))
    else:  # rows as flat as they come, where e^-a - e^-b would cancel
        gain = 1 / (_one_minus_exp((low - high) * rate) + total * EPSILON)
        return exponential * _one_minus_exp((divergence - high) * rate) * gain


@triton.jit(do_not_specialize=["pairs_total", "n_rows"])
def normalise_kernel(
    pairs_ptr,  # [B, pairs], overwritten
    scales_ptr,
    pairs_total,
    n_rows,
    inverse_temperature,
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
        columns = tl.arange(0, BLOCK_COLUMNS)[None, :]
        valid = columns < columns_count
        columns = tl.minimum(columns, columns_count - 1)
        pointers = pairs_ptr + image * pairs_total + tl.load(scale_ptr + 3) + row * columns_count + columns
        value = normalise(tl.load(pointers), valid, inverse_temperature, MINMAX_BEFORE, MINMAX_AFTER, FAST)
        tl.debug_barrier()  # the places that are not valid read the last one
        tl.store(pointers, value, valid)


@triton.jit
def _resized_columns(row_ptr, columns, width, scaled_width, taps_y, taps_x, low_ptr, step_ptr, weight_ptr):
    """Places of a row over a scale's grid, bilinear, at columns of the full grid."""
    y0, y1, wy = tap(low_ptr, step_ptr, weight_ptr, taps_y + columns // width)
    x0, x1, wx = tap(low_ptr, step_ptr, weight_ptr, taps_x + columns % width)
    y0 = (y0 * scaled_width)[None, :]
    y1 = (y1 * scaled_width)[None, :]
    x0 = x0[None, :]
    x1 = x1[None, :]
    wx = wx[None, :]
    top = tl.load(row_ptr + (y0 + x0))
    top += wx * (tl.load(row_ptr + (y0 + x1)) - top)
    bottom = tl.load(row_ptr + (y1 + x0))
    bottom += wx * (tl.load(row_ptr + (y1 + x1)) - bottom)
    return top + wy[None, :] * (bottom - top)


# one compilation for all sizes
@triton.jit(
    do_not_specialize=[
        "height",
        "width",
        "pairs_total",
        "scratch_columns",
        "scaled_columns_total",
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
    low_ptr,
    step_ptr,
    weight_ptr,
    height,
    width,
    pairs_total,
    scratch_columns,
    scaled_columns_total,
    first_row,
    row_count,
    n_scales,
    inverse_temperature,
    OFFICIAL: tl.constexpr,
    MINMAX_BEFORE: tl.constexpr,
    MINMAX_AFTER: tl.constexpr,
    FAST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_SCALED: tl.constexpr,
    BLOCK_RESIZED: tl.constexpr,
):
    """Rows of the mean attention map of one image: resize on both patch axes, normalise, mean over scales (Eq. 3).

    The resize goes axis by axis: 4 rows of pairs, read along their columns, give a row of scratch, and 4 places of
    that row each place of the map. Both at once would gather 16 values for each place.
    """
    program = tl.program_id(0)
    blocks = tl.cdiv(row_count, BLOCK_ROWS)
    image = (program // blocks).to(tl.int64)
    # the last program repeats the last row
    in_strip = tl.minimum((program % blocks) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS), row_count - 1)
    row_y = (first_row + in_strip) // width
    row_x = (first_row + in_strip) % width
    columns = tl.arange(0, BLOCK_COLUMNS)
    valid = (columns < height * width)[None, :]
    columns = tl.minimum(columns, height * width - 1)
    scaled_columns = tl.arange(0, BLOCK_SCALED)[None, :]
    scratch = scratch_ptr + ((image * row_count + in_strip) * scratch_columns)[:, None]
    share = 1.0 / n_scales

    attention = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], tl.float32)
    for scale in range(0, n_scales):
        scale_ptr = scales_ptr + scale * FIELDS
        scaled_height = tl.load(scale_ptr).to(tl.int32)
        scaled_width = tl.load(scale_ptr + 1).to(tl.int32)
        kept_first = tl.load(scale_ptr + 4).to(tl.int32)
        count = tl.load(scale_ptr + 13).to(tl.int32)
        scale_pairs_ptr = pairs_ptr + image * pairs_total + tl.load(scale_ptr + 3)
        if (scaled_height == height) & (scaled_width == width):
            row_ptr = scale_pairs_ptr + ((first_row + in_strip - kept_first).to(tl.int64) * count)[:, None]
            value = tl.load(row_ptr + columns[None, :])
        else:
            taps_y = tl.load(scale_ptr + 8).to(tl.int32)
            taps_x = tl.load(scale_ptr + 9).to(tl.int32)
            y0, y1, wy = tap(low_ptr, step_ptr, weight_ptr, taps_y + row_y)
            x0, x1, wx = tap(low_ptr, step_ptr, weight_ptr, taps_x + row_x)
            y0 = y0 * scaled_width - kept_first
            y1 = y1 * scaled_width - kept_first
            row00 = scale_pairs_ptr + ((y0 + x0).to(tl.int64) * count)[:, None]
            row01 = scale_pairs_ptr + ((y0 + x1).to(tl.int64) * count)[:, None]
            row10 = scale_pairs_ptr + ((y1 + x0).to(tl.int64) * count)[:, None]
            row11 = scale_pairs_ptr + ((y1 + x1).to(tl.int64) * count)[:, None]
            w11 = wy * wx
            w10 = (wy - w11)[:, None]
            w01 = (wx - w11)[:, None]
            w00 = (1 - wy - wx + w11)[:, None]
            w11 = w11[:, None]
            tl.debug_barrier()  # the scale before has been read
            for start in range(0, count, BLOCK_SCALED):
                place = start + scaled_columns
                here = place < count
                value = w00 * tl.load(row00 + place, here, 0.0) + w01 * tl.load(row01 + place, here, 0.0)
                value += w10 * tl.load(row10 + place, here, 0.0) + w11 * tl.load(row11 + place, here, 0.0)
                tl.store(scratch + place, value, here)
            tl.debug_barrier()  # other threads read what these wrote

            if BLOCK_COLUMNS <= BLOCK_RESIZED:
                value = _resized_columns(
                    scratch, columns, width, scaled_width, taps_y, taps_x, low_ptr, step_ptr, weight_ptr
                )
            else:  # a long row's taps and values would not fit the registers together
                resized = scratch + scaled_columns_total
                for start in range(0, BLOCK_COLUMNS, BLOCK_RESIZED):
                    place = tl.minimum(start + tl.arange(0, BLOCK_RESIZED), height * width - 1)
                    value = _resized_columns(
                        scratch, place, width, scaled_width, taps_y, taps_x, low_ptr, step_ptr, weight_ptr
                    )
                    tl.store(resized + place[None, :], value)
                tl.debug_barrier()
                value = tl.load(resized + columns[None, :])
        if OFFICIAL:
            value = normalise(value, valid, inverse_temperature, MINMAX_BEFORE, MINMAX_AFTER, FAST)
        attention += share * value

    out = out_ptr + ((image * row_count + in_strip) * (height * width))[:, None] + columns[None, :]
    tl.store(out, attention.to(out_ptr.dtype.element_ty), valid)
