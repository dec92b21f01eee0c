"""A mask's file to the values in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdam_fast.errors import reason_of
from cdam_fast.segmentation.photo_files import check_regular

Values = NDArray[Any]
"""``[H, W]`` integers of any width."""

_ONE_CHANNEL = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
"""Modes of Pillow's. Before 10.3 it opens a PNG of 16 bits as "I"."""

_STRETCHED = {"L;2": 85, "L;4": 17}
"""Of grey with 2 or 4 bits, by the first letters of Pillow's raw mode: its factor of stretching to 0...255."""


def read_mask(path: Path) -> Values:
    """The values as they are stored: grey of 1 to 16 bits, indices of a palette, or a ``.mat`` file.

    Not the grey of a TIFF that counts from white: readers disagree whether 0 is stored there or shown.

    Raises:
        ValueError: what is wrong with the file, in one line.
    """
    try:
        check_regular(path)
        values, kind = _read_mat(path) if path.suffix == ".mat" else _read_image(path)
    except Exception as error:
        raise ValueError(f"mask {path.name}: cannot be read: {reason_of(error)}") from error
    if values.ndim != 2 or values.dtype.kind not in "ui" or not values.size:
        raise ValueError(f"mask {path.name}: is {kind}, takes one channel, grey or a palette: the value is the class")
    return values


def _read_image(path: Path) -> tuple[Values, str]:
    from PIL import Image

    with Image.open(path) as image:
        stored: Any = image.tile[0][3] if image.tile else None
        raw_mode = str(stored[0] if isinstance(stored, tuple) else stored)  # the first of a tuple but in PNG
        values = np.asarray(image)
        kind = f"of mode {image.mode}"
        if image.mode in ("1", "L") and "I" in raw_mode:
            raise ValueError("its grey counts from white (WhiteIsZero), takes grey that counts from black")
        if image.mode not in _ONE_CHANNEL:
            return values[..., None], kind
    if raw_mode[:3] in _STRETCHED:
        values = values // _STRETCHED[raw_mode[:3]]
    return values.astype(np.uint8) if values.dtype == bool else values, kind


def _read_mat(path: Path) -> tuple[Values, str]:
    """The variable LabelMap, as PASCAL Context's own files have it."""
    from scipy.io import loadmat

    values = np.asarray(loadmat(path, variable_names=["LabelMap"])["LabelMap"])
    return values, f"of {values.ndim} dimensions, {values.dtype}"
