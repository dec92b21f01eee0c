"""Anything that is an image to ``[3, H, W]`` in [0, 1], and its size for the windows."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

TAKES = "takes a PIL image, a uint8 array [H, W, 3] or a tensor [3, H, W], uint8 or floating in [0, 1]"

LONGEST_SIDES = 50
"""Long side over short side, at most."""


def as_tensor(image: object, name: str = "image") -> Tensor:
    """``[3, H, W]``, uint8 or floating in [0, 1].

    Of a PIL image: its EXIF rotation is applied, palette, grey, CMYK and other colour spaces become RGB, what is
    transparent becomes white, 16-bit grey keeps its range. Of an array: ``[H, W]`` grey, ``[H, W, 3]`` or, with
    alpha, ``[H, W, 4]``. Of a tensor: channels first, RGB.

    Raises:
        TypeError: no image, or a dtype that is none. ValueError: another shape, no pixel, values outside [0, 1] or
            NaN, a PIL mode without a known range (32-bit integer or float).
    """
    if isinstance(image, Tensor):
        return _checked(image, name)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise TypeError(f"{name}: got an array of dtype {image.dtype}, {TAKES}")
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
            raise ValueError(f"{name}: got an array of shape {image.shape}, {TAKES}")
        if image.size == 0:
            raise ValueError(f"{name}: got an array of shape {image.shape} without a pixel, {TAKES}")
        from PIL import Image

        return _from_pil(Image.fromarray(image), name)
    # whoever hands over a PIL image has imported it
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(image, pillow.Image):
        return _from_pil(image, name)
    raise TypeError(f"{name}: got {type(image).__name__}, {TAKES}")


def _checked(image: Tensor, name: str) -> Tensor:
    if image.dim() != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"{name}: got a tensor of shape {tuple(image.shape)}, {TAKES}")
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise TypeError(f"{name}: got a tensor of dtype {image.dtype}, {TAKES}")
    low, high = float(image.amin()), float(image.amax())
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise ValueError(f"{name}: got values from {low:.4g} to {high:.4g}, takes floating values in [0, 1]")
    return image


def _from_pil(image: Any, name: str) -> Tensor:
    from PIL import Image, ImageOps

    if 0 in image.size:
        raise ValueError(f"{name}: got {image.size[0]}x{image.size[1]} pixels, takes at least one")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        grey = torch.from_numpy(np.asarray(image).astype(np.float32) / 65535)
        return grey.expand(3, -1, -1)
    if image.mode in ("I", "F"):
        raise ValueError(f"{name}: got a PIL image of mode {image.mode}, whose range is unknown; takes 8 or 16 bits")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def check_sides(height: int, width: int, name: str = "image") -> None:
    """A strip whose long side would fill the memory once its short side is enlarged is no photograph."""
    if max(height, width) > LONGEST_SIDES * min(height, width):
        raise ValueError(
            f"{name}: got {height}x{width} pixels, takes a long side of at most {LONGEST_SIDES} times the short side"
        )


def resize_to(image: Tensor, short_side: int, name: str = "image") -> Tensor:
    """``[3, H, W]`` uint8 or floating -> floating in [0, 1] with this short side; bicubic, antialiased.

    Keeps the aspect ratio, the long side rounded to whole pixels; nothing is padded.
    """
    height, width = image.shape[-2:]
    check_sides(height, width, name)
    values = image.float() / 255 if image.dtype == torch.uint8 else image
    values = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    factor = short_side / min(height, width)
    size = (int(height * factor + 0.5), int(width * factor + 0.5))
    if size == (height, width):
        return values
    resized = functional.interpolate(values.unsqueeze(0), size=size, mode="bicubic", antialias=True)
    return resized[0].clamp(0, 1)  # bicubic overshoots
