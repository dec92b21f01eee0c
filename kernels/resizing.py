"""The similarity at the patches of a scale, bilinear between those of the grid."""

import triton
import triton.language as tl


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
def _weights(wy, wx, rate):
    """Shares of the four neighbours, times a rate.  # [1, BLOCK_ROWS] each"""
    w11 = wy * wx
    return (1 - wy - wx + w11) * rate, (wx - w11) * rate, (wy - w11) * rate, w11 * rate


@triton.jit
def _at_samples(class_ptr, valid, n00, f00, rate):
    """Similarity at the samples less that of the first class, times the rate."""
    return rate * (tl.load(class_ptr + n00, valid, 0.0).to(rate.dtype) - f00)


@triton.jit
def _resized(class_ptr, valid, n00, n01, n10, n11, f00, f01, f10, f11, w00, w01, w10, w11):
    """Similarity at the rows of a scale less that of the first class, bilinear, times the weights' rate.

    A softmax does not see a patch's constant, and without it large logits keep their digits.
    """
    value = w00 * (tl.load(class_ptr + n00, valid, 0.0).to(w00.dtype) - f00)
    value += w01 * (tl.load(class_ptr + n01, valid, 0.0).to(w00.dtype) - f01)
    value += w10 * (tl.load(class_ptr + n10, valid, 0.0).to(w00.dtype) - f10)
    return value + w11 * (tl.load(class_ptr + n11, valid, 0.0).to(w00.dtype) - f11)
