"""Checks of what `evaluate`, `open_dataset` and `write_scenes` are given: each error names the argument."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cdam_fast.arguments import plain
from cdam_fast.evaluation.dataset import Dataset, Sample


def check_path(name: str, value: object, takes: str) -> Path:
    """Of a text or a path; bytes are none, nor is an empty name."""
    try:
        found = os.fspath(value)  # type: ignore[call-overload]
    except TypeError:
        found = None
    if not isinstance(found, str):
        raise TypeError(f"{name}: got {type(value).__name__}, takes {takes}, as text or a pathlib.Path")
    if not found:
        raise ValueError(f"{name}: got an empty name, takes {takes}")
    return Path(found)


def check_whole(name: str, value: object, least: int, *, none: bool = False) -> int:
    """A whole number, NumPy's included; where none is, the message offers None, which the caller has seen to."""
    value = plain(value)
    takes = f"takes {'None or ' if none else ''}a whole number from {least}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: got {value!r}, {takes}")
    if value < least:
        raise ValueError(f"{name}: got {value}, {takes}")
    return value


def check_names(name: str, value: object) -> tuple[str, ...]:
    """A sequence of texts; a text alone is none."""
    values = plain(value)
    if isinstance(values, str) or not isinstance(values, Sequence) or not all(isinstance(one, str) for one in values):
        raise TypeError(f"{name}: got {type(value).__name__}, takes a sequence of names")
    return tuple(values)


def check_dataset(dataset: object) -> Dataset:
    """One that can be read, with a name of its own for each image."""
    if not isinstance(dataset, Dataset):
        raise TypeError(f"dataset: got {type(dataset).__name__}, takes a Dataset, as open_dataset gives one")
    check_names("dataset: classes", dataset.classes)
    samples: object = dataset.samples
    if not isinstance(samples, Sequence) or not all(isinstance(sample, Sample) for sample in samples):
        raise TypeError(f"dataset: samples: got {type(samples).__name__}, takes a sequence of Sample")
    if not isinstance(dataset.meaning, np.ndarray) or dataset.meaning.dtype.kind not in "iu":
        raise TypeError(f"dataset: meaning: got {type(dataset.meaning).__name__}, takes a NumPy array of int16")
    if dataset.meaning.ndim != 1 or not dataset.meaning.size or dataset.meaning.max() >= len(dataset.classes):
        raise ValueError(f"dataset: meaning: takes [values], of each its class from 0 to {len(dataset.classes) - 1}")
    for sample in dataset.samples:
        for name, kind in (("name", str), ("photo", Path), ("mask", Path)):
            if not isinstance(getattr(sample, name), kind):
                got = type(getattr(sample, name)).__name__
                raise TypeError(f"dataset: the {name} of {sample.name!r} is {got}, takes {kind.__name__}")
    for what, names in (("class", dataset.classes), ("image", [sample.name for sample in dataset.samples])):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"dataset: has {twice[0]!r} twice, takes a name of its own for each {what}")
    return dataset


def check_plain(name: str, value: object) -> dict[str, Any]:
    """A mapping of what JSON keeps, NumPy's numbers as Python's."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: got {type(value).__name__}, takes a mapping of plain values")
    try:
        text = json.dumps(dict(value), default=_of_numpy, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {error}; takes a mapping of plain values, as JSON keeps them") from None
    found: dict[str, Any] = json.loads(text)
    return found


def _of_numpy(value: object) -> object:
    found = plain(value)
    if found is value:
        raise TypeError(f"has a {type(value).__name__}")
    return found


def check_share(name: str, value: object) -> float | None:
    """None or a fraction of 1."""
    value = plain(value)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: got {value!r}, takes None or a fraction of 1")
    if not 0 <= value <= 1:  # NaN too
        raise ValueError(f"{name}: got {value}, takes None or a fraction of 1")
    return float(value)
