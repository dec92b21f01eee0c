"""Images a second of ``evaluate`` and where its time goes: ``python benchmarks/evaluation_speed.py [FILE.json]``.

Generated scenes on disk, under the tiny model and under ViT-B-16 with random weights at the paper's sides. With a path,
the numbers are written as JSON, beside those of other runs that are in the file already.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from cdam_fast import CDAMSegmenter
from cdam_fast.evaluation import evaluate, evaluation
from cdam_fast.evaluation.scenes import CLASSES, write_scenes
from cdam_fast.measuring.devices import device_name
from cdam_fast.processes import cores

SEED = 4000
RECORDED = Path(__file__).parent / "results" / "evaluation-cpu-amd-epyc-2-cores.json"


class Shares:
    """Seconds by part; a part inside another counts for itself alone."""

    def __init__(self):
        self.seconds = {}
        self._inside = []

    @contextlib.contextmanager
    def of(self, part):
        begin, inside = time.perf_counter(), [0.0]
        self._inside.append(inside)
        try:
            yield
        finally:
            self._inside.pop()
            took = time.perf_counter() - begin
            self.seconds[part] = self.seconds.get(part, 0.0) + took - inside[0]
            for outer in self._inside[-1:]:
                outer[0] += took

    def timed(self, part, function):
        def call(*arguments, **options):
            with self.of(part):
                return function(*arguments, **options)

        return call

    def iterated(self, part, function):
        def call(*arguments, **options) -> Iterator[object]:
            iterator = iter(function(*arguments, **options))
            while True:
                with self.of(part):
                    one = next(iterator, None)
                if one is None:
                    return
                yield one

        return call


def segmenter(model, **options):
    """The tiny model with its own sides, or a model of open_clip with random weights of a fixed seed."""
    if model == "tiny":
        return CDAMSegmenter.from_pretrained("tiny", None, list(CLASSES), background=0.5, **options)
    import open_clip

    torch.manual_seed(0)
    made = open_clip.create_model(model).eval()
    return CDAMSegmenter(made, open_clip.get_tokenizer(model), list(CLASSES), background=0.5, **options)


def measure(made, dataset, workers):
    """One evaluation: a row of the result."""
    shares = Shares()
    made._guarded = shares.timed("model", made._guarded)
    made._finish = shares.timed("labels", made._finish)
    own = evaluation.confusion_of, evaluation.read_images
    evaluation.confusion_of = shares.timed("confusion matrix", own[0])
    evaluation.read_images = shares.iterated("waiting for images", own[1])
    begin = time.perf_counter()
    try:
        result = evaluate(made, dataset, workers=workers)
    finally:
        evaluation.confusion_of, evaluation.read_images = own
    seconds = time.perf_counter() - begin
    rest = {"everything else": seconds - sum(shares.seconds.values())}
    return {
        "images": result.images,
        "workers": workers,
        "batch_size": made.options.batch_size,
        "seconds": round(seconds, 2),
        "images_per_second": round(result.images / seconds, 3),
        "shares": {part: round(took / seconds, 4) for part, took in (shares.seconds | rest).items()},
        "miou": result.miou,
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Images a second of evaluate, and where its time goes.")
    parser.add_argument("json", nargs="?")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    parsed = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    made = segmenter(parsed.model, batch_size=parsed.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_scenes(folder, parsed.scenes, SEED)
        row = measure(made, dataset, parsed.workers)
    row = {
        "model": parsed.model + ("" if parsed.model == "tiny" else ", random weights"),
        "device": f"{device_name(torch.device('cpu'))}, {cores()} cores",
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        **row,
    }
    shares = ", ".join(f"{part} {100 * share:.1f} %" for part, share in row["shares"].items())
    print(f"{row['model']}: {row['images']} images, {row['images_per_second']} a second; {shares}")  # noqa: T201
    if parsed.json is not None:
        path = Path(parsed.json)
        rows = json.loads(path.read_text())["rows"] if path.exists() else []
        same = {(one["model"], one["images"], one["workers"]): one for one in [*rows, row]}
        path.write_text(json.dumps({"rows": list(same.values())}, indent=1) + "\n")


if __name__ == "__main__":
    main()
