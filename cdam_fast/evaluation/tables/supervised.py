"""CDAM on the scores and values of other methods, read from files (Table 18).

A folder for each method holds ``classes.json`` and ``NAME.safetensors`` for each image::

    {"classes": ["aeroplane", ...], "unseen": ["train", ...]}

with, for each image of C classes on a grid of h x w patches (N = h * w, row by row):

- ``scores``: ``[C, h, w]`` floating, of each class and patch, of the size of cosines (the map's temperature is 0.1);
- ``values``: ``[N, D]`` floating, what the method's last attention is applied to; or ``[N, C]``, the scores themselves;
- ``text``: ``[C, D]`` floating, what the attended values are compared with; left out where the values are scores;
- ``truth``: ``[H, W]`` integers, the class of each pixel, 255 or -1 for void, or 65535 as 16 bits have it.

Without CDAM a pixel's class is that of the largest score, bilinear at the truth's size. With CDAM the map of the scores
is applied to the values, and the largest cosine with ``text``, or the largest attended score, is the class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cdam_fast import cdam_attend
from cdam_fast.arguments import FLOATING
from cdam_fast.errors import reason_of
from cdam_fast.evaluation.confusion import confusion_of, iou_of_classes
from cdam_fast.evaluation.dataset import VOID
from cdam_fast.evaluation.reading import identity_of
from cdam_fast.evaluation.tables.cells import Job, Plan, Planned, Value
from cdam_fast.evaluation.tables.inputs import digest
from cdam_fast.evaluation.tables.paper import paper_tables
from cdam_fast.files import write_whole

CLASSES_FILE = "classes.json"
WITH_CDAM = " + CDAM"
TENSORS = ("scores", "values", "text", "truth")
VOIDS = (VOID, 65535, 255)
NOTES = (
    "Scores and values are read from files of --scores; the paper does not say which of a method's it takes. The mean "
    "IoU is over the seen and over the unseen classes of the one matrix of all images.",
)


@dataclass(frozen=True)
class Method:
    """A folder of scores and values."""

    name: str
    classes: tuple[str, ...]
    unseen: frozenset[str]
    images: tuple[Path, ...]


def find_methods(folder: Path) -> list[Method]:
    """The methods in the folder, by name.

    Raises:
        ValueError: a folder with none, or one whose classes cannot be read; the message names the file.
    """
    methods = [_method(path.parent) for path in sorted(folder.glob(f"*/{CLASSES_FILE}"))]
    names = {method.name for method in methods}
    for name in sorted(names):
        if name.removesuffix(WITH_CDAM) in names - {name}:
            raise ValueError(f"{folder / name}: has the name of a row of {name.removesuffix(WITH_CDAM)}, takes another")
    if not methods:
        raise ValueError(f"got {folder}, takes a folder with METHOD/{CLASSES_FILE} and METHOD/NAME.safetensors")
    return methods


def _method(folder: Path) -> Method:
    path = folder / CLASSES_FILE
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        classes, unseen = (_names(read[name]) for name in ("classes", "unseen"))
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise ValueError(f'{path}: {reason_of(error)}; takes {{"classes": [...], "unseen": [...]}}, of texts') from None
    if not unseen or not set(unseen) < set(classes) or len(set(classes)) < len(classes):
        raise ValueError(f"{path}: takes different classes, some of them, and not all, unseen")
    images = tuple(sorted(folder.glob("*.safetensors")))
    if not images:
        raise ValueError(f"{folder}: has no NAME.safetensors")
    return Method(folder.name, classes, frozenset(unseen), images)


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise ValueError(f"got {str(value)[:40]}")
    return tuple(value)


def read_image(path: Path, classes: int) -> dict[str, Tensor]:
    """The tensors of one image, checked.

    Raises:
        ValueError: what is wrong with the file, in one line.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path.name}: cannot be read: {reason_of(error)}") from None
    missing = [name for name in TENSORS if name not in tensors and name != "text"]
    if missing:
        raise ValueError(
            f"{path.name}: has no {missing[0]}, takes {', '.join(TENSORS)}, text where values are features"
        )
    scores, values, truth = tensors["scores"], tensors["values"], tensors["truth"]
    for name in ("scores", "values", "text"):
        if name in tensors and tensors[name].dtype not in FLOATING:
            raise ValueError(f"{path.name}: {name}: got {tensors[name].dtype}, takes a floating dtype")
        if name in tensors and not bool(tensors[name].isfinite().all()):
            raise ValueError(f"{path.name}: {name}: has values that are NaN or infinite")
    if scores.dim() != 3 or len(scores) != classes or not scores.numel():
        raise ValueError(f"{path.name}: scores: got shape {tuple(scores.shape)}, takes [{classes}, h, w]")
    size = tensors["text"].shape[-1] if "text" in tensors and tensors["text"].dim() else classes
    patches = scores[0].numel()
    if values.shape != (patches, size):
        raise ValueError(f"{path.name}: values: got shape {tuple(values.shape)}, takes [{patches}, {size}]")
    if "text" in tensors and tensors["text"].shape != (classes, size):
        raise ValueError(f"{path.name}: text: got shape {tuple(tensors['text'].shape)}, takes [{classes}, D]")
    if (
        truth.dim() != 2
        or not truth.numel()
        or truth.dtype == torch.bool
        or truth.is_floating_point()
        or truth.is_complex()
    ):
        raise ValueError(f"{path.name}: truth: got {truth.dtype} of shape {tuple(truth.shape)}, takes integers [H, W]")
    wide = truth.to(torch.int64)
    wide = wide.masked_fill(torch.isin(wide, torch.tensor(VOIDS if classes <= 255 else VOIDS[:2])), VOID)
    tensors["truth"] = wide.to(torch.int16)
    if int(wide.max()) >= classes or int(wide.min()) < VOID:
        raise ValueError(f"{path.name}: truth: has a value of no class, takes 0 to {classes - 1}, 255 and -1")
    return tensors


def labels_of(tensors: Mapping[str, Tensor], *, cdam: bool) -> Tensor:
    """``[H, W]`` int64, of what `read_image` reads."""
    scores = tensors["scores"].float()
    if cdam:
        attended = cdam_attend(scores, tensors["values"].float())
        if "text" in tensors:
            attended = functional.normalize(attended, dim=-1) @ functional.normalize(tensors["text"].float(), dim=-1).T
        scores = attended.T.reshape(scores.shape)
    size = tuple(tensors["truth"].shape)
    return functional.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0].argmax(0)


def harmonic_mean(seen: float, unseen: float) -> float:
    """``2 s u / (s + u)``; 0 where both are."""
    return 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0


def plan_supervised(methods: list[Method], device: torch.device, limit: int | None = None) -> Plan:
    """Table 18: the paper's methods, and those of other names after them."""
    paper = paper_tables()[18]
    names = dict.fromkeys([row.removesuffix(WITH_CDAM) for row in paper.rows] + [method.name for method in methods])
    by_name = {method.name: method for method in methods}
    cells = []
    for name in names:
        for cdam in (False, True):
            job = _job(by_name[name], device, limit, cdam=cdam) if name in by_name else None
            row = name + WITH_CDAM if cdam else name
            cells += [Planned(row, column, job, column) for column in paper.columns]
    return Plan(18, tuple(cells), NOTES)


def _job(method: Method, device: torch.device, limit: int | None, *, cdam: bool) -> Job:
    said = digest(method.classes, sorted(method.unseen), [path.name for path in method.images])
    name = f"supervised-{method.name}{'-cdam' if cdam else ''}-{said}"
    title = f"Table 18: {method.name}{WITH_CDAM if cdam else ''}"
    images = method.images[:limit]
    measure = partial(_measure, method, device, limit, cdam=cdam)
    return Job(name, title, measure, len(images), ("torchmetrics",), digest(*map(identity_of, images)))


def _measure(method: Method, device: torch.device, limit: int | None, folder: Path, *, cdam: bool) -> dict[str, Value]:
    count = len(method.classes)
    confusion = torch.zeros(count, count, dtype=torch.int64)
    reasons: list[str] = []
    images = method.images[:limit]
    for path in images:
        try:
            tensors = read_image(path, count)
            labels = labels_of({name: tensor.to(device) for name, tensor in tensors.items()}, cdam=cdam)
        except Exception as error:  # each image its own
            reason = reason_of(error)
            reasons.append(reason if reason.startswith(path.name) else f"{path.name}: {reason}")
            continue
        confusion += confusion_of(labels, tensors["truth"].numpy(), count)
    if len(reasons) == len(images):
        raise ValueError(f"all {len(images)} images, the first: {reasons[0]}")
    iou = dict(zip(method.classes, iou_of_classes(confusion)))
    seen = _mean([iou[name] for name in method.classes if name not in method.unseen])
    unseen = _mean([iou[name] for name in method.classes if name in method.unseen])
    both = None if seen is None or unseen is None else harmonic_mean(seen, unseen)
    found: dict[str, float | None] = {"seen": seen, "unseen": unseen, "harmonic mean": both}
    good, reason = len(images) - len(reasons), reasons[0] if reasons else ""
    return {name: Value(value, good, failed=len(reasons), reason=reason) for name, value in found.items()}


def _mean(values: list[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None


def write_image(path: Path, tensors: Mapping[str, Any]) -> None:
    """One image's file, of tensors or arrays as above."""
    from safetensors.torch import save

    write_whole(path, save({name: torch.as_tensor(value).contiguous() for name, value in tensors.items()}))
