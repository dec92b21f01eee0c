"""What is measured of each image by itself, kept a line an image, so that a run that was stopped goes on."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cdam_fast.errors import reason_of
from cdam_fast.evaluation.dataset import Dataset, Sample, Truth
from cdam_fast.segmentation import CDAMSegmenter
from cdam_fast.segmentation.result import Segmentation

Record = dict[str, Any]
"""Plain values of one image."""

FAILED = "failed"
"""Key of the reason in the record of an image that has no other."""


def records(
    folder: Path,
    segmenter: CDAMSegmenter,
    dataset: Dataset,
    limit: int | None,
    of_image: Callable[[int, Segmentation, Truth], Record],
) -> list[Record]:
    """The record of each image, in order; those that the folder has are not made again.

    An image that failed is tried again by the next call.

    Args:
        folder: is for these settings alone; ``images.jsonl`` is in it.
        segmenter: of the data set's classes.
        dataset: of `open_dataset`.
        limit: the first so many images only.
        of_image: from an image's number, its segmentation and its truth to its record.

    Raises:
        ValueError: every image failed.
    """
    samples = dataset.samples[:limit]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "images.jsonl"
    done = _read(path)
    todo = [(i, sample) for i, sample in enumerate(samples) if sample.name not in done]
    with path.open("a", encoding="utf-8") as file:
        for (i, sample), found in _outcomes(segmenter, dataset, todo):
            if isinstance(found, Exception):
                done[sample.name] = {FAILED: reason_of(found)}
                continue
            record = of_image(i, *found)
            done[sample.name] = record
            file.write(json.dumps({"image": sample.name, **record}) + "\n")
            file.flush()
    every = [done[sample.name] for sample in samples]
    if every and all(FAILED in record for record in every):
        raise ValueError(f"all {len(every)} images, the first: {every[0][FAILED]}")
    return every


def _read(path: Path) -> dict[str, Record]:
    """By image; a last line that was cut off is as none, and is cut off here."""
    if not path.is_file():
        return {}
    whole, _, rest = path.read_text(encoding="utf-8").rpartition("\n")
    if rest:
        path.write_text(whole + "\n" if whole else "", encoding="utf-8")
    lines = [json.loads(line) for line in whole.splitlines()]
    return {line.pop("image"): line for line in lines}


def _outcomes(
    segmenter: CDAMSegmenter, dataset: Dataset, samples: list[tuple[int, Sample]]
) -> Iterator[tuple[tuple[int, Sample], tuple[Segmentation, Truth] | Exception]]:
    """Each sample's segmentation and truth, or what went wrong, as they are done."""
    waiting: deque[tuple[tuple[int, Sample], Truth]] = deque()
    unreadable: deque[tuple[tuple[int, Sample], Exception]] = deque()

    def read() -> Iterator[Any]:
        for numbered in samples:
            try:
                pixels, truth = dataset.read(numbered[1])
            except ValueError as error:
                unreadable.append((numbered, error))
                continue
            waiting.append((numbered, truth))
            yield pixels

    for outcome in segmenter.outcomes(read()):
        yield from unreadable
        unreadable.clear()
        numbered, truth = waiting.popleft()
        yield numbered, outcome if isinstance(outcome, Exception) else (outcome, truth)
    yield from unreadable
