"""Classes of too few pixels lose them, as in SCLIP's code for VOC."""

import re

import pytest
import torch
from segmenters import CLASSES, photograph, segmenter
from torch.nn import functional


def restated(words, size, share, threshold, background=0, scale=50.0):
    """Labels from the words' logits ``[Q, h, w]``: probabilities of small classes become 0, then the best is taken."""
    at_size = functional.interpolate(words[None], size=size, mode="bilinear")[0]
    probability = (at_size * scale).softmax(0)
    of_class = torch.stack([probability[[i for i, of in enumerate(CLASSES) if of == c]].amax(0) for c in range(4)])
    first = of_class.argmax(0)
    others = [c for c in range(4) if c != background]
    pixels = {c: int((first == c).sum()) for c in others}
    for c in others:
        if pixels[c] <= share * sum(pixels.values()):
            of_class[c] = 0
    labels = of_class.argmax(0)
    labels[of_class.amax(0) < threshold] = background
    return labels, first


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("background", [0, 2])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_labels_are_sclips(seed, background, share):
    image = photograph(72, 96, seed)
    options = {"background": 0.3, "background_class": background}
    result = segmenter(area_threshold=share, **options)(image)
    labels, _ = restated(result.word_logits, (72, 96), share, 0.3, background)
    assert torch.equal(result.labels, labels)


def test_some_classes_are_small_and_one_is_not():
    result = segmenter(background=None)(photograph(72, 96))
    labels, first = restated(result.word_logits, (72, 96), 0.4, 0.0)
    assert torch.equal(result.labels, first)
    found = segmenter(background=None, area_threshold=0.4)(photograph(72, 96))
    assert torch.equal(found.labels, labels)
    assert 1 < len(labels.unique()) < len(first.unique())
    assert torch.equal(found.word_logits, result.word_logits)  # the logits are as before


def test_a_refined_image_too():
    image = photograph(72, 96)
    plain, large = (segmenter(refine=True, background=None, area_threshold=share)(image) for share in (None, 0.4))
    kept = set(large.labels.unique().tolist())
    assert set(plain.labels.unique().tolist()) - kept
    untouched = torch.isin(plain.labels, torch.tensor(sorted(kept)))
    assert torch.equal(plain.labels[untouched], large.labels[untouched])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"area_threshold": 1.0}, ValueError, "area_threshold: got 1.0, takes a share from 0, below 1"),
        ({"area_threshold": -0.1}, ValueError, "area_threshold: got -0.1, takes a share"),
        ({"area_threshold": "0.1"}, TypeError, "area_threshold: got '0.1', takes None or a share"),
        ({"area_threshold": True}, TypeError, "area_threshold: got True, takes None or a share"),
    ],
    ids=["all", "negative", "text", "flag"],
)
def test_what_is_refused(options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        segmenter(**options)


def test_a_list_without_background_has_no_other_classes():
    with pytest.raises(ValueError, match=r'^area_threshold: got 0.1, takes None where class_names has no class "back'):
        segmenter(names=["cat", "dog"], area_threshold=0.1)
