"""mIoU of the tiny CLIP on held-out scenes, by base method and component: ``python benchmarks/tiny_table.py``.

Prints the table and, with a path, writes the numbers as JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path

import torch
from tiny_scenes import CLASSES

from cdam_fast import CDAMSegmenter
from cdam_fast.evaluation import evaluate
from cdam_fast.evaluation.scenes import write_scenes
from cdam_fast.models import BASES
from cdam_fast.segmentation.load import load_clip, model_defaults

MODEL = Path(__file__).parents[1] / "cdam_fast" / "data" / "tiny"
RECORDED = Path(__file__).parent / "results" / "tiny-miou.json"
SCENES, SEED = 100, 1000
FIRST = 4
"""Scenes that are measured apart as well, few enough for a test to measure them again."""
FULL = "+ augmented prompts"
"""The paper's settings without a threshold."""

COLUMNS = {
    "base": {"cdam": False, "background": None},
    "base + threshold": {"cdam": False, "background": "entropy"},
    "+ CDAM, one scale": {"augmented_prompts": False, "background": None, "scales": (1.0,)},
    "+ scales": {"augmented_prompts": False, "background": None},
    FULL: {"background": None},
    "+ threshold": {"background": "entropy"},
}


def load(model=MODEL):
    """The tiny model and its tokenizer."""
    return load_clip(str(model.with_suffix(".json")), model.with_suffix(".safetensors"), torch.device("cpu"))


def segmenter(model, tokenizer, base, **options):
    """One column of the table: the sides that the tiny model brings, everything else the package's default."""
    return CDAMSegmenter(model, tokenizer, CLASSES, base=base, **(model_defaults("tiny") | options))


def table(scenes=SCENES, columns=tuple(COLUMNS), bases=tuple(BASES), model=MODEL):
    """``{base: {column: mIoU}}``, over the nine classes, ground included, of all pixels of all scenes; per cent."""
    clip, tokenizer = load(model)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="threshold:")
        held_out = write_scenes(folder, scenes, SEED)
        return {
            base: {
                name: 100 * evaluate(segmenter(clip, tokenizer, base, **COLUMNS[name]), held_out).miou
                for name in columns
            }
            for base in bases
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, nargs="?")
    parser.add_argument("--model", type=Path, default=MODEL, help="path without its ending (default: the package's)")
    parser.add_argument("--scenes", type=int, default=SCENES)
    options = parser.parse_args()
    rows = table(options.scenes, model=options.model)
    lines = ["| mIoU, % | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    lines += [
        f"| {base} | " + " | ".join(f"{value:.1f}" for value in row.values()) + " |" for base, row in rows.items()
    ]
    print("\n".join(lines))  # noqa: T201
    if options.json:
        sides = {"scenes": options.scenes, "seed": SEED, **model_defaults("tiny")}
        first = {"scenes": FIRST, "miou": table(FIRST, ("base", FULL), model=options.model)}
        options.json.write_text(json.dumps({**sides, "miou": rows, "first": first}, indent=1) + "\n")


if __name__ == "__main__":
    main()
