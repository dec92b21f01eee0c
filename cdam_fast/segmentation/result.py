"""From logits to labels: the class of every pixel, its probability, the background."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cdam_fast.segmentation.windows import upsample

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


def largest_of_classes(word_logits: Tensor, synonyms: tuple[int, ...]) -> Tensor:
    """The largest of each class's words, ``[B, Q, h, w] -> [B, C, h, w]``."""
    return torch.stack([words.amax(1) for words in torch.split(word_logits, list(synonyms), 1)], 1)


Refine = Callable[[Tensor], Tensor]
"""``[Q, H, W] -> [Q, H, W]``, each word by itself."""


def best_word(
    logits: Tensor, size: tuple[int, int], logit_scale: float, refine: Refine | None = None
) -> tuple[Tensor, Tensor]:
    """Index of the best word and its probability for each pixel, ``[Q, h, w] -> [H, W]`` int64, ``[H, W]``.

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
) -> tuple[Tensor, Tensor]:
    """Labels and the best class's probability, both ``[H, W]``; below the threshold a pixel is background."""
    index, probability = best_word(logits, size, logit_scale, refine)
    labels = classes[index]
    if background is not None:
        labels = torch.where(probability < threshold, background, labels)
    return labels, probability
