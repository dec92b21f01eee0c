"""Sliding windows over an image, and the mean of their logits where they overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Place = tuple[int, int]
"""Top and left pixel of a window."""


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixel of each window along one side; the last window ends at the image's end."""
    count = max(length - window + stride - 1, 0) // stride + 1
    return [min(i * stride, length - window) for i in range(count)]


class Canvas:
    """One image on its way: its pixels, and the logits of the windows that are done.

    Args:
        pixels: ``[3, H, W]`` normalised.
        size: ``(height, width)`` of the image before it was resized.
        window, stride: pixels; a side of the image that is below the window is that of its windows.
        patch: ``(height, width)`` in pixels.
        image: ``[3, height, width]`` as it was, where the labels are refined by it.
    """

    def __init__(
        self,
        pixels: Tensor,
        size: tuple[int, int],
        window: int,
        stride: int,
        patch: tuple[int, int],
        image: Tensor | None = None,
    ) -> None:
        height, width = pixels.shape[-2:]
        self.pixels, self.size, self.image = pixels, size, image
        self.window = min(window, height), min(window, width)
        self.grid = self.window[0] // patch[0], self.window[1] // patch[1]
        """Whole patches of a window."""
        self._seen = self.grid[0] * patch[0], self.grid[1] * patch[1]
        self.places = [
            (top, left)
            for top in window_starts(height, self.window[0], stride)
            for left in window_starts(width, self.window[1], stride)
        ]
        self.failed = False
        """Whether one of its windows could not be done."""
        self.patch_logits: list[Tensor] = []
        """``[Q, N]`` of each window that is done, in the order of places."""
        self._total: Tensor | None = None

    def crop(self, place: Place) -> Tensor:
        """``[3, h, w]``, the whole patches of a window."""
        return self.pixels[_area(place, self._seen)]

    def add(self, logits: Tensor) -> bool:
        """Take the patch logits ``[Q, h, w]`` of the next place; whether that was the last one."""
        place = self.places[len(self.patch_logits)]
        self.patch_logits.append(logits.flatten(1))
        upsampled = upsample(logits, self.window)
        if len(self.places) == 1:
            self._total = upsampled
        else:
            if self._total is None:
                self._total = logits.new_zeros(len(logits), *self.pixels.shape[-2:])
            self._total[_area(place, self.window)] += upsampled
        return len(self.patch_logits) == len(self.places)

    def mean(self) -> Tensor:
        """``[Q, H, W]`` logits at the size of the pixels, averaged over windows; once all are done."""
        assert self._total is not None
        return self._total if len(self.places) == 1 else self._total / self.coverage()

    def coverage(self) -> Tensor:
        """``[H, W]``: how many windows cover each pixel."""
        return self.spread(self.patch_logits[0].new_ones(len(self.places)))

    def spread(self, values: Tensor) -> Tensor:
        """``[windows] -> [H, W]``: the sum over the windows that cover a pixel of each window's value."""
        total = values.new_zeros(self.pixels.shape[-2:])
        for place, value in zip(self.places, values):
            total[_area(place, self.window)] += value
        return total

    def at_full_size(self, values: Tensor) -> Tensor:
        """One value, as it is; ``[windows]`` -> ``[height, width]`` of the image: the mean over a pixel's windows."""
        if values.dim() == 0:
            return values
        if len(self.places) == 1:
            return values[0]
        # no probability is above 1, so nothing above 2 need be told apart, and an infinite one stays out of sums
        mean = self.spread(values.clamp(max=2)) / self.coverage()
        return upsample(mean.unsqueeze(0), self.size)[0]


def by_shape(crops: Sequence[Tensor]) -> dict[torch.Size, list[Tensor]]:
    """Those of one shape together, in order: of images that are below the window, crops are smaller than of others."""
    shapes: dict[torch.Size, list[Tensor]] = {}
    for crop in crops:
        shapes.setdefault(crop.shape, []).append(crop)
    return shapes


def _area(place: Place, size: tuple[int, int]) -> tuple[Any, ...]:
    """Index of a rectangle of the last two dims."""
    (top, left), (height, width) = place, size
    return (..., slice(top, top + height), slice(left, left + width))


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """``[Q, h, w] -> [Q, *size]``, bilinear."""
    if logits.shape[-2:] == size:
        return logits
    return functional.interpolate(logits.unsqueeze(0), size=size, mode="bilinear", align_corners=False)[0]
