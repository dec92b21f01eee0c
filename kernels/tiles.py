"""What the ways to a divergence share: how a tile's pairs lie in its threads, and a difference of sums."""

import triton
import triton.language as tl

ROUNDING = tl.constexpr(2.0**-21)  # of a difference of sums, as a share of them: what is less is 0

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
