"""A data set: photographs, their masks, and what the values in a mask mean."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cdam_fast.evaluation.masks import Values, read_mask
from cdam_fast.segmentation.photo_files import read_photo

VOID = -1
"""Of a pixel of the truth that counts for nothing."""

INVALID = -2
"""In `Dataset.meaning`: of a value that no mask of the data set has."""

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
        meaning: ``[values]`` int16: of each value in a mask the class, `VOID`, or `INVALID`. A mask with an invalid
            value, or with one beyond, is an error.
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

        A photograph is turned upright by its EXIF orientation, as OpenCV does in mmseg's readers, and a mask is taken
        as it is stored. So an image of both fails where the mask was drawn on the pixels before that turn.

        Raises:
            ValueError: what is wrong with either file, in one line; a mask of another size than its photograph.
        """
        try:
            pixels = read_photo(sample.photo)
        except ValueError as error:
            raise ValueError(f"photograph {sample.photo.name}: {error}") from error
        truth = self.truth(sample)
        if truth.shape != tuple(pixels.shape[1:]):
            got, takes = ("x".join(map(str, shape)) for shape in (truth.shape, pixels.shape[1:]))
            turned = ", turned by its EXIF orientation," if truth.shape == _stored_size(sample.photo) else ""
            raise ValueError(f"mask {sample.mask.name}: {got} pixels, and its photograph{turned} has {takes}")
        return pixels, truth

    def truth(self, sample: Sample) -> Truth:
        """``[H, W]`` int16 of the sample's mask.

        Raises:
            ValueError: a mask that cannot be read, or with a value that means nothing.
        """
        values = read_mask(sample.mask)
        if values.min() >= 0 and values.max() < len(self.meaning):
            truth: Truth = self.meaning[values]
            if truth.min() != INVALID:
                return truth
        valid = np.flatnonzero(self.meaning != INVALID)
        wrong = np.setdiff1d(values, valid)[0]
        raise ValueError(f"mask {sample.mask.name}: has the value {wrong}, takes {_ranges(valid)}")


def _stored_size(path: Path) -> tuple[int, int]:
    """Height and width before any turn."""
    from PIL import Image

    with Image.open(path) as image:
        return image.height, image.width


def _ranges(numbers: Values) -> str:
    """As in "0 to 20, 255"."""
    runs = [
        [int(number) for _, number in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
