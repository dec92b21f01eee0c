"""Whether a patch's class is right, and whether its distribution is nearest to its own object's (Table 17)."""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdam_fast import pairwise_divergence
from cdam_fast.evaluation.dataset import VOID, Truth
from cdam_fast.evaluation.tables.cells import Job, Plan, Planned, Value
from cdam_fast.evaluation.tables.comparison import BASES
from cdam_fast.evaluation.tables.inputs import Column, Inputs, Row, name_of
from cdam_fast.evaluation.tables.paper import AVERAGE, paper_tables
from cdam_fast.evaluation.tables.patches import patch_cosines, patch_truth
from cdam_fast.evaluation.tables.records import FAILED, Record, failures, records
from cdam_fast.segmentation import CDAMSegmenter
from cdam_fast.segmentation.result import Segmentation

SEEDS = (0, 1, 2, 3, 4)
TEMPERATURE = 0.1
"""Of the class distributions, as for the map."""

PREDICTION, SIMILARITY = "class prediction", "similarity"
NOTES = (
    f"For each image, each class in it but the background, and each of {len(SEEDS)} seeds: P_target and P_in are two "
    "patches of the class, P_out is one of the rest, all at random, void left out; a patch's class is the truth at its "
    "centre. A class with fewer than two patches, or with no rest, is left out. Class prediction: the share of "
    "P_target whose best word is the class's. Similarity: the share with a smaller Jensen-Shannon divergence to P_in "
    "than to P_out. The mean over seeds, ± their standard deviation.",
)


class Triples(NamedTuple):
    """Patches by their number in the grid, a row for each class that has enough of them."""

    classes: NDArray[np.int64]
    patches: NDArray[np.int64]
    """``[classes, 3]``: P_target, P_in, P_out."""


def choose(truth: NDArray[np.int16], background: int | None, rng: np.random.Generator) -> Triples:
    """At random from ``[N]`` patches' classes."""
    classes, patches = [], []
    for label in np.unique(truth):
        inside = np.flatnonzero(truth == label)
        outside = np.flatnonzero((truth != label) & (truth != VOID))
        if label in (VOID, background) or len(inside) < 2 or not len(outside):
            continue
        classes.append(int(label))
        patches.append([*rng.choice(inside, 2, replace=False), rng.choice(outside)])
    return Triples(np.array(classes, dtype=np.int64), np.array(patches, dtype=np.int64).reshape(-1, 3))


def judge(cosines: Tensor, word_classes: Tensor, triples: Triples) -> tuple[int, int]:
    """How many of the triples have P_target's class right, and how many P_in nearer to it than P_out.

    Args:
        cosines: ``[Q, N]`` of the words and the patches.
        word_classes: ``[Q]`` the class of each word.
        triples: of `choose`.
    """
    if not len(triples.classes):
        return 0, 0
    patches = torch.from_numpy(triples.patches).to(cosines.device)
    chosen = cosines.T[patches]  # [classes, 3, Q]
    said = word_classes[chosen[:, 0].argmax(-1)].cpu().numpy()
    distances = pairwise_divergence(torch.softmax(chosen / TEMPERATURE, -1))[:, 0]
    nearer = distances[:, 1] < distances[:, 2]
    return int((said == triples.classes).sum()), int(nearer.sum())


def plan_similarity(inputs: Inputs) -> Plan:
    """Table 17: a job for each base and data set."""
    names = [name for name in paper_tables()[17].columns if name != AVERAGE]
    names += [name for name, column in inputs.columns.items() if column.scenes]
    cells = []
    for base in BASES:
        jobs = {name: _job(inputs, inputs.columns[name], base) for name in names if name in inputs.columns}
        for value in (PREDICTION, SIMILARITY):
            cells += [Planned(f"{base}, {value}", name, jobs.get(name), value) for name in names]
    return Plan(17, tuple(cells), NOTES)


def _job(inputs: Inputs, column: Column, base: str) -> Job:
    settings = inputs.settings(column, Row(base, base, cdam=False))
    title, measure = f"Table 17, {column.name}: {base}", partial(_measure, inputs, column, settings)
    name, files = name_of("similarity", column, settings), inputs.files_of(column)
    return Job(name, title, measure, inputs.images(column), files=files)


def _measure(inputs: Inputs, column: Column, settings: dict[str, Any], folder: Path) -> dict[str, Value]:
    segmenter = inputs.segmenter(settings)
    every = records(
        folder,
        segmenter,
        column.dataset,
        inputs.limit,
        partial(_of_image, segmenter, column),
        workers=inputs.workers,
        on_image=inputs.on_image,
    )
    good = [record for record in every if FAILED not in record]
    used, failed = sum(record["triples"] > 0 for record in good), failures(every, column.dataset)
    count = sum(record["triples"] for record in good)
    if not count:
        return {name: Value(None, 0, **failed) for name in (PREDICTION, SIMILARITY)}
    values = {}
    for name in (PREDICTION, SIMILARITY):
        shares = [sum(record[name][i] for record in good) / count for i in range(len(SEEDS))]
        values[name] = Value(statistics.fmean(shares), used, statistics.stdev(shares), **failed)
    return values


def _of_image(segmenter: CDAMSegmenter, column: Column, number: int, result: Segmentation, truth: Truth) -> Record:
    """Triples of one image, and how many of them are as they should be, by seed."""
    cosines = patch_cosines(result, segmenter.tower.patch)
    of_patches = patch_truth(truth, (cosines.shape[1], cosines.shape[2])).ravel()
    record: Record = {"triples": 0, PREDICTION: [], SIMILARITY: []}
    for seed in SEEDS:
        triples = choose(of_patches, column.dataset.background, np.random.default_rng([seed, number]))
        right, nearer = judge(cosines.flatten(1), segmenter.texts.classes, triples)
        record["triples"] = len(triples.classes)
        record[PREDICTION].append(right)
        record[SIMILARITY].append(nearer)
    return record
