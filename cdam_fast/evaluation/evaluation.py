"""A segmenter over a data set: one confusion matrix."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cdam_fast.errors import UsageError, reason_of
from cdam_fast.evaluation import conditions
from cdam_fast.evaluation.checks import check_dataset, check_path, check_plain, check_share
from cdam_fast.evaluation.confusion import confusion_of, iou_of_classes, mean_iou
from cdam_fast.evaluation.dataset import Dataset, Sample
from cdam_fast.evaluation.kept import ANSWER, TEXTS, Kept, Row, difference
from cdam_fast.evaluation.reading import Read, check_limit, check_workers, read_images
from cdam_fast.processes import ALONE, Processes
from cdam_fast.segmentation import CDAMSegmenter
from cdam_fast.segmentation.options import check_flag
from cdam_fast.segmentation.preparation import Prepared


class ImageFailedError(Exception):
    """One that ends a strict evaluation: its name, and why."""


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
    """Names of the images that are not, and why; in the data set's order at the end."""
    seconds: float = 0.0
    """That one process took for an image, on average; reading that it waited for included."""
    words: list[list[str]] = field(default_factory=list)
    """Of each class its synonyms."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Whatever decides the matrix: the segmenter's options, the map's and the weights of the image tower among them."""
    versions: dict[str, str | None] = field(default_factory=dict)
    """Of cdam_fast, Python, torch, numpy, pillow and open_clip."""
    commit: dict[str, Any] | None = None
    """``hash`` of the code's git checkout and whether it is ``clean``; None where it runs from none."""
    note: str = ""
    """The data set's."""
    protocol: dict[str, Any] | None = None
    """Under which it was measured."""
    published: float | None = None
    """The mIoU that was published for this, a fraction of 1."""
    done_before: int = 0
    """Of the images, those that an earlier run had kept."""

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
            "protocol": self.protocol,
            "miou": self.miou,
            "published_miou": self.published,
            "iou": self.iou,
            "images": self.images,
            "failed": [{"image": name, "reason": reason} for name, reason in self.failed],
            "seconds": self.seconds,
            "classes": list(self.classes),
            "words": self.words,
            "confusion": self.confusion.tolist(),
            "settings": self.settings,
            "versions": self.versions,
            "commit": self.commit,
            "note": self.note,
        }

    def _add(self, row: Row) -> None:
        self.confusion += row.confusion
        self.seconds = (self.seconds * self.images + row.seconds) / (self.images + 1)
        self.images += 1


def evaluate(
    segmenter: CDAMSegmenter,
    dataset: Dataset,
    *,
    limit: int | None = None,
    out: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    settings: Mapping[str, Any] | None = None,
    strict: bool = False,
    protocol: Mapping[str, Any] | None = None,
    published: float | None = None,
    processes: Processes = ALONE,
    on_image: Callable[[str, Evaluation], None] = lambda name, so_far: None,
) -> Evaluation:
    """The confusion matrix of a data set's images (section 4.1).

    An image's labels depend on nothing but itself, the settings and the arithmetic of this machine: the batches of
    windows are filled up, so that the sum is the same, bit for bit, however the images are divided over runs and
    processes of one number of threads. Measured on CPUs, with a batch_size of 1 or a multiple of 4: of others, the
    products of torch 1.13 round by a window's place in the batch. Out of memory, windows go in smaller batches.

    Args:
        segmenter: its classes are the data set's, in the same order; their words may be others.
        dataset: of `open_dataset`.
        limit: the first so many images only.
        out: folder that keeps each image's counts at once. A run that was ended, by whatever, goes on there, in any
            number of processes; images that failed, and those whose files have changed, are tried again. The result is
            written there too, as ``result.json``.
        workers: processes that read and resize images; 0 is none, None one for each core that is left over, at most 4.
        settings: what else decides the result, such as the model's name, as plain values; beside the segmenter's own.
        strict: an image that fails ends the evaluation.
        protocol, published: for the result, see `Evaluation`.
        processes: of `cdam_fast.processes.joined`; each then does its share, and all of them return the whole result.
        on_image: hears a name and what has come out so far, in this process, after each.

    Raises:
        TypeError, ValueError: an argument that is wrong, by name; another number of classes; a folder with something
            else in it, with results of other settings, or that another run works in. RuntimeError: a process that
            reads images has ended, a folder that cannot be written on. ImageFailedError: strict, and one has.
            UsageError: processes that differ.
        ModuleNotFoundError: no torchmetrics.
    """
    import torchmetrics  # noqa: F401 - said before any work

    if not hasattr(segmenter, "texts") or not hasattr(segmenter, "outcomes"):
        raise TypeError(f"segmenter: got {type(segmenter).__name__}, takes a CDAMSegmenter")
    if not isinstance(processes, Processes):
        raise TypeError(f"processes: got {type(processes).__name__}, takes what cdam_fast.processes.joined gives")
    if not callable(on_image):
        raise TypeError(f"on_image: got {type(on_image).__name__}, takes a function of a name and an Evaluation")
    strict = check_flag("strict", strict)
    own, published = check_plain("settings", {} if settings is None else settings), check_share("published", published)
    protocol = None if protocol is None else check_plain("protocol", protocol)
    count = len(check_dataset(dataset).classes)
    if len(segmenter.texts.words.names) != count:
        got = len(segmenter.texts.words.names)
        raise ValueError(f"segmenter: has {got} classes, takes the {count} of {dataset.name}")
    folder = None if out is None else check_path("out", out, "a folder")
    limit = check_limit(limit)
    workers = check_workers(workers, processes.of_machine)
    samples = dataset.samples[:limit]
    result = Evaluation(
        dataset=dataset.name,
        classes=dataset.classes,
        confusion=torch.zeros(count, count, dtype=torch.int64, device="cpu"),
        words=conditions.words_of(segmenter),
        settings=conditions.settings_of(segmenter, dataset) | own,
        versions=conditions.versions(),
        commit=conditions.commit(),
        note=dataset.note,
        protocol=protocol,
        published=published,
    )
    decisive = result.settings | {"versions": result.versions, "commit": (result.commit or {}).get("hash")}
    if out is not None or processes.count > 1:
        decisive |= {TEXTS: conditions.texts_of(segmenter), ANSWER: conditions.answer_of(segmenter)}
    _check_same(processes, decisive, samples)
    kept = None
    if folder is not None:
        with processes.first_alone():
            kept = Kept(folder, decisive, first=processes.first)
    done = set()
    for row in [] if kept is None else kept.rows(samples, count):
        done.add(row.image)
        if processes.first:
            result._add(row)
    processes.wait()  # nobody writes before all have read
    left = [sample for sample in samples if sample.name not in done]
    result.done_before = len(done)
    run = _Run(segmenter, dataset, result, kept, strict, processes, on_image)
    try:
        run.images(processes.share(left), workers)
    except RuntimeError as error:
        if str(error).startswith("DataLoader worker"):
            raise RuntimeError(f"workers: a process that reads images has ended: {reason_of(error)}") from None
        raise
    finally:
        if kept is not None:
            kept.close()
    _sum_up(result, processes, samples)
    if kept is not None and processes.first:
        kept.finish(result.as_json())
    return result


@dataclass
class _Run:
    """One process's images."""

    segmenter: CDAMSegmenter
    dataset: Dataset
    result: Evaluation
    kept: Kept | None
    strict: bool
    processes: Processes
    on_image: Callable[[str, Evaluation], None]

    def images(self, samples: Sequence[Sample], workers: int) -> None:
        waiting: deque[Read] = deque()

        def ready() -> Iterator[Prepared]:
            for read in read_images(self.dataset, samples, self.segmenter.preparation, workers):
                if read.image is None:
                    self._fail(read.sample, str(read.reason))
                else:
                    waiting.append(read)
                    yield read.image

        before = time.monotonic()
        for outcome in self.segmenter.outcomes(ready(), fill=True):
            read = waiting.popleft()
            assert read.truth is not None
            if isinstance(outcome, Exception):
                reason = reason_of(outcome)
                outcome.__traceback__ = None  # its frames hold what may have filled the memory
                self._fail(read.sample, reason)
                continue
            confusion = confusion_of(outcome.labels, read.truth.numpy(), len(self.dataset.classes))
            now = time.monotonic()
            row = Row(read.sample.name, read.identity, confusion, now - before)
            before = now
            if self.kept is not None:
                self.kept.add(row, self.processes.rank)
            self.result._add(row)
            self.on_image(read.sample.name, self.result)

    def _fail(self, sample: Sample, reason: str) -> None:
        if self.strict:
            raise ImageFailedError(f"{sample.name}: {reason}")
        self.result.failed.append((sample.name, reason))
        self.on_image(sample.name, self.result)


def _check_same(processes: Processes, decisive: dict[str, Any], samples: Sequence[Sample]) -> None:
    """All processes see the same images, and work on them in the same way."""
    names = hashlib.sha256("\n".join(sample.name for sample in samples).encode(errors="surrogateescape")).hexdigest()
    mine = {"images": [len(samples), names], **json.loads(json.dumps(decisive))}
    for rank, theirs in enumerate(processes.gather(mine)):
        different = difference(theirs, mine)
        if different:
            raise UsageError(f"process {rank} has {different}; takes the same in all processes")


def _sum_up(result: Evaluation, processes: Processes, samples: Sequence[Sample]) -> None:
    result.confusion = processes.total(result.confusion)
    parts = processes.gather([result.images, result.seconds * result.images, result.failed])
    result.images = sum(images for images, _, _ in parts)
    result.seconds = sum(seconds for _, seconds, _ in parts) / max(1, result.images)
    places = {sample.name: place for place, sample in enumerate(samples)}
    failed = [(name, reason) for _, _, failed in parts for name, reason in failed]
    result.failed = sorted(failed, key=lambda image: places[image[0]])
