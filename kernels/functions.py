"""Elementary functions as one instruction each, with ``FAST``.

Triton's own take care of subnormal numbers, which matter nowhere here, and cost on sm_90 32 instructions for a
logarithm, 8 for a square root or a quotient, 4 for an exponential.
"""

import triton
import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def log2(x, FAST: tl.constexpr):
    """Logarithm to base 2; fast: right to 2^-22."""
    if FAST:
        return tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.log2(x)


@triton.jit
def sqrt(x, FAST: tl.constexpr):
    """Square root; fast: right to 2^-23."""
    if FAST:
        return tl.inline_asm_elementwise(
            "sqrt.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.sqrt(x)


@triton.jit
def reciprocal(x, FAST: tl.constexpr):
    """``1/x``; fast: right to 2^-23."""
    if FAST:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return 1 / x


@triton.jit
def exp2(x, FAST: tl.constexpr):
    """``2^x``; fast: right to 2^-22."""
    if FAST:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.exp2(x)
