"""PAMR (Araslanov and Roth, 2020): probabilities that follow the edges of the image.

Each pixel becomes a mean of its neighbours, 8 for each dilation, weighted by how alike they look::

    alpha_ij = softmax_j( -1/K sum_k |x_ik - x_jk| / (0.1 sigma_ik + 1e-8) ),      p_i <- sum_j alpha_ij p_j

over the K channels of the image x, with sigma the standard deviation of the channel over the pixel and all its
neighbours, itself counted once for each dilation. The weights stay, the means are taken again and again. Past the
image's edge its last pixel is repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from cdam_fast.arguments import FLOATING, plain, working_dtype
from cdam_fast.segmentation.images import as_tensor

ITERATIONS = 10
DILATIONS = (1, 2, 4, 8, 12, 24)
"""Distances of the neighbours in pixels. The training-free segmentation code that uses PAMR takes (8, 16)."""

_AROUND = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]

_ELEMENTS_AT_ONCE = 1 << 26  # 256 MB of weights in float32, whatever the photograph's size

_ELEMENTS_IN_CACHE = 1 << 18
"""Of a CPU, on which 48 neighbours are added up: twice as fast as a whole photograph at a time."""


class Refinement:
    """PAMR by one image: ``[C, H, W] -> [C, H, W]`` of any floating values, such as probabilities or logits.

    The weights of a large image are computed again in each iteration, a band of rows at a time, rather than held.

    Args:
        image: ``[K, H, W]``, uint8 or floating in [0, 1].
        iterations, dilations: see `refine`.
        dtype: of the arithmetic.
    """

    def __init__(
        self,
        image: Tensor,
        iterations: int = ITERATIONS,
        dilations: Sequence[int] = DILATIONS,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.image = image.to(dtype) / 255 if image.dtype == torch.uint8 else image.to(dtype)
        self.iterations = iterations
        longest = max(image.shape[-2:])  # from there on it is the edge's pixel anyway
        self._shifts = [(y * min(step, longest), x * min(step, longest)) for step in dilations for y, x in _AROUND]
        self._reach = min(max(dilations), longest)
        self._padded = _pad(self.image, self._reach)
        height, width = image.shape[-2:]
        rows = max(1, _ELEMENTS_AT_ONCE // (len(self._shifts) * width))
        self._bands = [(top, min(top + rows, height)) for top in range(0, height, rows)]
        self._held = self._weights(*self._bands[0]) if len(self._bands) == 1 else None

    def __call__(self, values: Tensor) -> Tensor:
        """Refined, in the dtype of the arithmetic."""
        current = values.to(self.image.dtype)
        rows = self.image.shape[-2]
        if current.device.type == "cpu":
            rows = max(1, _ELEMENTS_IN_CACHE // (len(current) * self.image.shape[-1]))
        for _ in range(self.iterations):
            padded = _pad(current, self._reach)
            following = torch.zeros_like(current)
            for top, bottom in self._bands:
                weights = self._weights(top, bottom) if self._held is None else self._held
                for start in range(top, bottom, rows):
                    end = min(start + rows, bottom)
                    band = following[:, start:end]
                    for i, neighbours in self._neighbours(padded, start, end):
                        band.addcmul_(weights[i, start - top : end - top], neighbours)
            current = following
        return current

    def _neighbours(self, padded: Tensor, top: int, bottom: int) -> Iterator[tuple[int, Tensor]]:
        """A view ``[C, bottom - top, W]`` of rows top to bottom for each shift, with its index."""
        width = self.image.shape[-1]
        for i, (y, x) in enumerate(self._shifts):
            first_row, first_column = self._reach + top + y, self._reach + x
            yield i, padded[:, first_row : first_row + bottom - top, first_column : first_column + width]

    def _weights(self, top: int, bottom: int) -> Tensor:
        """``[shifts, bottom - top, W]``, which sum to 1 over the shifts."""
        centre = self.image[:, top:bottom]
        own = len(self._shifts) // len(_AROUND)  # how often a pixel counts among its neighbours
        total, square = torch.zeros_like(centre), torch.zeros_like(centre)
        for _, neighbours in self._neighbours(self._padded, top, bottom):
            away = neighbours - centre  # about the pixel itself, where the two sums lose nothing to a large mean
            total += away
            square.addcmul_(away, away)
        count = own + len(self._shifts)
        variance = (square - total * total / count).clamp_(min=0) / (count - 1)
        scale = 0.1 * variance.sqrt_() + 1e-8
        scores = centre.new_empty(len(self._shifts), *centre.shape[1:])
        for i, neighbours in self._neighbours(self._padded, top, bottom):
            scores[i] = -((neighbours - centre).abs_() / scale).mean(0)
        return torch.softmax(scores, 0)


def refine(
    probabilities_or_labels: Tensor,
    image: object,
    *,
    iterations: int = ITERATIONS,
    dilations: Sequence[int] = DILATIONS,
) -> Tensor:
    """Pixel-adaptive mask refinement, PAMR: edges of a segmentation moved to those of the image.

    Args:
        probabilities_or_labels: ``[C, H, W]`` floating, each class by itself; or ``[H, W]`` integer labels, of which
            each pixel then has the one whose refined mask is the largest there, the smaller of equals.
        image: PIL image, array or tensor of H x W pixels, as `CDAMSegmenter` takes it.
        iterations: how often the means are taken.
        dilations: distances of the neighbours in pixels.

    Returns:
        A tensor of the same shape, dtype and device. Arithmetic is in float32, in float64 for float64 probabilities.

    Raises:
        TypeError, ValueError: an argument that is no such thing, by name; an image of another size.
    """
    values = check_values(probabilities_or_labels)
    iterations, dilations = check_iterations(iterations), check_dilations(dilations)
    pixels = as_tensor(image)
    if pixels.shape[-2:] != values.shape[-2:]:
        given, takes = ("x".join(map(str, one.shape[-2:])) for one in (pixels, values))
        raise ValueError(f"image: got {given} pixels, takes {takes}, those of probabilities_or_labels")
    with torch.no_grad():
        dtype = working_dtype(values.dtype) if values.is_floating_point() else torch.float32
        refinement = Refinement(pixels.to(values.device), iterations, dilations, dtype)
        if values.is_floating_point():
            return refinement(values).to(values.dtype)
        whole = values.to(torch.int64)
        labels, most = whole, torch.full(whole.shape, -1, dtype=dtype, device=whole.device)
        for label in torch.unique(whole):  # one at a time: there may be many
            mask = refinement((whole == label).to(dtype).unsqueeze(0))[0]
            labels = torch.where(mask > most, label, labels)
            most = torch.maximum(most, mask)
        return labels.to(values.dtype)


def check_values(values: object) -> Tensor:
    """``[C, H, W]`` floating or ``[H, W]`` of whole numbers."""
    name = "probabilities_or_labels"
    takes = "takes a tensor [C, H, W] of floating values or [H, W] of integer labels"
    if not isinstance(values, Tensor):
        raise TypeError(f"{name}: got {type(values).__name__}, {takes}")
    floating = values.dtype in FLOATING
    if not floating and (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool):
        raise TypeError(f"{name}: got dtype {values.dtype}, {takes}")
    if values.dim() != (3 if floating else 2) or 0 in values.shape:
        raise ValueError(f"{name}: got shape {tuple(values.shape)} of {values.dtype}, {takes}, none of them 0")
    return values


def check_iterations(iterations: object) -> int:
    """A whole number from 1."""
    iterations = plain(iterations)
    if isinstance(iterations, bool) or not isinstance(iterations, int):
        raise TypeError(f"iterations: got {iterations!r}, takes a whole number")
    if iterations < 1:
        raise ValueError(f"iterations: got {iterations}, takes a whole number from 1")
    return iterations


def check_dilations(dilations: object) -> tuple[int, ...]:
    """Whole numbers from 1, at least one."""
    takes = "takes a sequence of whole numbers from 1, at least one"
    given = plain(dilations)
    numbers = [plain(number) for number in given] if isinstance(given, (list, tuple)) else [None]
    if any(isinstance(number, bool) or not isinstance(number, int) for number in numbers):
        raise TypeError(f"dilations: got {dilations!r}, {takes}")
    whole = tuple(number for number in numbers if isinstance(number, int))
    if not whole or min(whole) < 1:
        raise ValueError(f"dilations: got {dilations!r}, {takes}")
    return whole


def _pad(image: Tensor, reach: int) -> Tensor:
    return functional.pad(image.unsqueeze(0), (reach,) * 4, mode="replicate")[0]
