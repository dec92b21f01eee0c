"""What a base method's hooks gave back, checked: each error names the base, the hook, what it got and what it takes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def check_tensor(result: object, owner: str, shape: Sequence[int], layout: str, like: Tensor) -> Tensor:
    """A tensor of this shape, of the dtype and on the device of another.

    Args:
        result: what the hook returned.
        owner: who is named, such as ``base 'sclip', attend``.
        shape, layout: the sizes that it takes, and what they stand for, such as ``[B, N, D]``.
        like: whose dtype and device it takes.

    Raises:
        TypeError: no tensor, another dtype. ValueError: another shape or device.
    """
    takes = f"takes {layout} = {tuple(shape)}"
    if not isinstance(result, Tensor):
        raise TypeError(f"{owner}: got {type(result).__name__}, {takes}, a torch.Tensor")
    if result.shape != tuple(shape):
        raise ValueError(f"{owner}: got shape {tuple(result.shape)}, {takes}")
    if result.dtype != like.dtype:
        raise TypeError(f"{owner}: got dtype {result.dtype}, takes {like.dtype}")
    if result.device != like.device:
        raise ValueError(f"{owner}: got device {result.device}, takes {like.device}")
    return result


def check_seen(result: object, owner: str, pixels: Tensor) -> Tensor:
    """A floating tensor of as many images as the pixels, on their device; its other sizes are the base's affair."""
    takes = f"takes a floating torch.Tensor [B, ...] with B = {len(pixels)}"
    if not isinstance(result, Tensor):
        raise TypeError(f"{owner}: got {type(result).__name__}, {takes}")
    if not result.is_floating_point():
        raise TypeError(f"{owner}: got dtype {result.dtype}, {takes}")
    if result.dim() == 0 or len(result) != len(pixels):
        raise ValueError(f"{owner}: got shape {tuple(result.shape)}, {takes}")
    if result.device != pixels.device:
        raise ValueError(f"{owner}: got device {result.device}, takes {pixels.device}")
    return result
