"""The one summed confusion matrix, and mean intersection over union from it."""

from __future__ import annotations

import torch
from torch import Tensor

from cdam_fast.evaluation.dataset import VOID, Truth


def confusion_of(labels: Tensor, truth: Truth, classes: int) -> Tensor:
    """``[C, C]`` int64 pixels, rows the truth, columns the prediction; void left out.

    Args:
        labels: ``[H, W]`` int64.
        truth: ``[H, W]`` int16.
        classes: C.

    Raises:
        ModuleNotFoundError: no torchmetrics.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    target = torch.from_numpy(truth).to(labels.device, torch.int64)
    least = max(classes, 2)  # that torchmetrics takes
    # its own checks sort the pixels, twice the time of the counting; a data set has checked its masks' values
    counts: Tensor = multiclass_confusion_matrix(
        labels, target, num_classes=least, ignore_index=VOID, validate_args=False
    )
    return counts[:classes, :classes].cpu()


def iou_of_classes(confusion: Tensor) -> list[float | None]:
    """Of each class intersection over union, a fraction of 1; None where it neither occurs nor was predicted."""
    if not isinstance(confusion, Tensor):
        raise TypeError(f"confusion: got {type(confusion).__name__}, takes a torch.Tensor of shape [C, C]")
    if confusion.dim() != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"confusion: got shape {tuple(confusion.shape)}, takes [C, C]")
    matrix = confusion.double()
    both = matrix.diagonal()
    union = matrix.sum(0) + matrix.sum(1) - both
    return [float(one / of) if of else None for one, of in zip(both, union)]


def mean_iou(confusion: Tensor) -> float | None:
    """The mean as mmseg takes it: over classes with a union in the whole set; absent but predicted is 0.

    None where there is no pixel at all.
    """
    found = [value for value in iou_of_classes(confusion) if value is not None]
    return sum(found) / len(found) if found else None
