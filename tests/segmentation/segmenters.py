"""Segmenters of small random models, with random text features."""

import pytest
import torch
from torch.nn import functional
from towers import WRITTEN_OUT, small_model

from cdam_fast import CDAMSegmenter

NAMES = ["background", ["cat", "kitten"], "dog", ["sofa", "couch", "settee"]]


CLASSES = (0, 1, 1, 2, 3, 3, 3)


every_base = pytest.mark.parametrize("base", WRITTEN_OUT)


def text(rows, seed=0, size=32):
    features = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return features / features.norm(dim=-1, keepdim=True)


def photograph(height, width, seed=0):
    """Smooth random colours, floating in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 8, width // 8, generator=generator)
    return functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)[0]


def segmenter(model=None, *, names=NAMES, **options):
    """Windows of 64 pixels, stride 32, and random text features."""
    options = {"short_side": 64, "window": 64, "stride": 32, "scales": (0.5, 1.0)} | options
    words = sum(1 if isinstance(name, str) else len(name) for name in names)
    given = {"text_features": text(words), "augmented_text_features": text(11, 1)}
    return CDAMSegmenter(model or small_model(), None, names, **(given | options))
