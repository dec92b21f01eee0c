"""``cdam-fast segment``: photographs to palette PNGs, overlays with a legend, and areas and scores."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

import torch
from torch import Tensor

from cdam_fast.evaluation.errors import UsageError
from cdam_fast.evaluation.photos import LABELS, OVERLAY, made_with, output_names, png, read_photo, write_whole
from cdam_fast.evaluation.pictures import MOST_CLASSES, Colour, Entry, label_picture, overlay, palette
from cdam_fast.prompts import CLASS_LISTS
from cdam_fast.segmentation import CDAMSegmenter, Segmentation

ClassNames = list[Union[str, list[str]]]


@dataclass
class Outcome:
    """What became of each photograph."""

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Job:
    photo: Path
    name: str
    settings: dict[str, Any]


def parse_classes(text: str) -> ClassNames:
    """``cat,dog,"sofa|couch"``: classes by commas, synonyms by bars; VOC21, Context60, COCO-Object are lists."""
    by_name = {name.lower(): words for name, words in CLASS_LISTS.items()}
    names: ClassNames = []
    for item in (part.strip() for part in text.split(",")):
        synonyms = [word.strip() for word in item.split("|")]
        if item.lower() in by_name:
            names += by_name[item.lower()]
        elif not all(synonyms):
            raise UsageError(f"--classes: got {text!r}, takes words separated by commas, synonyms by bars")
        else:
            names.append(synonyms[0] if len(synonyms) == 1 else synonyms)
    if len(names) > MOST_CLASSES:
        raise UsageError(f"--classes: got {len(names)} classes, takes at most {MOST_CLASSES}")
    return names


def run_segment(
    segmenter: CDAMSegmenter,
    photos: Sequence[Path],
    out: Path,
    settings: dict[str, Any],
    *,
    as_json: bool,
    on_photo: Callable[[str], None],
) -> Outcome:
    """Segment what is not done yet; a bad file is noted and the rest goes on. on_photo hears a line for each."""
    words = segmenter.texts.words
    colours = palette(len(words.names), words.background)
    outcome = Outcome()
    waiting: deque[tuple[_Job, Tensor]] = deque()

    def read() -> Iterator[Tensor]:
        for photo, name in zip(photos, output_names(photos)):
            try:
                stat = photo.stat()
                made_from = {"photo": photo.name, "bytes": stat.st_size, "modified": stat.st_mtime_ns}
                job = _Job(photo, name, settings | made_from)
                if _is_done(job, out, as_json):
                    outcome.skipped.append(photo)
                    on_photo(f"{photo}: done before")
                    continue
                pixels = read_photo(photo)
            except (ValueError, OSError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                outcome.failed.append((photo, reason))
                on_photo(f"{photo}: {reason}")
                continue
            waiting.append((job, pixels))
            yield pixels

    for segmentation in segmenter.iterate(read()):
        job, pixels = waiting.popleft()
        described = describe(segmentation, words.words, words.classes, colours)
        _write(job, pixels, segmentation, described, colours, words.background, out, as_json)
        outcome.written.append(job.photo)
        on_photo(f"{job.photo}: {_summary(described)}")
    return outcome


def _is_done(job: _Job, out: Path, as_json: bool) -> bool:
    pictures = (out / f"{job.name}{LABELS}", out / f"{job.name}{OVERLAY}")
    has_json = not as_json or (out / f"{job.name}.json").is_file()
    return has_json and all(made_with(path, job.settings) for path in pictures)


def describe(
    segmentation: Segmentation, words: Sequence[str], classes: Sequence[int], colours: Sequence[Colour]
) -> list[dict[str, Any]]:
    """Area and score of each class: pixels, their share, and the mean probability of the best class in them."""
    count = len(segmentation.class_names)
    labels, probability = segmentation.labels.flatten().cpu(), segmentation.probability.flatten().cpu().double()
    pixels = torch.bincount(labels, minlength=count)
    totals = torch.bincount(labels, probability, minlength=count)
    return [
        {
            "class": name,
            "words": [word for word, of in zip(words, classes) if of == i],
            "label": i,
            "colour": list(colours[i]),
            "pixels": int(pixels[i]),
            "area": float(pixels[i]) / labels.numel(),
            "score": float(totals[i] / pixels[i]) if pixels[i] else None,
        }
        for i, name in enumerate(segmentation.class_names)
    ]


def _write(
    job: _Job,
    pixels: Tensor,
    segmentation: Segmentation,
    described: list[dict[str, Any]],
    colours: Sequence[Colour],
    background: int | None,
    out: Path,
    as_json: bool,
) -> None:
    labels = segmentation.labels.cpu()
    if as_json:
        content = {
            "photo": str(job.photo),
            "height": labels.shape[0],
            "width": labels.shape[1],
            "threshold": segmentation.threshold,
            "settings": job.settings,
            "classes": described,
        }
        write_whole(out / f"{job.name}.json", json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")
    entries = [Entry(row["label"], row["class"], row["area"]) for row in _by_area(described)]
    picture = overlay(pixels, labels, colours, entries, background)
    write_whole(out / f"{job.name}{OVERLAY}", png(picture, job.settings))
    write_whole(out / f"{job.name}{LABELS}", png(label_picture(labels, colours), job.settings))


def _by_area(described: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted((row for row in described if row["pixels"]), key=lambda row: -row["area"])


def _summary(described: list[dict[str, Any]]) -> str:
    rows = _by_area(described)
    shown = ", ".join(f"{row['class']} {100 * row['area']:.0f} %" for row in rows[:4])
    return shown + (f" and {len(rows) - 4} more" if len(rows) > 4 else "")
