"""Images through a model in batches of windows, each image's failure its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import groupby, islice
from typing import Union

from torch import Tensor

from cdam_fast.segmentation.result import Segmentation
from cdam_fast.segmentation.windows import Canvas, Place, by_shape

Outcome = Union[Segmentation, Exception]
Window = tuple[Union[Canvas, Exception], Place]
"""One to look at, or what went wrong before an image had any."""

Model = Callable[[list[Tensor]], Tensor]
"""From crops ``[3, h, w]`` of one shape to the logits of each, ``[B, Q, h', w']``."""


def outcomes(
    images: Iterable[object],
    prepare: Callable[[object, str], Canvas],
    model: Model,
    finish: Callable[[Canvas], Segmentation],
    batch_size: int,
    *,
    apart: bool,
    fill: bool,
    settings: Callable[[], AbstractContextManager[object]],
) -> Iterator[Outcome]:
    """What became of each image, in order; images are taken as they are needed.

    Args:
        images: anything that prepare takes.
        prepare: from an image and its name to its windows.
        model, finish: what the windows go through, and what is made of their logits.
        batch_size: windows at once, of whatever images.
        apart: where a batch fails, take it one image at a time to find whose failure it is.
        fill: fill a batch of fewer windows up with one of them, so that every product has one shape: a window's logits
            then do not depend on what shares its batch, down to the last bit.
        settings: of PyTorch, under which the model runs.
    """
    windows = _windows(images, prepare)
    while batch := list(islice(windows, batch_size)):
        with settings():
            done = list(_done(batch, model, finish, apart, batch_size if fill else 1))
        yield from done


def _windows(images: Iterable[object], prepare: Callable[[object, str], Canvas]) -> Iterator[Window]:
    for i, image in enumerate(images):
        try:
            canvas = prepare(image, f"image {i}")
        except Exception as error:  # noqa: PERF203 - each image its own
            yield error, (0, 0)
        else:
            yield from ((canvas, place) for place in canvas.places if not canvas.failed)


def _done(
    batch: list[Window], model: Model, finish: Callable[[Canvas], Segmentation], apart: bool, least: int
) -> Iterator[Outcome]:
    """Of the images whose last window is in the batch, or whose first failure."""
    logits = _logits([(canvas, place) for canvas, place in batch if isinstance(canvas, Canvas)], model, apart, least)
    for canvas, _ in batch:
        if isinstance(canvas, Exception):
            yield canvas
            continue
        one = next(logits)
        if canvas.failed:
            continue
        try:
            if isinstance(one, Exception):
                raise one
            finished = finish(canvas) if canvas.add(one) else None
        except Exception as error:
            canvas.failed = True
            yield error
        else:
            if finished is not None:
                yield finished


def _logits(windows: list[tuple[Canvas, Place]], model: Model, apart: bool, least: int) -> Iterator[Tensor | Exception]:
    """Of each window, or what it raised; least: windows that the model gets at least."""
    if not windows:
        return
    crops = [canvas.crop(place) for canvas, place in windows]
    try:
        results: list[Tensor | Exception] = [*_filled(crops, model, least)]
    except Exception as error:
        if apart and len({id(canvas) for canvas, _ in windows}) > 1:
            if str(error).startswith("batch_size: "):
                least = 1  # what is too many windows once is too many again
                warnings.warn(f"{error}; going on with one image at a time", stacklevel=2)
            for _, of_one in groupby(windows, lambda window: id(window[0])):
                yield from _logits(list(of_one), model, apart, least)
            return
        results = [error] * len(windows)
    yield from results


def _filled(crops: list[Tensor], model: Model, least: int) -> list[Tensor]:
    """Of each crop; those of one shape go together, filled up with copies of one to so many at least."""
    batches = by_shape(crops).items()
    logits = {shape: iter(model(batch + batch[:1] * (least - len(batch)))) for shape, batch in batches}
    return [next(logits[crop.shape]) for crop in crops]
