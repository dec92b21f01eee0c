"""What is measured of each image by itself, kept a line an image, so that a run that was stopped goes on."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cdam_fast.errors import reason_of
from cdam_fast.evaluation.dataset import Dataset, Sample, Truth
from cdam_fast.evaluation.reading import Read, check_workers, identity_of, read_images
from cdam_fast.files import write_whole
from cdam_fast.segmentation import CDAMSegmenter
from cdam_fast.segmentation.preparation import Prepared
from cdam_fast.segmentation.result import Segmentation

Record = dict[str, Any]
"""Plain values of one image."""

_FILES = "files"
"""Key of what tells other files of an image under the same names."""

FAILED = "failed"
"""Key of the reason in the record of an image that has no other."""


def records(
    folder: Path,
    segmenter: CDAMSegmenter,
    dataset: Dataset,
    limit: int | None,
    of_image: Callable[[int, Segmentation, Truth], Record],
    *,
    workers: int | None = None,
    on_image: Callable[[str], None] = lambda name: None,
) -> list[Record]:
    """The record of each image, in order; those that the folder has are not made again.

    An image that failed is tried again by the next call, and so is one whose files have changed.

    Args:
        folder: is for these settings alone; ``images.jsonl`` is in it.
        segmenter: of the data set's classes.
        dataset: of `open_dataset`.
        limit: the first so many images only.
        of_image: from an image's number, its segmentation and its truth to its record.
        workers: as for `evaluate`.
        on_image: hears the name of each that is done.

    Raises:
        ValueError: every image failed.
    """
    workers = check_workers(workers, 1)
    samples = dataset.samples[:limit]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "images.jsonl"
    kept = _read(path)
    done = {
        sample.name: record
        for sample in samples
        if (record := kept.get(sample.name)) and record.pop(_FILES, None) == identity_of(sample.photo, sample.mask)
    }
    numbers = {sample.name: i for i, sample in enumerate(samples)}
    with path.open("a", encoding="utf-8") as file:
        for read, found in _outcomes(segmenter, dataset, [one for one in samples if one.name not in done], workers):
            name = read.sample.name
            if isinstance(found, str) or read.truth is None:
                done[name] = {FAILED: found}
                continue
            done[name] = of_image(numbers[name], found, read.truth.numpy())
            file.write(json.dumps({"image": name, _FILES: read.identity, **done[name]}) + "\n")
            file.flush()
            on_image(name)
    every = [done[sample.name] for sample in samples]
    if every and all(FAILED in record for record in every):
        raise ValueError(f"all {len(every)} images, the first: {every[0][FAILED]}")
    return every


def failures(every: Sequence[Record], dataset: Dataset) -> dict[str, Any]:
    """How many of the data set's records are of images that failed, and of the first its name and why; of `Value`."""
    found = [f"{sample.name}: {one[FAILED]}" for sample, one in zip(dataset.samples, every) if FAILED in one]
    return {"failed": len(found), "reason": found[0] if found else ""}


def _read(path: Path) -> dict[str, Record]:
    """By image; what is no whole line is as none, and is taken out here."""
    if not path.is_file():
        return {}
    found: dict[str, Record] = {}
    content = path.read_bytes()
    whole = b""
    for line in content.splitlines(keepends=True):
        try:
            record = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("image"), str):
            found[record.pop("image")] = record
            whole += line
    if whole != content:
        write_whole(path, whole)
    return found


def _outcomes(
    segmenter: CDAMSegmenter, dataset: Dataset, samples: Sequence[Sample], workers: int
) -> Iterator[tuple[Read, Segmentation | str]]:
    """Each sample with its segmentation, or why there is none."""
    waiting: deque[Read] = deque()
    unreadable: deque[Read] = deque()

    def ready() -> Iterator[Prepared]:
        for read in read_images(dataset, samples, segmenter.preparation, workers):
            if read.image is None:
                unreadable.append(read)
            else:
                waiting.append(read)
                yield read.image

    for outcome in segmenter.outcomes(ready(), fill=True):
        yield waiting.popleft(), reason_of(outcome) if isinstance(outcome, Exception) else outcome
    for read in unreadable:
        yield read, str(read.reason)
