"""What the small run measures in place of the data sets: the tiny model on generated scenes."""

from __future__ import annotations

from pathlib import Path

import torch

from cdam_fast.evaluation.protocol import Settings
from cdam_fast.evaluation.scenes import CLASSES, write_scenes
from cdam_fast.evaluation.tables.inputs import Column, Inputs, Row, digest
from cdam_fast.evaluation.tables.supervised import CLASSES_FILE, write_image
from cdam_fast.files import json_text, write_whole

NAME = "scenes"
COUNT, SEED = 8, 1000
"""The first of the held-out scenes of ``docs/tiny.md``."""

UNSEEN = ("ring", "heart", "moon")
"""In Table 18; in name only, as the tiny model knows all classes."""

METHOD, BASE = "tiny sclip", "sclip"
"""Whose scores and values Table 18 takes."""


def scenes_settings(base: str, cdam: bool, model: str | None = None) -> Settings:
    """The paper's settings with the tiny model; the bases alone are without a threshold."""
    return Settings(
        protocol=NAME,
        dataset=NAME,
        base=base,
        cdam=cdam,
        model="tiny",
        pretrained=None,
        activation="GELU",
        class_names=list(CLASSES),
        # one window at a time: a batch is filled up, and the scenes are few
        options={"background": "entropy" if cdam else None, "alpha": 2.5, "batch_size": 1},
        miou=None,
        miou_source="",
        sources={},
    )


def scenes_column(folder: Path, count: int = COUNT) -> Column:
    """The scenes, written to the folder."""
    return Column(NAME, write_scenes(folder, count, SEED), scenes_settings, scenes=True)


def write_scores(folder: Path, inputs: Inputs, column: Column) -> None:
    """Scores, values and text features of a base alone, as `find_methods` finds them.

    The values are the base's patch features, the scores their cosines with the text features. Those that the same code
    wrote stay.
    """
    settings = inputs.settings(column, Row(METHOD, BASE, cdam=False))
    folder = folder / METHOD
    folder.mkdir(parents=True, exist_ok=True)
    classes = json_text({"classes": list(CLASSES), "unseen": list(UNSEEN), "made_with": digest(settings)})
    path, samples = folder / CLASSES_FILE, column.dataset.samples[: inputs.limit]
    there = all((folder / f"{sample.name}.safetensors").is_file() for sample in samples)
    if there and path.is_file() and path.read_bytes() == classes:
        return
    segmenter = inputs.segmenter(settings)
    text, tower = segmenter.texts.class_features, segmenter.tower
    for sample in samples:
        pixels, truth = column.dataset.read(sample)
        with torch.no_grad():
            normalised = segmenter.normalise(pixels.to(tower.device) / 255).unsqueeze(0)
            last = segmenter.base.prepare(tower, tower.check_pixels(normalised))
            values = segmenter.base.first_pass(tower, last)
            scores = segmenter.base.similarity(values, text, last.grid)
        tensors = {"scores": scores[0], "values": values[0], "text": text, "truth": torch.from_numpy(truth)}
        write_image(folder / f"{sample.name}.safetensors", {name: one.cpu() for name, one in tensors.items()})
    write_whole(path, classes)
