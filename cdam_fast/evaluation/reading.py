"""Photographs and masks from disk to what the model takes, in other processes while it works."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cdam_fast.errors import reason_of
from cdam_fast.evaluation.checks import check_whole
from cdam_fast.evaluation.dataset import Dataset, Sample
from cdam_fast.processes import cores
from cdam_fast.segmentation.preparation import Preparation, Prepared

Identity = list[list[int]]
"""Bytes and time of change in nanoseconds of each file: of an image its photograph and its mask."""

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


def identity_of(*files: Path) -> Identity | None:
    """None where one is not there."""
    try:
        return [[stat.st_size, stat.st_mtime_ns] for stat in (path.stat() for path in files)]
    except (OSError, ValueError):
        return None


class _Reader(torch.utils.data.Dataset[Read]):
    def __init__(self, dataset: Dataset, samples: Sequence[Sample], prepare: Preparation) -> None:
        self._dataset, self._samples, self._prepare = dataset, samples, prepare

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Read:
        """With arrays for tensors."""
        read = self.read(self._samples[index])
        return read._replace(image=read.image and _each(read.image, _to_array), truth=_to_array(read.truth))

    def read(self, sample: Sample) -> Read:
        identity = identity_of(sample.photo, sample.mask)  # before they are read: one that changes is read again
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
            yield reader.read(samples[index])
        return
    loader: Any = torch.utils.data.DataLoader(
        reader,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=_AHEAD,
        collate_fn=_as_it_is,
        worker_init_fn=_end_with_the_parent,
        generator=torch.Generator(),  # the caller's is left alone
    )
    # arrays go through a pipe; a tensor takes an open file, and memory of /dev/shm, which some systems are short of
    with _starting(dataset):
        images = iter(loader)
    for read in images:
        yield read._replace(image=read.image and _each(read.image, _to_tensor), truth=_to_tensor(read.truth))


def _each(image: Prepared, convert: Callable[[Any], Any]) -> Prepared:
    return image._replace(pixels=convert(image.pixels), image=convert(image.image))


def _to_array(value: Any) -> Any:
    return value.numpy() if isinstance(value, Tensor) else value


def _to_tensor(value: Any) -> Any:
    return value if value is None else torch.from_numpy(value)


def _end_with_the_parent(worker: int) -> None:
    """A process would wait without an end for someone to take its image, where the one that reads it was killed."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


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
    if workers is None:
        return max(0, min(4, cores() // processes - 1))
    return check_whole("workers", workers, 0, none=True)


def check_limit(limit: object) -> int | None:
    """A number of images; None is all of them."""
    return None if limit is None else check_whole("limit", limit, 1, none=True)
