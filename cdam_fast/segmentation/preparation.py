"""An image on its way to the windows: pixels of the size that the windows cover."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cdam_fast.segmentation.images import as_tensor, resize_to


class Prepared(NamedTuple):
    """An image that is resized already, which `CDAMSegmenter.segment` and its kin take as any other."""

    pixels: Tensor
    """``[3, h, w]`` floating in [0, 1], not normalised."""
    size: tuple[int, int]
    """``(height, width)`` before."""
    image: Tensor | None
    """``[3, height, width]`` as it was, where the labels are refined by it."""


class Preparation(NamedTuple):
    """What a segmenter does to an image before its model; to be called, in another process too."""

    short_side: int
    long_side: int | None
    resize: str
    refine: bool
    device: torch.device

    def __call__(self, image: object, name: str = "image") -> Prepared:
        """Raises what `as_tensor` and `resize_to` raise."""
        pixels = as_tensor(image, name).to(self.device)
        size = (pixels.shape[-2], pixels.shape[-1])
        return Prepared(
            resize_to(pixels, self.short_side, name, long_side=self.long_side, resize=self.resize),
            size,
            pixels if self.refine else None,
        )
