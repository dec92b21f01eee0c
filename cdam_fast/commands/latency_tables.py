"""Tables 5 and 6, seconds per image, as jobs for ``cdam-fast tables``."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from cdam_fast.evaluation.scenes import CLASSES
from cdam_fast.evaluation.tables import Job, Plan, Planned, Value, paper_tables
from cdam_fast.evaluation.tables.inputs import digest
from cdam_fast.evaluation.tables.small import NAME as SCENES
from cdam_fast.measuring.bench import BenchOptions
from cdam_fast.measuring.devices import device_name
from cdam_fast.measuring.end_to_end import STEPS, EndToEndReport, time_steps
from cdam_fast.measuring.inputs import ClassList, encoded_words, load_model, parse_class_lists, photograph_pixels
from cdam_fast.models import Tower
from cdam_fast.prompts import AUGMENTED_TEXT_PROMPTS
from cdam_fast.segmentation.load import load_clip

_LISTS = {"voc21": "VOC21", "context60": "Context60", "coco-object": "COCO-Object"}
_SIDE = 448
_TINY, _SMALL_SIDE, _SMALL_RUNS = "tiny", 112, 6
"""A quarter of the tiny model's usual pixels, as each row is checked against float64 first."""


def latency_plans(device: torch.device, pretrained: str | None, *, small: bool) -> dict[int, Plan]:
    """Tables 5 and 6, which share a job for each class list; the small run has the scenes' words alone."""
    load = lru_cache(maxsize=1)(partial(load_model, pretrained, _SIDE, _SIDE, device))
    measures: dict[str, Any] = {name: partial(_measure, device, load, words) for name, words in _LISTS.items()}
    if small:
        measures = {SCENES: partial(_small, device)}
    place = digest(device_name(device), torch.get_num_threads())
    jobs = {
        name: Job(f"latency-{name}-{place}", f"Tables 5 and 6, {name}", measure) for name, measure in measures.items()
    }
    side, runs = (_SMALL_SIDE, _SMALL_RUNS) if small else (_SIDE, "up to 30")
    notes = (
        f"Ours: {'the tiny model' if small else 'ViT-B-16'} on {device_name(device)}, one image of {side} x {side} at "
        f"a time, from its pixels to the labels of its patches; the median of {runs} runs.",
    )
    plans = {}
    for number in (5, 6):
        paper = paper_tables()[number]
        names = [*paper.columns, *([SCENES] if small else [])]
        cells = [Planned(row, name, jobs.get(name), row) for row in paper.rows for name in names]
        plans[number] = Plan(number, tuple(cells), notes)
    return plans


def _measure(device: torch.device, load: Any, words: str, folder: Path) -> dict[str, Value]:
    (entry,) = parse_class_lists(words)
    model, tokenizer, _ = load()
    pixels, _ = photograph_pixels(None, _SIDE, _SIDE, 1, device)
    return _timed(BenchOptions([entry], device), model, tokenizer, pixels)


def _small(device: torch.device, folder: Path) -> dict[str, Value]:
    entry = ClassList(SCENES, (*CLASSES, *AUGMENTED_TEXT_PROMPTS))
    model, tokenizer = load_clip(_TINY, None, device)
    pixels, _ = photograph_pixels(None, _SMALL_SIDE, _SMALL_SIDE, 1, device)
    return _timed(BenchOptions([entry], device, runs=_SMALL_RUNS), model, tokenizer, pixels)


def _timed(options: BenchOptions, model: Any, tokenizer: Any, pixels: torch.Tensor) -> dict[str, Value]:
    (entry,) = options.class_lists
    features = encoded_words(model, tokenizer, [entry], lambda line: None)
    text = torch.stack([features[word] for word in entry.words])
    report = EndToEndReport({})
    time_steps(options, report, entry, Tower(model), pixels, text, lambda line: None)
    values = {}
    for row in report.rows:
        if row.p50_ms is None:
            raise RuntimeError(f"{row.base} {row.step}: {row.status} {row.note}")
        value = Value(row.p50_ms / 1e3, 1)
        if row.base == "maskclip":
            values[row.step] = value
        if row.step in (STEPS[0], STEPS[-1]):
            values[row.base if row.step == STEPS[0] else f"{row.base} + CDAM"] = value
    return values
