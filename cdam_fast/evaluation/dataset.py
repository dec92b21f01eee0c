"""A data set: photographs, their masks, and what the values in a mask mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cdam_fast.errors import reason_of
from cdam_fast.segmentation.photo_files import read_photo

VOID = -1
"""Of a pixel of the truth that counts for nothing."""

Truth = NDArray[np.int16]
"""``[H, W]`` int16: the class of each pixel, or `VOID`."""


@dataclass(frozen=True)
class Sample:
    """One photograph and its mask."""

    name: str
    """Of its own within the data set."""
    photo: Path
    mask: Path


@dataclass(frozen=True, eq=False)
class Dataset:
    """Photographs with masks, and what the masks' values mean.

    Attributes:
        name: ``"voc21"``, ``"custom"``, ...
        classes: names of the C classes, the background's first where there is one.
        samples: in the order of the data set's own list.
        meaning: ``[values]`` int16: of each value in a mask the class, or `VOID`; a value beyond is an error.
        background: index of the background's class; None where there is none.
        note: what a reader of the numbers should know, such as a count that differs between lists; else empty.
    """

    name: str
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    meaning: NDArray[np.int16]
    background: int | None = None
    note: str = ""

    def read(self, sample: Sample) -> tuple[Tensor, Truth]:
        """``[3, H, W]`` uint8 pixels and their truth.

        Raises:
            ValueError: what is wrong with either file, in one line; a mask of another size than its photograph.
        """
        pixels = read_photo(sample.photo)
        truth = self.truth(sample)
        if truth.shape != tuple(pixels.shape[1:]):
            got, takes = ("x".join(map(str, shape)) for shape in (truth.shape, pixels.shape[1:]))
            raise ValueError(f"mask {sample.mask.name}: {got} pixels, and its photograph has {takes}")
        return pixels, truth

    def truth(self, sample: Sample) -> Truth:
        """``[H, W]`` int16 of the sample's mask.

        Raises:
            ValueError: a mask that cannot be read, or with a value that means nothing.
        """
        values = _read_mask(sample.mask)
        largest = int(values.max())
        if largest >= len(self.meaning):
            raise ValueError(f"mask {sample.mask.name}: has the value {largest}, takes at most {len(self.meaning) - 1}")
        truth: Truth = self.meaning[values]
        return truth


def _read_mask(path: Path) -> NDArray[Any]:
    """``[H, W]`` integers: grey of 8 or 16 bits, or the indices of a palette."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode, values = image.mode, np.asarray(image)
    except Exception as error:
        raise ValueError(f"mask {path.name}: cannot be read: {reason_of(error)}") from error
    if values.ndim != 2 or values.dtype.kind not in "ui":
        raise ValueError(f"mask {path.name}: is of mode {mode}, takes grey or a palette, the value is the class")
    return values
