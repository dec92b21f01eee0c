"""First stage: the class distribution of every patch at every scale, in one launch.

A program takes `BLOCK_ROWS` patches of one scale of one image. It goes over the classes twice: once for the
softmax's maximum and sum, once to write. The same two passes over `SAMPLES` patches of the image, spread over the scale
and not resized, give every program the same base distribution, their mean, without a second launch.
"""

import triton
import triton.language as tl

from .features import js_to_base_of
from .functions import LOG2E, log2, reciprocal, sqrt
from .resizing import _at_samples, _neighbours, _resized, _tap, _weights
from .softmax import _power, _softmax

SAMPLES = tl.constexpr(16)
FIELDS = tl.constexpr(14)  # of a scale in plan.py
STATISTICS = tl.constexpr(4)  # of a block: reach, tail, length, spread
LEAST = tl.constexpr(1e-30)  # stands for 0 under a logarithm: too small for any sum, and its reciprocal is finite


# one compilation for all sizes
@triton.jit(do_not_specialize=["stride_b", "stride_c", "stride_h", "stride_w", "classes", "n_blocks", "n_scales"])
def distributions_kernel(
    similarity_ptr,
    stride_b,
    stride_c,
    stride_h,
    stride_w,
    planes_ptr,  # [B, PLANES, classes padded, rows]
    base_ptr,  # [B, S, classes padded]
    to_base_ptr,  # [B, 2, rows]: KL and JS of a row and the base
    statistics_ptr,  # [B, blocks, STATISTICS]
    scales_ptr,
    blocks_ptr,
    taps_ptr,
    inverse_temperature,
    classes,
    padded_classes,
    rows_total,
    n_blocks,
    n_scales,
    METRIC: tl.constexpr,
    SOFTMAX: tl.constexpr,
    FAST: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    PER_THREAD: tl.constexpr,
):
    """Class distributions: softmax over classes of the resized similarity, in the form that the metric wants.

    js: p over twice the base, and what chooses the path of the divergence. kl: p and ln p - ln base. wasserstein: the
    distribution function less the base's. The last two are of first order in the rounding of a probability, so
    they are computed in float64; what is stored is small, and float32.
    """
    # not float64 for js, which is of second order
    WORK: tl.constexpr = tl.float32 if METRIC == "js" else tl.float64
    program = tl.program_id(0)
    image = (program // n_blocks).to(tl.int64)
    block = program % n_blocks
    scale = tl.load(blocks_ptr + 2 * block)
    scale_ptr = scales_ptr + scale * FIELDS
    height = tl.load(scale_ptr).to(tl.int32)
    width = tl.load(scale_ptr + 1).to(tl.int32)
    count = height * width
    taps_y = tl.load(scale_ptr + 6).to(tl.int32)
    taps_x = tl.load(scale_ptr + 7).to(tl.int32)

    first = tl.load(blocks_ptr + 2 * block + 1)
    rows = tl.minimum(first + tl.arange(0, BLOCK_ROWS), count - 1)  # the padding repeats the last row
    y0, y1, wy = _tap(taps_ptr, taps_y + rows // width)
    x0, x1, wx = _tap(taps_ptr, taps_x + rows % width)
    n00, n01, n10, n11 = _neighbours(y0, y1, x0, x1, stride_h, stride_w)
    samples = (tl.arange(0, SAMPLES).to(tl.int64) * count // SAMPLES).to(tl.int32)
    sy, _, _ = _tap(taps_ptr, taps_y + samples // width)
    sx, _, _ = _tap(taps_ptr, taps_x + samples % width)
    sampled = sy.to(tl.int64)[None, :] * stride_h + sx.to(tl.int64)[None, :] * stride_w

    chunk = tl.arange(0, BLOCK_CLASSES)
    image_ptr = similarity_ptr + image * stride_b
    SAMPLES_PER_THREAD: tl.constexpr = PER_THREAD * SAMPLES // BLOCK_ROWS
    rate = 1.0
    if SOFTMAX:
        # a colder softmax is as good as one-hot, and its logits would overflow
        rate = tl.minimum(inverse_temperature * (LOG2E if METRIC == "js" else 1.0), 1e30)
    w00, w01, w10, w11 = _weights(wy.to(WORK)[None, :], wx.to(WORK)[None, :], rate)
    highest = tl.zeros([1, BLOCK_ROWS], WORK)
    share = highest + 1
    f00 = highest
    f01 = highest
    f10 = highest
    f11 = highest
    sample_highest = tl.zeros([1, SAMPLES], WORK)
    sample_rate = sample_highest + rate
    sample_share = sample_highest + 1
    sample_first = sample_highest
    if SOFTMAX:
        f00 = tl.load(image_ptr + n00).to(WORK)
        f01 = tl.load(image_ptr + n01).to(WORK)
        f10 = tl.load(image_ptr + n10).to(WORK)
        f11 = tl.load(image_ptr + n11).to(WORK)
        sample_first = tl.load(image_ptr + sampled).to(WORK)
        highest, share = _softmax(
            image_ptr,
            stride_c,
            classes,
            n00,
            n01,
            n10,
            n11,
            f00,
            f01,
            f10,
            f11,
            w00,
            w01,
            w10,
            w11,
            True,
            FAST,
            BLOCK_CLASSES,
            PER_THREAD,
        )
        sample_highest, sample_share = _softmax(
            image_ptr,
            stride_c,
            classes,
            sampled,
            sampled,
            sampled,
            sampled,
            sample_first,
            sample_first,
            sample_first,
            sample_first,
            sample_rate,
            sample_rate,
            sample_rate,
            sample_rate,
            False,
            FAST,
            BLOCK_CLASSES,
            SAMPLES_PER_THREAD,
        )

    PLANES: tl.constexpr = 2 if METRIC == "kl" else 1
    out_rows = tl.load(scale_ptr + 2) + first + tl.arange(0, BLOCK_ROWS)
    planes_ptr += image * PLANES * padded_classes * rows_total
    base_ptr += (image * n_scales + scale) * padded_classes
    reach = tl.zeros([BLOCK_CLASSES, BLOCK_ROWS], tl.float32)
    tail = reach
    spread = reach
    length = reach
    is_first = (tl.arange(0, BLOCK_ROWS) == 0)[None, :]
    kl_to_base = reach
    js_to_base = reach
    cdf = tl.zeros([BLOCK_ROWS], WORK)
    class_ptr = image_ptr + chunk.to(tl.int64)[:, None] * stride_c
    out = planes_ptr + chunk.to(tl.int64)[:, None] * rows_total + out_rows[None, :]
    for start in range(0, padded_classes, BLOCK_CLASSES):
        c = start + chunk
        valid = (c < classes)[:, None]
        # [BLOCK_CLASSES, BLOCK_ROWS]
        p = _resized(class_ptr, valid, n00, n01, n10, n11, f00, f01, f10, f11, w00, w01, w10, w11)
        sample = _at_samples(class_ptr, valid, sampled, sample_first, sample_rate)
        class_ptr += stride_c.to(tl.int64) * BLOCK_CLASSES
        if SOFTMAX:
            p = _power(p - highest, FAST) * share
            sample = _power(sample - sample_highest, FAST) * sample_share
        else:
            p = tl.where(tl.abs(p) < float("inf"), p, float("nan"))
            sample = tl.where(tl.abs(sample) < float("inf"), sample, float("nan"))
        p = tl.where(valid, p, 0.0)
        sample = tl.where(valid & (sample == sample), sample, 0.0)  # a row that is NaN says nothing of the others
        base = tl.sum(sample, axis=1) / SAMPLES  # [BLOCK_CLASSES]

        kept = (c < padded_classes)[:, None]
        if METRIC == "js":
            # the samples' mean, away from 0 where they miss a class that other rows have
            level = tl.where(c < classes, tl.maximum(base, tl.maximum(1 / (4.0 * classes), LEAST)), LEAST)
            if first == 0:
                tl.store(base_ptr + c, level, c < padded_classes)
            ratio = p * reciprocal(level, FAST)[:, None]
            ratio = tl.where(valid, tl.where(ratio < LEAST, LEAST, ratio), 1.0)  # NaN stays
            tl.store(out, ratio / 2, kept)
            # of the very numbers that are stored; ratio - 1 is exact where roots' difference would round
            inverse = reciprocal(sqrt(ratio, FAST) + 1, FAST)
            step = (ratio - 1) * inverse
            position = step * inverse
            step = level[:, None] * (step * step)
            square = position * position
            reach = tl.maximum(reach, tl.abs(position))
            tail += step * (square * square)
            length += step
            js_to_base += step * js_to_base_of(square)
            # from the block's own first row: the samples' mean may be outside of what the rows, resized, span
            root = sqrt(p, FAST)
            difference = root - tl.sum(tl.where(is_first, root, 0.0), axis=1)[:, None]
            spread += difference * difference
            kl_to_base += (level[:, None] * ratio) * log2(ratio, FAST)
        elif METRIC == "kl":
            # the float32 of 0 is not 0 below 1e-45: absent is what exp itself lost
            ratio = tl.log(tl.maximum(p, 1e-300)) - tl.log(tl.maximum(base, 1e-300))[:, None]
            ratio = tl.where(p > 0, ratio, tl.where(p == 0, -1e38, float("nan")))
            ratio = tl.where(valid, ratio, 0.0)
            tl.store(out, p.to(tl.float32), kept)
            tl.store(out + padded_classes.to(tl.int64) * rows_total, ratio.to(tl.float32), kept)
        else:
            step = p - base[:, None]
            difference = cdf[None, :] + tl.cumsum(step, axis=0)
            cdf += tl.sum(step, axis=0)
            tl.store(out, tl.where(valid, difference, 0.0).to(tl.float32), kept)
        out += rows_total.to(tl.int64) * BLOCK_CLASSES

    if METRIC == "js":
        to_base_ptr += image * 2 * rows_total + out_rows
        tl.store(to_base_ptr, tl.sum(kl_to_base, axis=0))
        tl.store(to_base_ptr + rows_total, tl.sum(js_to_base, axis=0))
        statistics_ptr += (image * n_blocks + block) * STATISTICS
        tl.store(statistics_ptr, tl.max(tl.max(reach, axis=0), axis=0))
        tl.store(statistics_ptr + 1, tl.max(tl.sum(tail, axis=0), axis=0))
        tl.store(statistics_ptr + 2, tl.max(tl.sum(length, axis=0), axis=0))
        tl.store(statistics_ptr + 3, tl.max(tl.sum(spread, axis=0), axis=0))
