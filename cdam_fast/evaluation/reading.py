"""Photographs and masks from disk to what the model takes, in other processes while it works."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cdam_fast.arguments import plain
from cdam_fast.errors import reason_of
from cdam_fast.evaluation.dataset import Dataset, Sample
from cdam_fast.processes import cores
from cdam_fast.segmentation.preparation import Preparation, Prepared

Identity = list[list[int]]
"""Bytes and time of change in nanoseconds of photograph and mask."""

_AHEAD = 4
"""Images that each process has ready at most."""


class Read(NamedTuple):
    """One image that is ready, or why it is not."""

    sample: Sample
    image: Prepared | None
    truth: Tensor | None
    """``[H, W]`` int16."""
    identity: Identity | None
    reason: str | None = None


def identity_of(sample: Sample) -> Identity:
    """Raises OSError where a file is not there."""
    return [[stat.st_size, stat.st_mtime_ns] for stat in (sample.photo.stat(), sample.mask.stat())]


class _Reader(torch.utils.data.Dataset[Read]):
    def __init__(self, dataset: Dataset, samples: Sequence[Sample], prepare: Preparation) -> None:
        self._dataset, self._samples, self._prepare = dataset, samples, prepare

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Read:
        sample = self._samples[index]
        try:
            identity = identity_of(sample)  # before the files are read: one that changes meanwhile is read again
        except OSError:
            identity = None
        try:
            pixels, truth = self._dataset.read(sample)
            return Read(sample, self._prepare(pixels, "photograph"), torch.from_numpy(truth), identity)
        except Exception as error:  # each image its own
            return Read(sample, None, None, identity, reason_of(error))


def read_images(dataset: Dataset, samples: Sequence[Sample], prepare: Preparation, workers: int) -> Iterator[Read]:
    """Each of the samples, in order; with workers, so many processes read ahead.

    Every image is resized on the CPU, so that their number changes no result.

    Raises:
        RuntimeError: that begins with "DataLoader worker": one of the processes was ended. PyTorch raises it wherever
            this process then is.
    """
    reader = _Reader(dataset, samples, prepare._replace(device=torch.device("cpu")))
    workers = min(workers, len(samples))
    if workers == 0:
        for index in range(len(samples)):
            yield reader[index]
        return
    loader: Any = torch.utils.data.DataLoader(
        reader,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=_AHEAD,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # the caller's is left alone
    )
    with _starting(dataset):
        images = iter(loader)
    yield from images


@contextlib.contextmanager
def _starting(dataset: Dataset) -> Iterator[None]:
    """Processes that depend on nothing of the caller's: not on a default device of PyTorch's, and not on the script.

    One that is not forked would run the script again first, up to its own evaluation where nothing guards it.
    """
    caller = sys.modules["__main__"]
    needed = multiprocessing.get_start_method() == "fork" or type(dataset).__module__ == "__main__"
    device: Any = torch.device("cpu") if hasattr(torch, "set_default_device") else contextlib.nullcontext()
    with device:
        try:
            sys.modules["__main__"] = caller if needed else types.ModuleType("__main__")
            yield
        finally:
            sys.modules["__main__"] = caller


def _as_it_is(image: Any) -> Any:
    return image


def check_workers(workers: object, processes: int) -> int:
    """A number of processes; None is one for each core that is left over, at most 4, for each process of the model."""
    workers = plain(workers)
    if workers is None:
        return max(0, min(4, cores() // processes - 1))
    if isinstance(workers, bool) or not isinstance(workers, int):
        raise TypeError(f"workers: got {workers!r}, takes None or a whole number")
    if workers < 0:
        raise ValueError(f"workers: got {workers}, takes a whole number from 0")
    return workers
