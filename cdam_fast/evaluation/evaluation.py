"""A segmenter over a data set: one confusion matrix."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cdam_fast.errors import reason_of
from cdam_fast.evaluation.confusion import confusion_of, iou_of_classes, mean_iou
from cdam_fast.evaluation.dataset import Dataset, Sample, Truth
from cdam_fast.segmentation import CDAMSegmenter


@dataclass
class Evaluation:
    """What came out: the summed matrix, and what it says."""

    dataset: str
    classes: tuple[str, ...]
    confusion: Tensor
    """``[C, C]`` int64 pixels, rows the truth, columns the prediction."""
    images: int = 0
    """Those in the matrix."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Names of the images that are not, and why."""
    seconds: float = 0.0
    """Per image, reading included."""

    @property
    def iou(self) -> dict[str, float | None]:
        """By class; None where it neither occurs nor was predicted."""
        return dict(zip(self.classes, iou_of_classes(self.confusion)))

    @property
    def miou(self) -> float | None:
        """`mean_iou` of the matrix; a fraction of 1."""
        return mean_iou(self.confusion)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "dataset": self.dataset,
            "classes": list(self.classes),
            "confusion": self.confusion.tolist(),
            "iou": self.iou,
            "miou": self.miou,
            "images": self.images,
            "failed": [{"image": name, "reason": reason} for name, reason in self.failed],
            "seconds": self.seconds,
        }


def evaluate(
    segmenter: CDAMSegmenter,
    dataset: Dataset,
    *,
    limit: int | None = None,
    on_image: Callable[[str, Evaluation], None] = lambda name, so_far: None,
) -> Evaluation:
    """The confusion matrix of a data set's images (section 4.1).

    Args:
        segmenter: its classes are the data set's, in the same order; their words may be others.
        dataset: of `open_dataset`.
        limit: the first so many images only.
        on_image: hears a name and what has come out so far after each.

    Raises:
        ValueError: another number of classes.
    """
    count = len(dataset.classes)
    if len(segmenter.texts.words.names) != count:
        got = len(segmenter.texts.words.names)
        raise ValueError(f"segmenter: has {got} classes, takes the {count} of {dataset.name}")
    result = Evaluation(dataset.name, dataset.classes, torch.zeros(count, count, dtype=torch.int64))
    begin = time.monotonic()
    waiting: deque[tuple[Sample, Truth]] = deque()

    def fail(sample: Sample, error: Exception) -> None:
        result.failed.append((sample.name, reason_of(error)))
        on_image(sample.name, result)

    def read() -> Iterator[Tensor]:
        for sample in dataset.samples[:limit]:
            try:
                pixels, truth = dataset.read(sample)
            except ValueError as error:
                fail(sample, error)
                continue
            waiting.append((sample, truth))
            yield pixels

    for outcome in segmenter.outcomes(read()):
        sample, truth = waiting.popleft()
        if isinstance(outcome, Exception):
            fail(sample, outcome)
            continue
        result.confusion += confusion_of(outcome.labels, truth, count)
        result.images += 1
        result.seconds = (time.monotonic() - begin) / result.images
        on_image(sample.name, result)
    return result
