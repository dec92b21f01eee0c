"""Largest logit and sum of exponentials over classes, of resized similarity."""

import triton
import triton.language as tl

from .functions import exp2
from .resizing import _at_samples, _resized


@triton.jit
def _power(x, FAST: tl.constexpr):
    """``2^x`` in float32, ``e^x`` in float64; the logits come in that unit."""
    if x.dtype == tl.float32:
        return exp2(x, FAST)
    else:
        return tl.exp(x)


@triton.jit
def _softmax(
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
    RESIZED: tl.constexpr,
    FAST: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    PER_THREAD: tl.constexpr,
):
    """Largest logit of each row, and one over the sum of exponentials: NaN for a row that is not finite."""
    # [PER_THREAD, BLOCK_CLASSES / PER_THREAD, BLOCK_ROWS]: a thread raises its maximum once for all of its classes
    STEP: tl.constexpr = BLOCK_CLASSES // PER_THREAD
    chunk = tl.arange(0, PER_THREAD)[:, None, None] * STEP + tl.arange(0, STEP)[None, :, None]
    class_ptr = image_ptr + chunk.to(tl.int64) * stride_c
    total = tl.zeros([STEP, w00.shape[1]], w00.dtype)
    # far below every logit, and finite, so that lanes without a class stay free of NaN
    most = total - 1e30
    least = total
    for start in range(0, classes, BLOCK_CLASSES):
        valid = start + chunk < classes
        if RESIZED:
            logits = _resized(
                class_ptr,
                valid,
                n00[None, :, :],
                n01[None, :, :],
                n10[None, :, :],
                n11[None, :, :],
                f00[None, :, :],
                f01[None, :, :],
                f10[None, :, :],
                f11[None, :, :],
                w00[None, :, :],
                w01[None, :, :],
                w10[None, :, :],
                w11[None, :, :],
            )
        else:
            logits = _at_samples(class_ptr, valid, n00[None, :, :], f00[None, :, :], w00[None, :, :])
        least = tl.minimum(least, tl.min(logits, axis=0))
        logits = tl.where(valid, logits, -float("inf"))
        raised = tl.maximum(most, tl.max(logits, axis=0))
        added = tl.sum(_power(logits - raised[None, :, :], FAST), axis=0)
        total = total * _power(most - raised, FAST) + added
        most = raised
        class_ptr += stride_c.to(tl.int64) * BLOCK_CLASSES
    highest = tl.max(most, axis=0)[None, :]
    # fused with the sum, the product would be rounded otherwise in each of the lanes that share it
    total = tl.where(total == 0, 0.0, total * _power(most - highest, FAST))
    total = tl.sum(total, axis=0)[None, :]
    finite = tl.min(least, axis=0)[None, :] > -float("inf")
    return highest, tl.where(finite, 1 / total, float("nan"))
