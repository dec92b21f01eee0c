"""What the segmenter refuses, by name."""

import numpy as np
import open_clip
import pytest
import torch
from segmenters import NAMES, photograph, segmenter, text
from towers import small_model

from cdam_fast import CDAMSegmenter
from cdam_fast.compat import OutOfMemoryError
from cdam_fast.models import Tower

# the entropy of random models is often too low for Eq. 4
pytestmark = pytest.mark.filterwarnings("ignore:threshold:UserWarning")


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"base": "clip"}, ValueError, "base: got 'clip'"),
        ({"cdam": 1}, TypeError, "cdam: got 1"),
        ({"augmented_prompts": "yes"}, TypeError, "augmented_prompts: got 'yes'"),
        ({"background": "otsu"}, TypeError, "background: got 'otsu'"),
        ({"background": 2}, ValueError, "background: got 2"),
        ({"background": True}, TypeError, "background: got True"),
        ({"threshold_over": "patch"}, ValueError, "threshold_over: got 'patch', takes one of 'image'"),
        ({"alpha": 0}, ValueError, "alpha: got 0"),
        ({"alpha": "big"}, TypeError, "alpha: got str"),
        ({"logit_scale": -1}, ValueError, "logit_scale: got -1"),
        ({"window": 60}, ValueError, "window: got 60 pixels, takes a multiple of the patch"),
        ({"window": 96}, ValueError, "window: got 96 pixels, takes at most short_side, 64"),
        ({"stride": 65}, ValueError, "stride: got 65 pixels, takes at most window"),
        ({"stride": 0}, ValueError, "stride: got 0"),
        ({"batch_size": 0}, ValueError, "batch_size: got 0"),
        ({"batch_size": 2.0}, TypeError, "batch_size: got 2.0"),
        ({"short_side": "448"}, TypeError, "short_side: got '448'"),
        ({"scales": ()}, ValueError, "scales: got an empty sequence"),
        ({"scales": (0.1,)}, ValueError, "scales.0.: got 0.1, which leaves no patch"),
        ({"metric": "cosine"}, ValueError, "metric: got 'cosine'"),
        ({"backend": "cuda"}, ValueError, "backend: got 'cuda'"),
        ({"tau": 0.1}, TypeError, "tau: no argument of CDAMSegmenter"),
        ({"dtype": torch.int8}, TypeError, "dtype: got torch.int8"),
        ({"dtype": "float16"}, TypeError, "dtype: got 'float16'"),
        ({"text_features": text(6)}, ValueError, "text_features: got 6 rows, takes 7"),
        ({"text_features": text(7, size=16)}, ValueError, "text_features: got features of shape .7, 16."),
        ({"text_features": [1]}, TypeError, "text_features: got list"),
        ({"text_features": torch.ones(7, 32, dtype=torch.int64)}, TypeError, "text_features: got dtype torch.int64"),
        ({"augmented_text_features": text(3, size=8)}, ValueError, "augmented_text_features: got features of shape"),
        ({"text_features": None}, ValueError, "tokenizer: got None, takes a tokenizer, or text_features"),
        ({"augmented_text_features": None}, ValueError, "or augmented_prompts=False"),
        ({"names": []}, ValueError, "class_names: got no class"),
        ({"names": "cat"}, TypeError, "class_names: got str"),
        ({"names": 3}, TypeError, "class_names: got int"),
        ({"names": ["cat", 3]}, TypeError, "class_names.1.: got 3"),
        ({"names": ["cat", ["dog", None]]}, TypeError, "class_names.1.: got"),
        ({"names": ["cat", []]}, ValueError, "class_names.1.: got .., takes at least one word"),
        ({"names": ["cat", " "]}, ValueError, "class_names.1.: got ' '"),
        ({"names": ["cat", [f"dog {i}" for i in range(101)]]}, ValueError, "got 101 synonyms, takes at most 100"),
        ({"names": ["c" * 201]}, ValueError, "got a word of 201 characters"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_bad_arguments(options, error, named):
    options = dict(options)
    names = options.pop("names", NAMES)
    given = {"text_features": text(7), "augmented_text_features": text(11, 1)}
    sizes = {"short_side": 64, "window": 64, "stride": 32, "scales": (1.0,)}
    with pytest.raises(error, match=named):
        CDAMSegmenter(small_model(layers=1), None, names, **(given | sizes | options))


def test_out_of_memory_names_the_batch_size_to_try(monkeypatch):
    def full(self, tower, last):
        raise OutOfMemoryError("no room")

    monkeypatch.setattr("cdam_fast.models.base.Base.first_pass", full)
    with pytest.raises(RuntimeError, match=r"batch_size: 6 windows at once do not fit .* try batch_size=3"):
        segmenter(batch_size=6).segment([photograph(64, 64)] * 7)
    with pytest.raises(RuntimeError, match="try a smaller window, dtype or model"):
        segmenter(batch_size=6)(photograph(64, 64))


def test_logits_that_are_not_finite_are_no_labels():
    model = small_model()
    with torch.no_grad():
        model.visual.proj[0, 0] = torch.nan
    with pytest.raises(RuntimeError, match="logits that are not finite"):
        segmenter(model)(photograph(64, 64))


def test_text_and_image_of_different_lengths():
    model = small_model(layers=1)
    model.text_projection = torch.nn.Parameter(torch.randn(64, 16))
    tokenizer = open_clip.get_tokenizer("ViT-B-16")
    sizes = {"short_side": 64, "window": 64, "stride": 32, "scales": (1.0,)}
    with pytest.raises(ValueError, match=r"model's text tower: got features of shape .3, 16., takes .A, 32."):
        CDAMSegmenter(
            model, tokenizer, ["background", "cat", "dog"], augmented_prompts=False, cache_dir=False,
            templates=[str], **sizes,
        )  # fmt: skip


def test_tower_is_shared_where_nothing_differs():
    model = small_model()
    assert segmenter(model, dtype=torch.float32, device="cpu").tower.visual is model.visual
    assert Tower(model).to(None, None).visual is model.visual
    assert np.prod(Tower(model).trained_grid) + 1 == len(model.visual.positional_embedding)
