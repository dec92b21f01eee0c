"""Rules for a background threshold against the best threshold of each image (Table 11, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cdam_fast.evaluation.dataset import Truth
from cdam_fast.evaluation.tables.cells import Job, Plan, Planned, Value
from cdam_fast.evaluation.tables.inputs import Column, Inputs, Row, name_of
from cdam_fast.evaluation.tables.paper import AVERAGE, paper_tables
from cdam_fast.evaluation.tables.patches import patch_cosines
from cdam_fast.evaluation.tables.records import FAILED, Record, failures, records
from cdam_fast.segmentation import CDAMSegmenter
from cdam_fast.segmentation.result import Segmentation, best_word

STEPS = 1000
"""Thresholds 0, 0.001, ..., 1 are tried for the best one."""

GREY = 255
"""Rules see the probabilities as a grey image of 8 bits, what they were made for."""

EQ_4 = "Eq. 4"
NOTES = (
    "The rules see the probability of each patch's best class, as a grey image of 8 bits. The best threshold is the "
    "lowest of 0, 0.001, ..., 1 that gives the image its largest mIoU; the paper searches it with the Pocket "
    "algorithm. It does not say of which base, so it is MaskCLIP + CDAM here. An image on which a rule finds no "
    "threshold is left out of that rule's correlation.",
    "Otsu, Lloyd and Li are scikit-image's threshold_otsu, threshold_isodata (of two levels, Lloyd's algorithm is "
    "Ridler and Calvard's) and threshold_li; Kittler, Kapur and Huang are SimpleITK's KittlerIllingworth, "
    "MaximumEntropy and Huang. The paper cites Rosenfeld & De La Torre for Lloyd and Sezan for Kittler, which are "
    "methods of other names. Neither library has Pal's and Brink's cross entropies.",
)

Grey = NDArray[np.uint8]
Rule = Callable[[Grey], float]


def _of_skimage(name: str, grey: Grey) -> float:
    from skimage import filters

    return float(getattr(filters, name)(grey))


def _of_simpleitk(name: str, grey: Grey) -> float:
    import SimpleITK

    threshold = getattr(SimpleITK, f"{name}ThresholdImageFilter")()
    threshold.SetNumberOfHistogramBins(GREY + 1)
    said = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # it warns of rules that do not converge
    try:
        threshold.Execute(SimpleITK.GetImageFromArray(grey))
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(said)
    return float(threshold.GetThreshold())


RULES: dict[str, Rule] = {
    "Otsu": partial(_of_skimage, "threshold_otsu"),
    "Lloyd": partial(_of_skimage, "threshold_isodata"),
    "Kittler": partial(_of_simpleitk, "KittlerIllingworth"),
    "Li": partial(_of_skimage, "threshold_li"),
    "Kapur": partial(_of_simpleitk, "MaximumEntropy"),
    "Huang": partial(_of_simpleitk, "Huang"),
}
"""The paper's rules that a library has, from a grey image to a grey level."""


def rule_thresholds(probability: NDArray[np.floating[Any]]) -> dict[str, float | None]:
    """Of each of `RULES` the threshold of an image's probabilities, a fraction of 1; None where it finds none."""
    grey: Grey = np.rint(probability * GREY).astype(np.uint8)
    if grey.min() == grey.max():
        return dict.fromkeys(RULES)
    return {name: _or_none(rule, grey) for name, rule in RULES.items()}


def _or_none(rule: Rule, grey: Grey) -> float | None:
    try:
        return rule(grey) / GREY
    except (RuntimeError, ValueError, IndexError):  # a rule that finds none on such a histogram
        return None


def best_threshold(
    probability: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], truth: Truth, background: int
) -> float | None:
    """The lowest of 0, 0.001, ..., 1 that gives the image its largest mIoU.

    Args:
        probability: ``[H, W]`` of each pixel's best class; below the threshold a pixel is background.
        labels: ``[H, W]`` the best class.
        truth: ``[H, W]``; void counts for nothing.
        background: its class.

    None where all is void. The mIoU is over classes in the truth or in the prediction at that threshold.
    """
    counted = truth >= 0
    said, true = labels[counted].astype(int), truth[counted].astype(int)
    if not len(true):
        return None
    grid = np.arange(STEPS + 1) / STEPS
    level = np.searchsorted(grid, probability[counted].astype(np.float64), side="right") - 1
    classes = int(max(said.max(), true.max(), background)) + 1

    def kept(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """``[classes, STEPS + 1]``: chosen pixels of each predicted class that are no background at each threshold."""
        counts = np.bincount(said[chosen] * len(grid) + level[chosen], minlength=classes * len(grid))
        return counts.reshape(classes, -1)[:, ::-1].cumsum(1)[:, ::-1]

    foreground = said != background
    predicted, both = kept(foreground), kept(foreground & (said == true))
    occurring = np.bincount(true, minlength=classes)
    predicted[background] = len(true) - predicted.sum(0)
    both[background] = occurring[background] - kept(foreground & (true == background)).sum(0)
    union = predicted + occurring[:, None] - both
    shares = np.divide(both, union, out=np.zeros(union.shape), where=union > 0)
    miou = shares.sum(0) / (union > 0).sum(0)
    return float(grid[miou.argmax()])


def pearson(one: list[float], other: list[float]) -> float | None:
    """The correlation; None where it is not defined: fewer than two images, or one of them constant."""
    if len(one) < 2 or min(one) == max(one) or min(other) == max(other):
        return None
    return float(np.corrcoef(one, other)[0, 1])


def plan_thresholds(inputs: Inputs) -> Plan:
    """Table 11: a job for each data set, which is measured once for all rules."""
    paper = paper_tables()[11]
    names = [name for name in paper.columns if name != AVERAGE]
    names += [name for name, column in inputs.columns.items() if column.scenes]
    jobs = {name: _job(inputs, inputs.columns[name]) for name in names if name in inputs.columns}
    known = {*RULES, EQ_4}
    cells = [Planned(row, name, jobs.get(name) if row in known else None, row) for row in paper.rows for name in names]
    return Plan(11, tuple(cells), NOTES)


def _job(inputs: Inputs, column: Column) -> Job:
    settings = inputs.settings(column, Row(EQ_4, "maskclip"))
    measure = partial(_measure, inputs, column, settings)
    name, title = name_of("thresholds", column, settings), f"Table 11, {column.name}"
    return Job(name, title, measure, inputs.images(column), ("skimage.filters", "SimpleITK"), inputs.files_of(column))


def _measure(inputs: Inputs, column: Column, settings: dict[str, Any], folder: Path) -> dict[str, Value]:
    segmenter = inputs.segmenter(settings)
    every = records(
        folder,
        segmenter,
        column.dataset,
        inputs.limit,
        partial(_of_image, segmenter),
        workers=inputs.workers,
        on_image=inputs.on_image,
    )
    failed = failures(every, column.dataset)
    values = {}
    for rule in (*RULES, EQ_4):
        pairs = [(record["best"], record[rule]) for record in every if FAILED not in record]
        usable = [pair for pair in pairs if None not in pair]
        correlation = pearson([best for best, _ in usable], [found for _, found in usable])
        values[rule] = Value(correlation, len(usable), **failed)
    return values


def _of_image(segmenter: CDAMSegmenter, number: int, result: Segmentation, truth: Truth) -> Record:
    """Of one image the best threshold and each rule's; None where there is none."""
    assert result.background is not None
    scale = segmenter.options.logit_scale
    height, width = result.labels.shape
    index, probability = best_word(result.word_logits, (height, width), scale)
    best = best_threshold(
        probability.cpu().numpy(), segmenter.texts.classes[index].cpu().numpy(), truth, result.background
    )
    cosines = patch_cosines(result, segmenter.tower.patch)
    of_patches = torch.softmax(cosines * scale, 0).amax(0).cpu().numpy()
    entropy = result.threshold if math.isfinite(result.threshold) else None
    return {"best": best, **rule_thresholds(of_patches), EQ_4: entropy}
