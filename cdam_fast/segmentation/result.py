"""From logits to labels: the class of every pixel, its probability, the background."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cdam_fast.segmentation.images import as_tensor
from cdam_fast.segmentation.palette import MOST_CLASSES, Colour, palette
from cdam_fast.segmentation.pictures import Entry, as_png, label_figure, label_picture, overlay
from cdam_fast.segmentation.windows import upsample

if TYPE_CHECKING:
    import PIL.Image

_ELEMENTS_AT_ONCE = 1 << 24  # 64 MB of upsampled logits, whatever the photograph's size


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What `CDAMSegmenter` says about one image of H x W pixels with C classes, on the model's device."""

    labels: Tensor
    """``[H, W]`` int64, index of the class of each pixel."""
    probability: Tensor
    """``[H, W]`` of the best class before the threshold: softmax over all words of ``logit_scale * logits``."""
    threshold: float
    """Probability below which a pixel is background; 0 where the threshold is off, the mean where windows differ."""
    class_names: tuple[str, ...]
    """Of the C classes, the first synonym of each."""
    word_logits: Tensor = field(repr=False)
    """``[Q, h, w]`` cosines of the Q words, averaged over windows, at the size that the windows covered."""
    synonyms: tuple[int, ...] = field(repr=False)
    """How many of the words each class has; the words of a class are in a row."""
    words: tuple[str, ...] = field(default=(), repr=False)
    """The Q words, in the order of `word_logits`."""
    background: int | None = None
    """Index of the background's class; None where no class has that word or was named."""

    @property
    def logits(self) -> Tensor:
        """``[C, H, W]`` cosines, a class's the largest of its synonyms', bilinear at the image's size, never refined.

        Made on each access: for a large photograph it is the one large array.
        """
        height, width = self.labels.shape
        result = self.word_logits.new_empty(len(self.class_names), height, width)
        for row, words in zip(result, torch.split(self.word_logits, list(self.synonyms))):
            torch.amax(upsample(words, (height, width)), 0, out=row)
        return result

    def to_dict(self) -> dict[str, Any]:
        """What ``json.dumps`` takes: ``height``, ``width``, ``threshold`` and, in ``classes``, each class.

        Of a class: ``class`` (its name), ``words``, ``label`` (its index), ``colour`` (red, green, blue, 0 to 255, as
        in the pictures), ``pixels``, ``area`` (their share, 0 to 1) and ``score`` (the mean probability in them, None
        where there are none). Of more than 256 classes none has a colour.
        """
        height, width = self.labels.shape
        labels, probability = self.labels.flatten().cpu(), self.probability.flatten().cpu().double()
        count = len(self.class_names)
        pixels = torch.bincount(labels, minlength=count)
        totals = torch.bincount(labels, probability, minlength=count)
        words = iter(self.words)
        colours = self._palette() if count <= MOST_CLASSES else [None] * count
        classes = [
            {
                "class": name,
                "words": list(islice(words, synonyms)),
                "label": i,
                "colour": colour and list(colour),
                "pixels": int(pixels[i]),
                "area": float(pixels[i]) / labels.numel(),
                "score": float(totals[i] / pixels[i]) if pixels[i] else None,
            }
            for i, (name, synonyms, colour) in enumerate(zip(self.class_names, self.synonyms, colours))
        ]
        return {"height": height, "width": width, "threshold": self.threshold, "classes": classes}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the labels as a palette PNG, which VOC's tools read: the index of a pixel is its class.

        Raises:
            ValueError: a name that does not end in .png, more than 256 classes. OSError: a file that cannot be written.
        """
        target = Path(path)
        if target.suffix.lower() != ".png":
            raise ValueError(f"path: got {os.fspath(path)!r}, takes a name that ends in .png, which keeps the indices")
        target.write_bytes(as_png(label_picture(self.labels, self._palette())))

    def overlay(self, image: object) -> PIL.Image.Image:
        """The image tinted by class, with outlines, the names in their regions and a legend of areas; a PIL image.

        Args:
            image: the one that was segmented: a PIL image, an array or a tensor, as `CDAMSegmenter.segment` takes.

        Raises:
            TypeError, ValueError: no image; one of another size than the labels; more than 256 classes.
        """
        pixels = as_tensor(image, "image")
        if pixels.shape[-2:] != self.labels.shape:
            got, takes = ("x".join(map(str, shape)) for shape in (pixels.shape[-2:], self.labels.shape))
            raise ValueError(f"image: got {got} pixels, takes the {takes} that were segmented")
        if pixels.dtype != torch.uint8:
            pixels = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
        drawn: PIL.Image.Image = overlay(pixels, self.labels, self._palette(), self._entries(), self.background)
        return drawn

    def _repr_png_(self) -> bytes:
        """The labels in their colours with a legend: what a notebook shows."""
        return as_png(label_figure(self.labels, self._palette(), self._entries(), self.background))

    def _palette(self) -> list[Colour]:
        count = len(self.class_names)
        if count > MOST_CLASSES:
            raise ValueError(f"class_names: got {count} classes, a picture takes at most {MOST_CLASSES}")
        return palette(count, self.background)

    def _entries(self) -> list[Entry]:
        """Of the legend: the classes that there are, the largest first."""
        found = (Entry(row["label"], row["class"], row["area"]) for row in self.to_dict()["classes"] if row["pixels"])
        return sorted(found, key=lambda entry: -entry.share)


def largest_of_classes(word_logits: Tensor, synonyms: tuple[int, ...]) -> Tensor:
    """The largest of each class's words, ``[B, Q, h, w] -> [B, C, h, w]``."""
    return torch.stack([words.amax(1) for words in torch.split(word_logits, list(synonyms), 1)], 1)


Refine = Callable[[Tensor], Tensor]
"""``[Q, H, W] -> [Q, H, W]``, each word by itself."""


Keep = Callable[[Tensor], Tensor]
"""``[H, W]`` labels to ``[C]`` bool: the classes that remain."""


def best_word(
    logits: Tensor,
    size: tuple[int, int],
    logit_scale: float,
    refine: Refine | None = None,
    candidates: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Index of the best word and its probability for each pixel, ``[Q, h, w] -> [H, W]`` int64, ``[H, W]``.

    candidates: ``[Q]`` bool, the words to choose from; the probability is among all words.
    A few words at a time are upsampled, so that the image's size times the number of words is never held.
    """
    best = logits.new_full(size, -torch.inf)
    normaliser = best.clone()
    index = torch.zeros(size, dtype=torch.int64, device=logits.device)
    step = max(1, _ELEMENTS_AT_ONCE // (size[0] * size[1]))
    for start in range(0, len(logits), step):
        upsampled = upsample(logits[start : start + step], size)
        if refine is not None:
            upsampled = refine(upsampled)
        most, where = upsampled.max(0)
        # about the largest, so that no exponential overflows at any scale
        total = ((upsampled - most) * logit_scale).exp_().sum(0).log_().add_(most, alpha=logit_scale)
        if candidates is not None:
            others = ~candidates[start : start + step, None, None]
            most, where = upsampled.masked_fill(others, -torch.inf).max(0)
        index = torch.where(most > best, where + start, index)
        best = torch.maximum(best, most)
        normaliser = torch.logaddexp(normaliser, total)
    return index, best.mul_(logit_scale).sub_(normaliser).exp_()


def label_pixels(
    logits: Tensor,
    size: tuple[int, int],
    classes: Tensor,
    logit_scale: float,
    background: int | None,
    threshold: Tensor | float,
    refine: Refine | None = None,
    keep: Keep | None = None,
) -> tuple[Tensor, Tensor]:
    """Labels and the best class's probability, both ``[H, W]``; below the threshold a pixel is background."""
    index, probability = best_word(logits, size, logit_scale, refine)
    labels = classes[index]
    if keep is not None:
        kept = keep(labels)
        if not bool(kept[labels].all()):
            index, probability = best_word(logits, size, logit_scale, refine, kept[classes])
            labels = classes[index]
    if background is not None:
        labels = torch.where(probability < threshold, background, labels)
    return labels, probability


def large_classes(labels: Tensor, *, count: int, background: int, share: float) -> Tensor:
    """``[count]`` bool: the background, and the classes that have more than this share of the pixels of all others."""
    pixels = torch.bincount(labels.flatten(), minlength=count)
    pixels[background] = 0
    kept = pixels > share * pixels.sum()
    kept[background] = True
    return kept
