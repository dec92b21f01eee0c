"""A data set of a few odd photographs on disk, and a segmenter of a small random model for it."""

import numpy as np
import torch
from PIL import Image
from towers import small_model

from cdam_fast import CDAMSegmenter
from cdam_fast.evaluation import Dataset, Sample, open_dataset

NAMES = ["background", ["cat", "kitten"], "dog", "sofa"]
SIZES = [(40, 33), (64, 64), (33, 90), (70, 51), (48, 47), (35, 120), (61, 34)]
"""Height and width of each photograph."""


def text(rows, seed):
    features = torch.randn(rows, 32, generator=torch.Generator().manual_seed(seed))
    return features / features.norm(dim=-1, keepdim=True)


def make_segmenter(names=NAMES, **options):
    words = sum(1 if isinstance(name, str) else len(name) for name in names)
    given = {
        "short_side": 32,
        "window": 32,
        "stride": 16,
        "scales": (0.5, 1.0),
        "background": None,
        "batch_size": 4,
        "text_features": text(words, 0),
        "augmented_text_features": text(11, 1),
    }
    return CDAMSegmenter(small_model(), None, names, **(given | options))


def write(folder, count=None, names=NAMES, seed=0):
    """``images``, ``masks`` with void in them, and ``classes.txt``; names that are not ASCII."""
    rng = np.random.default_rng(seed)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number, (height, width) in enumerate(SIZES[:count]):
        pixels = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(folder / "images" / f"写真{number}.png")
        truth = rng.integers(0, len(names), (height // 16 + 1, width // 16 + 1)).astype(np.uint8)
        truth[0, 0] = 255
        mask = Image.fromarray(truth).resize((width, height), Image.Resampling.NEAREST)
        mask.save(folder / "masks" / f"写真{number}.png")
    lines = [name if isinstance(name, str) else ", ".join(name) for name in names]
    (folder / "classes.txt").write_text("\n".join(lines), encoding="utf-8")
    return open_small(folder)


def open_small(folder) -> Dataset:
    return open_dataset("custom", folder, classes=folder / "classes.txt")


def restated(segmenter, samples: "list[Sample]", classes):
    """The matrix, pixel by pixel of NumPy's, each photograph by itself."""
    total = np.zeros((classes, classes), dtype=np.int64)
    for sample in samples:
        with Image.open(sample.photo) as photo, Image.open(sample.mask) as mask:
            labels, truth = segmenter(photo).labels.numpy(), np.asarray(mask).astype(int)
        np.add.at(total, (truth[truth != 255], labels[truth != 255]), 1)
    return total
