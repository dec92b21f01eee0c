"""How many labels ``amp=True`` changes, on generated scenes under the tiny model: ``python benchmarks/amp_labels.py``.

With a path, the counts are written as JSON.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import torch

from cdam_fast import CDAMSegmenter
from cdam_fast.evaluation import mean_iou
from cdam_fast.evaluation.confusion import confusion_of
from cdam_fast.evaluation.scenes import CLASSES, iterate_scenes
from cdam_fast.measuring.devices import device_name

SCENES, SEED = 100, 5000
RECORDED = Path(__file__).parent / "results" / "amp-labels.json"
BASES = ("maskclip", "sclip", "clearclip", "gem")


def count(base, scenes=SCENES):
    """Changed labels of one base, with the mIoU of either way."""
    made = [
        CDAMSegmenter.from_pretrained("tiny", None, list(CLASSES), base=base, background=0.5, amp=amp)
        for amp in (False, True)
    ]
    changed = pixels = 0
    totals = [torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.int64) for _ in made]
    for scene in iterate_scenes(scenes, SEED):
        image = torch.from_numpy(scene.pixels).permute(2, 0, 1)
        labels = [segmenter(image).labels for segmenter in made]
        changed += int((labels[0] != labels[1]).sum())
        pixels += labels[0].numel()
        for total, one in zip(totals, labels):
            total += confusion_of(one, scene.labels.astype("int16"), len(CLASSES))
    return {
        "base": base,
        "scenes": scenes,
        "pixels": pixels,
        "changed": changed,
        "changed_in_a_million": round(1e6 * changed / pixels, 1),
        "miou": mean_iou(totals[0]),
        "miou_amp": mean_iou(totals[1]),
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(description="How many labels amp=True changes.")
    parser.add_argument("json", nargs="?")
    parsed = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    rows = []
    for base in BASES:
        rows.append(count(base))
        print(rows[-1])  # noqa: T201
    if parsed.json is not None:
        content = {
            "device": device_name(torch.device("cpu")),
            "torch": str(torch.__version__),
            "model": "tiny",
            "amp": "bfloat16",
            "rows": rows,
        }
        Path(parsed.json).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
