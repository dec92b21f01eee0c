"""A segmented image at the resolution of its patches."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional

from cdam_fast.evaluation.dataset import Truth
from cdam_fast.segmentation.result import Segmentation


def patch_cosines(result: Segmentation, patch: tuple[int, int]) -> Tensor:
    """``[Q, h, w]``: the words' cosines, averaged over windows, and over each patch of the resized image."""
    height, width = result.word_logits.shape[-2:]
    grid = (max(1, height // patch[0]), max(1, width // patch[1]))
    return functional.interpolate(result.word_logits.unsqueeze(0), size=grid, mode="area")[0]


def patch_truth(truth: Truth, grid: tuple[int, int]) -> Truth:
    """``[H, W] -> [h, w]``: the class at each patch's centre."""
    rows, columns = (((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip(grid, truth.shape))
    chosen: Truth = truth[np.ix_(rows, columns)]
    return chosen
