"""``cdam-fast segment``: photographs to palette PNGs, overlays with a legend, and areas and scores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from cdam_fast.commands.results import (
    IDENTITY,
    LABELS,
    OVERLAY,
    check_own,
    identity,
    is_made_with,
    png,
    result_name,
)
from cdam_fast.errors import reason_of
from cdam_fast.files import json_text, write_whole
from cdam_fast.segmentation import CDAMSegmenter, Segmentation
from cdam_fast.segmentation.photo_files import read_photo
from cdam_fast.segmentation.pictures import label_picture


@dataclass
class Outcome:
    """What became of each photograph."""

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Job:
    photo: Path
    settings: dict[str, Any]
    labels: Path
    overlay: Path
    json: Path | None


def run_segment(
    segmenter: CDAMSegmenter,
    photos: Sequence[Path],
    out: Path,
    settings: dict[str, Any],
    *,
    as_json: bool,
    on_photo: Callable[[str], None],
) -> Outcome:
    """Segment what is not done yet; whatever one photograph raises is noted, and the rest goes on.

    on_photo hears a line for each.
    """
    outcome = Outcome()
    waiting: deque[tuple[_Job, Tensor]] = deque()

    def fail(photo: Path, error: Exception) -> None:
        reason = reason_of(error)
        error.__traceback__ = None  # its frames hold what may have filled the memory
        outcome.failed.append((photo, reason))
        on_photo(f"{photo}: {reason}")

    def read() -> Iterator[Tensor]:
        for photo in photos:
            try:
                job = _job(photo, out, settings, as_json)
                pixels = None if _is_done(job) else read_photo(photo)
            except Exception as error:
                fail(photo, error)
                continue
            if pixels is None:
                outcome.skipped.append(photo)
                on_photo(f"{photo}: done before")
                continue
            waiting.append((job, pixels))
            yield pixels

    for segmentation in segmenter.outcomes(read()):
        job, pixels = waiting.popleft()
        try:
            if isinstance(segmentation, Exception):
                raise segmentation
            described = segmentation.to_dict()
            _write(job, pixels, segmentation, described)
        except Exception as error:
            fail(job.photo, error)
            continue
        outcome.written.append(job.photo)
        on_photo(f"{job.photo}: {_summary(described)}")
    return outcome


def _job(photo: Path, out: Path, settings: dict[str, Any], as_json: bool) -> _Job:
    stat, name = photo.stat(), result_name(photo)
    made_from = {"photo": photo.name, IDENTITY: identity(photo), "bytes": stat.st_size, "modified": stat.st_mtime_ns}
    labels, picture, described = (out / f"{name}{ending}" for ending in (LABELS, OVERLAY, ".json"))
    return _Job(photo, settings | made_from, labels, picture, described if as_json else None)


def _results(job: _Job) -> list[Path]:
    return [path for path in (job.json, job.overlay, job.labels) if path is not None]


def _is_done(job: _Job) -> bool:
    for path in _results(job):
        check_own(path, job.photo)
    return all(is_made_with(path, job.settings) for path in _results(job))


def _write(job: _Job, pixels: Tensor, segmentation: Segmentation, described: dict[str, Any]) -> None:
    colours = [tuple(row["colour"]) for row in described["classes"]]
    if job.json is not None:
        content = {"photo": str(job.photo), "settings": job.settings, **described}
        write_whole(job.json, json_text(content))
    write_whole(job.overlay, png(segmentation.overlay(pixels), job.settings))
    write_whole(job.labels, png(label_picture(segmentation.labels, colours), job.settings))


def _by_area(described: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted((row for row in described if row["pixels"]), key=lambda row: -row["area"])


def _summary(described: dict[str, Any]) -> str:
    rows = _by_area(described["classes"])
    shown = ", ".join(f"{row['class']} {100 * row['area']:.0f} %" for row in rows[:4])
    return shown + (f" and {len(rows) - 4} more" if len(rows) > 4 else "")
