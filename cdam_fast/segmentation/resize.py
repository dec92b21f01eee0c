"""The size that an image gets, and the bilinear resize of OpenCV for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RESIZES = ("pillow", "mmcv")

_BITS = 11
"""OpenCV's coefficients are whole 2048ths (``INTER_RESIZE_COEF_BITS``)."""


def resized_size(height: int, width: int, short_side: int, long_side: int | None = None) -> tuple[int, int]:
    """``(height, width)`` with this short side, or with this long side where that is smaller.

    The sides keep their ratio and are rounded to whole pixels, halves up, as ``mmcv.imrescale`` does; the shorter one
    may come to 0 pixels where long_side decides.
    """
    factor = short_side / min(height, width)
    if long_side is not None:
        factor = min(factor, long_side / max(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def opencv_linear(image: Tensor, size: tuple[int, int]) -> Tensor:
    """``[C, H, W]`` uint8 -> ``[C, *size]`` uint8, to the pixel as ``cv2.resize`` with ``INTER_LINEAR``.

    That is in fixed point, along the rows first, without antialiasing. A size that is exactly half, both ways, is the
    rounded mean of two by two pixels (OpenCV takes ``INTER_AREA`` then).
    """
    height, width = image.shape[-2:]
    if (height, width) == size:
        return image
    if (height, width) == (2 * size[0], 2 * size[1]):
        pixels = image.to(torch.int32)
        rows = pixels[:, ::2] + pixels[:, 1::2]
        return ((rows[..., ::2] + rows[..., 1::2] + 2) >> 2).to(torch.uint8)
    # the side that is resized comes first: gathering whole rows is several times faster than gathering pixels
    columns = image.permute(2, 0, 1).to(torch.int32).contiguous()  # [W, C, H]
    first, second, weight, other = _neighbours(width, size[1], image.device, at_edge=True)
    blended = columns.index_select(0, first).mul_(weight)
    blended.add_(columns.index_select(0, second).mul_(other))
    rows = (blended >> 4).permute(2, 1, 0).contiguous()  # [H, C, width]
    first, second, weight, other = _neighbours(height, size[0], image.device, at_edge=False)
    out = rows.index_select(0, first).mul_(weight) >> 16  # each of the two is cut, and only their sum rounded
    out.add_(rows.index_select(0, second).mul_(other) >> 16)
    return ((out + 2) >> 2).to(torch.uint8).permute(1, 0, 2).contiguous()


def _neighbours(old: int, new: int, device: torch.device, *, at_edge: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each new pixel along a side the two old ones, ``[new]``, and their weights in 2048ths, ``[new, 1, 1]``.

    at_edge: a pixel beyond the middle of the outermost old one is that one alone. OpenCV has it so along the rows; down
    the columns the outermost is taken twice, with both weights.
    """
    place = ((np.arange(new) + 0.5) * (1 / (new / old)) - 0.5).astype(np.float32)
    left = np.floor(place)
    share = place - left
    if at_edge:
        share[(left < 0) | (left >= old - 1)] = 0

    def index(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values.clip(0, old - 1).astype(np.int64)).to(device)

    def weight(values: NDArray[Any]) -> Tensor:
        rounded = np.rint(values * np.float32(1 << _BITS)).astype(np.int32)
        return torch.from_numpy(rounded).view(-1, 1, 1).to(device)

    return index(left), index(left + 1), weight(1 - share), weight(share)
