"""First stage: the class distribution of every patch at every scale, in one launch.

A program takes `BLOCK_ROWS` patches of one scale of one image. It goes over the classes twice: once for the
softmax's maximum and sum, once to write. The same two passes over `SAMPLES` patches spread over the scale give every
program the same base distribution, their mean, without a second launch.
"""

import triton
import triton.language as tl

SAMPLES = tl.constexpr(16)
FIELDS = tl.constexpr(14)  # of a scale in plan.py
STATISTICS = tl.constexpr(5)  # of a block: reach, tail, mass, weighted spread, spread
LEAST = tl.constexpr(1e-30)  # stands for 0 under a logarithm: too small for any sum, and its reciprocal is finite


@triton.jit
def _tap(taps_ptr, index):
    """Two neighbours of a place on one axis, and the second's share."""
    entry = tl.load(taps_ptr + index)
    low = entry.to(tl.int32)
    return low >> 1, (low >> 1) + (low & 1), (entry >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _neighbours(y0, y1, x0, x1, stride_h, stride_w):
    """Offsets of the four neighbours of the rows of a scale.  # [1, BLOCK_ROWS] each"""
    y0 = y0.to(tl.int64)[None, :] * stride_h
    y1 = y1.to(tl.int64)[None, :] * stride_h
    x0 = x0.to(tl.int64)[None, :] * stride_w
    x1 = x1.to(tl.int64)[None, :] * stride_w
    return y0 + x0, y0 + x1, y1 + x0, y1 + x1


@triton.jit
def _resized(
    class_ptr,
    valid,
    image_ptr,
    n00,
    n01,
    n10,
    n11,
    wy,
    wx,
    inverse_temperature,
    SOFTMAX: tl.constexpr,
    WORK: tl.constexpr,
):
    """Similarity at the rows of a scale, bilinear; NaN where it is not finite.  # [BLOCK_CLASSES, BLOCK_ROWS]

    For a softmax, logits less those of the first class: it does not see a patch's constant, and large ones keep
    their digits.
    """
    v00 = tl.load(class_ptr + n00, valid, 0.0).to(WORK)
    v01 = tl.load(class_ptr + n01, valid, 0.0).to(WORK)
    v10 = tl.load(class_ptr + n10, valid, 0.0).to(WORK)
    v11 = tl.load(class_ptr + n11, valid, 0.0).to(WORK)
    if SOFTMAX:
        v00 -= tl.load(image_ptr + n00).to(WORK)
        v01 -= tl.load(image_ptr + n01).to(WORK)
        v10 -= tl.load(image_ptr + n10).to(WORK)
        v11 -= tl.load(image_ptr + n11).to(WORK)
    wy = wy.to(WORK)[None, :]
    wx = wx.to(WORK)[None, :]
    top = v00 + wx * (v01 - v00)
    bottom = v10 + wx * (v11 - v10)
    value = top + wy * (bottom - top)
    value = tl.where(tl.abs(value) < float("inf"), value, float("nan"))
    return value * inverse_temperature if SOFTMAX else value


@triton.jit
def _online_softmax(most, total, logits):
    """Adds logits to an elementwise running maximum and sum of exponentials."""
    raised = tl.maximum(most, logits)
    return raised, total * tl.exp(most - raised) + tl.exp(logits - raised)


@triton.jit
def _joined_softmax(most, total):
    """The maximum and the sum over classes of what `_online_softmax` left.  # [BLOCK_ROWS]"""
    highest = tl.max(most, axis=0)
    return highest, tl.sum(total * tl.exp(most - highest[None, :]), axis=0)


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
    entropy_ptr,  # [B, rows]
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
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
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
    sy0, sy1, swy = _tap(taps_ptr, taps_y + samples // width)
    sx0, sx1, swx = _tap(taps_ptr, taps_x + samples % width)
    s00, s01, s10, s11 = _neighbours(sy0, sy1, sx0, sx1, stride_h, stride_w)

    chunk = tl.arange(0, BLOCK_CLASSES)
    image_ptr = similarity_ptr + image * stride_b
    highest = tl.zeros([BLOCK_ROWS], WORK)
    share = highest + 1
    sample_highest = tl.zeros([SAMPLES], WORK)
    sample_share = sample_highest + 1
    if SOFTMAX:
        # far below every logit, and finite, so that lanes without a class stay free of NaN
        most = tl.full([BLOCK_CLASSES, BLOCK_ROWS], -1e30, WORK)
        total = tl.zeros([BLOCK_CLASSES, BLOCK_ROWS], WORK)
        sample_most = tl.full([BLOCK_CLASSES, SAMPLES], -1e30, WORK)
        sample_total = tl.zeros([BLOCK_CLASSES, SAMPLES], WORK)
        for start in range(0, classes, BLOCK_CLASSES):
            c = start + chunk
            valid = (c < classes)[:, None]
            pointers = image_ptr + c.to(tl.int64)[:, None] * stride_c
            logits = _resized(
                pointers, valid, image_ptr, n00, n01, n10, n11, wy, wx, inverse_temperature, SOFTMAX, WORK
            )
            logits = tl.where(valid, logits, -float("inf"))
            most, total = _online_softmax(most, total, logits)
            logits = _resized(
                pointers, valid, image_ptr, s00, s01, s10, s11, swy, swx, inverse_temperature, SOFTMAX, WORK
            )
            logits = tl.where(valid, logits, -float("inf"))
            sample_most, sample_total = _online_softmax(sample_most, sample_total, logits)
        highest, denominator = _joined_softmax(most, total)
        share = 1 / denominator
        sample_highest, denominator = _joined_softmax(sample_most, sample_total)
        sample_share = 1 / denominator

    PLANES: tl.constexpr = 2 if METRIC == "kl" else 1
    out_rows = tl.load(scale_ptr + 2) + first + tl.arange(0, BLOCK_ROWS)
    planes_ptr += image * PLANES * padded_classes * rows_total
    base_ptr += (image * n_scales + scale) * padded_classes
    reach = tl.zeros([BLOCK_CLASSES, BLOCK_ROWS], tl.float32)
    tail = reach
    spread = reach
    mass = reach
    level_spread = reach
    entropy = reach
    cdf = tl.zeros([BLOCK_ROWS], WORK)
    for start in range(0, padded_classes, BLOCK_CLASSES):
        c = start + chunk
        valid = (c < classes)[:, None]
        pointers = image_ptr + c.to(tl.int64)[:, None] * stride_c
        p = _resized(pointers, valid, image_ptr, n00, n01, n10, n11, wy, wx, inverse_temperature, SOFTMAX, WORK)
        sample = _resized(pointers, valid, image_ptr, s00, s01, s10, s11, swy, swx, inverse_temperature, SOFTMAX, WORK)
        if SOFTMAX:
            p = tl.exp(p - highest[None, :]) * share[None, :]
            sample = tl.exp(sample - sample_highest[None, :]) * sample_share[None, :]
        p = tl.where(valid, p, 0.0)  # [BLOCK_CLASSES, BLOCK_ROWS]
        sample = tl.where(valid & (sample == sample), sample, 0.0)  # a row that is NaN says nothing of the others
        base = tl.sum(sample, axis=1) / SAMPLES  # [BLOCK_CLASSES]

        out = planes_ptr + c.to(tl.int64)[:, None] * rows_total + out_rows[None, :]
        kept = (c < padded_classes)[:, None]
        if METRIC == "js":
            # the samples' mean, away from 0 where they miss a class that other rows have
            level = tl.where(c < classes, tl.maximum(base, tl.maximum(1 / (4.0 * classes), LEAST)), LEAST)
            if first == 0:
                tl.store(base_ptr + c, level, c < padded_classes)
            ratio = p / level[:, None]
            ratio = tl.where(valid, tl.where(ratio < LEAST, LEAST, ratio), 1.0)  # NaN stays
            tl.store(out, ratio / 2, kept)
            root = tl.sqrt(p)
            level_root = tl.sqrt(level)[:, None]
            weight = root + level_root
            position = tl.where(valid, (root - level_root) / weight, 0.0)
            weight *= weight
            square = position * position
            reach = tl.maximum(reach, tl.abs(position))
            tail += weight * (square * square * square)
            mass += weight
            level_spread += weight * square
            difference = root - tl.sqrt(base)[:, None]
            spread += difference * difference
            entropy += (level[:, None] * ratio) * tl.log2(ratio)  # of the very numbers that are stored
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

    if METRIC == "js":
        tl.store(entropy_ptr + image * rows_total + out_rows, tl.sum(entropy, axis=0))
        statistics_ptr += (image * n_blocks + block) * STATISTICS
        tl.store(statistics_ptr, tl.max(tl.max(reach, axis=0), axis=0))
        tl.store(statistics_ptr + 1, tl.max(tl.sum(tail, axis=0), axis=0))
        tl.store(statistics_ptr + 2, tl.max(tl.sum(mass, axis=0), axis=0))
        tl.store(statistics_ptr + 3, tl.max(tl.sum(level_spread, axis=0), axis=0))
        tl.store(statistics_ptr + 4, tl.max(tl.sum(spread, axis=0), axis=0))
