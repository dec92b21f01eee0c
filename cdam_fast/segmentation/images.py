"""Anything that is an image to ``[3, H, W]`` in [0, 1], and its size for the windows."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cdam_fast.segmentation.resize import opencv_linear, resized_size

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
            NaN, a PIL mode without a known range (32-bit integer or float), a PIL image that cannot be decoded.
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


_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""By the EXIF orientation: what makes the picture upright."""

_ORIENTATION = 0x0112


def _from_pil(image: Any, name: str) -> Tensor:
    if 0 in image.size:
        raise ValueError(f"{name}: got {image.size[0]}x{image.size[1]} pixels, takes at least one")
    with _named(image, name):
        transparent = _transparent(image)  # before the load, which forgets how the file keeps its values
        _load(image)
    if image.mode in ("I", "F") and not _is_sixteen_bit(image):
        raise ValueError(f"{name}: got a PIL image of mode {image.mode}, whose range is unknown; takes 8 or 16 bits")
    with _named(image, name):
        upright = _upright(image)
        if image.mode == "I" or image.mode.startswith("I;16"):
            values = np.asarray(upright).astype(np.float32)
            if transparent is not None:
                values[values == transparent] = 65535
            return torch.from_numpy(values / 65535).expand(3, -1, -1)
        return torch.from_numpy(_rgb(upright, transparent)).permute(2, 0, 1)


def _rgb(image: Any, transparent: int | tuple[int, ...] | None) -> np.ndarray[Any, Any]:
    """``[H, W, 3]`` uint8 of any mode but 16-bit and 32-bit grey; what is transparent is white."""
    from PIL import Image

    if transparent is not None:
        pixels = np.array(image.convert("RGB"))
        pixels[(pixels == transparent).all(-1)] = 255
        return pixels
    if image.mode == "La":  # Pillow turns it into its plain form only
        image = image.convert("LA")
    if image.mode in ("RGBA", "RGBa", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _transparent(image: Any) -> int | tuple[int, ...] | None:
    """The one transparent colour of a PNG without an alpha channel, on the scale of its pixels once they are loaded.

    The file gives it at its own depth, and Pillow leaves it there while it brings the pixels to 8 bits.
    """
    value = image.info.get("transparency")
    layout = image.tile[0][3] if getattr(image, "tile", None) else ""
    if isinstance(value, int) and (image.mode in ("1", "L", "I") or image.mode.startswith("I;16")):
        if image.mode == "1":
            return 255 if value else 0
        return value * {"L;2": 85, "L;4": 17}.get(layout, 1) if isinstance(layout, str) else value
    if image.mode == "RGB" and isinstance(value, tuple) and len(value) == 3:
        return tuple(channel >> 8 for channel in value) if layout == "RGB;16B" or max(value) > 255 else value
    return None


def _is_sixteen_bit(image: Any) -> bool:
    """Whether Pillow opened 16-bit grey as 32-bit integers: PNG up to Pillow 10.2, PGM in every version."""
    return image.mode == "I" and image.format in ("PNG", "PPM")


def _load(image: Any) -> None:
    try:
        image.load()
    except Exception:
        if getattr(image, "tile", None) != []:
            raise
        # the pixels are there: what cannot be read are the metadata, which TIFF looks at last


def _upright(image: Any) -> Any:
    """Turned as its EXIF says, which is never rewritten; as it is where the EXIF cannot be read."""
    from PIL import Image

    if image.format == "TIFF":  # turned while it was loaded, though older versions still say it is not
        return image
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION))
    except Exception:
        turn = None
    return image if turn is None else image.transpose(getattr(Image.Transpose, turn))


@contextlib.contextmanager
def _named(image: Any, name: str) -> Iterator[None]:
    """Pillow's decoders raise anything for a damaged file."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name}: this PIL image of mode {image.mode} cannot be decoded: {reason}") from error


def check_sides(height: int, width: int, name: str = "image") -> None:
    """A strip whose long side would fill the memory once its short side is enlarged is no photograph."""
    if max(height, width) > LONGEST_SIDES * min(height, width):
        raise ValueError(
            f"{name}: got {height}x{width} pixels, takes a long side of at most {LONGEST_SIDES} times the short side"
        )


def resize_to(
    image: Tensor, short_side: int, name: str = "image", *, long_side: int | None = None, resize: str = "pillow"
) -> Tensor:
    """``[3, H, W]`` uint8 or floating -> floating in [0, 1], of `resized_size`.

    Args:
        image: uint8 or floating in [0, 1].
        short_side, long_side: pixels; nothing is padded.
        name: of the image, for messages.
        resize: ``"pillow"``, bicubic and antialiased, in floating point; ``"mmcv"``, bilinear in fixed point as OpenCV
            does it.

    Raises:
        ValueError: an image too long for its short side, or that long_side leaves without a pixel.
        TypeError: pixels of more than 8 bits and resize ``"mmcv"``.
    """
    height, width = image.shape[-2:]
    if long_side is None:
        check_sides(height, width, name)
    size = resized_size(height, width, short_side, long_side)
    if 0 in size:
        raise ValueError(
            f"{name}: got {height}x{width} pixels, of which long_side={long_side} leaves {size[0]}x{size[1]}"
        )
    if resize == "mmcv":
        if image.dtype != torch.uint8:
            raise TypeError(
                f"{name}: got {image.dtype} pixels, takes uint8 where resize is 'mmcv', which rounds to them"
            )
        return opencv_linear(image, size).float() / 255
    values = image.float() / 255 if image.dtype == torch.uint8 else image
    values = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    if size == (height, width):
        return values
    resized = functional.interpolate(values.unsqueeze(0), size=size, mode="bicubic", antialias=True)
    return resized[0].clamp(0, 1)  # bicubic overshoots


def resize_to_patches(image: Tensor, short_side: int, patch: tuple[int, int]) -> Tensor:
    """As `resize_to`, then to the nearest size of whole patches: ``[3, H, W] -> [1, 3, H', W']``, all of it at once."""
    resized = resize_to(image, short_side)
    size = [max(1, round(side / of_patch)) * of_patch for side, of_patch in zip(resized.shape[-2:], patch)]
    return functional.interpolate(resized.unsqueeze(0), size=size, mode="bicubic", antialias=True).clamp(0, 1)
