"""The segmenter against the released code's numbers and against plain loops."""

import warnings

import open_clip
import pytest
import torch
from segmenters import CLASSES, every_base, photograph, segmenter, text
from torch.nn import functional
from towers import plain_features, small_model

from cdam_fast import CDAMSegmenter, entropy_threshold, reference
from cdam_fast.models import LastBlock

# the entropy of random models is often too low for Eq. 4, and one test is about what is said then
pytestmark = pytest.mark.filterwarnings("ignore:threshold:UserWarning")

with_and_without = pytest.mark.parametrize("cdam", [False, True], ids=["base", "cdam"])
every_threshold = pytest.mark.parametrize("over", ["image", "window", "last_window"])


# --- the released code


@pytest.fixture
def golden_tower(golden_segmentation):
    """The last block of the recorded model, as a model of one block."""
    vision = {"image_size": 224, "patch_size": 16, "width": 128, "layers": 1, "head_width": 64}
    words = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
    model = open_clip.CLIP(64, vision, words, quick_gelu=True).eval()
    weights = {name: value.float() for name, value in golden_segmentation.items() if name.startswith("visual.")}
    assert not model.load_state_dict(weights, strict=False).unexpected_keys
    return model


def test_recorded_segmentation(golden_tower, golden_clip, golden_segmentation, monkeypatch):
    """From the input of the last block: similarity, map, logits, threshold, upsampled logits."""
    x = golden_segmentation["x_before_last"]
    known = golden_segmentation["tokens_idx"].long()
    torch.testing.assert_close(x[known], golden_segmentation["x_before_last_tokens"], rtol=0, atol=1e-5)
    features = golden_segmentation["text_features"]
    names = ["background", *(f"class {i}" for i in range(1, 24))]
    made = CDAMSegmenter(golden_tower, None, names, text_features=features[:24], augmented_text_features=features[24:])

    def from_recorded_tokens(base, tower, pixels):
        block = tower.blocks[-1]
        tokens = block.normalise(x[None])
        return LastBlock(tokens, block.project(tokens, "v"), x[None, 1:], (28, 28))

    monkeypatch.setattr("cdam_fast.models.base.Base.prepare", from_recorded_tokens)
    pixels = torch.zeros(1, 3, 448, 448)
    similarity = made.base_similarity(pixels)[0]
    torch.testing.assert_close(similarity, golden_clip["base_logits"], rtol=0, atol=1e-5)
    rows = made.attention(pixels)[0, golden_clip["rows_idx"]]
    torch.testing.assert_close(rows, golden_clip["map_rows_fp64run"].float(), rtol=0, atol=1e-5)
    logits = made.patch_logits(pixels)[0]
    torch.testing.assert_close(logits, golden_segmentation["logits"], rtol=0, atol=1e-5)
    whole = made(torch.zeros(3, 448, 448))
    assert whole.threshold == pytest.approx(float(golden_segmentation["threshold"]), abs=1e-5)
    edges = {"top": (0, slice(None)), "bottom": (-1, slice(None)), "left": (slice(None), 0), "right": (slice(None), -1)}
    for name, (row, column) in edges.items():
        expected = golden_segmentation[f"logits_{name}"]
        torch.testing.assert_close(whole.logits[:, row, column], expected, rtol=0, atol=1e-5)


# --- plain loops


def plain_patches(model, pixels, base, cdam, words, extra, scales=(0.5, 1.0)):
    """Word logits [Q, h, w] of one window [3, H, W], in the model's dtype."""
    features = plain_features(model, pixels, base)
    grid = (pixels.shape[1] // 16, pixels.shape[2] // 16)
    if cdam:
        similarity = (features @ torch.cat((words, extra)).T).T.reshape(-1, *grid)
        features = plain_features(model, pixels, base, reference.cdam_attention(similarity, scales=scales))
    return (features @ words.T).T.reshape(-1, *grid)


def plain_segmentation(model, image, base, cdam, over="image", alpha=2.5, scale=50.0):
    """Labels, logits of the words and threshold of an image whose short side is 64, as the released code loops."""
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).double().view(3, 1, 1)
    deviation = torch.tensor(open_clip.OPENAI_DATASET_STD).double().view(3, 1, 1)
    pixels = (image.double() - mean) / deviation
    height, width = pixels.shape[1:]
    total, count = torch.zeros(7, height, width).double(), torch.zeros(height, width).double()
    thresholds, patches, summed = [], [], torch.zeros(height, width).double()
    for row in range(max(height - 64 + 31, 0) // 32 + 1):
        for column in range(max(width - 64 + 31, 0) // 32 + 1):
            top, left = min(row * 32, height - 64), min(column * 32, width - 64)
            window = pixels[:, top : top + 64, left : left + 64]
            logits = plain_patches(model, window, base, cdam, text(7), text(11, 1))
            upsampled = functional.interpolate(logits[None], size=(64, 64), mode="bilinear")[0]
            total[:, top : top + 64, left : left + 64] += upsampled
            count[top : top + 64, left : left + 64] += 1
            patches.append(logits.flatten(1))
            thresholds.append(entropy_threshold(patches[-1], alpha=alpha, logit_scale=scale))
            summed[top : top + 64, left : left + 64] += thresholds[-1]
    logits = total / count
    if over == "image":
        threshold = entropy_threshold(torch.cat(patches, 1), alpha=alpha, logit_scale=scale)
    else:
        threshold = summed / count if over == "window" else thresholds[-1]
    most, index = torch.softmax(logits * scale, 0).max(0)
    labels = torch.tensor(CLASSES)[index]
    labels[most < threshold] = 0
    return labels, logits, float(torch.stack(thresholds).mean() if over == "window" else threshold)


@every_base
@with_and_without
def test_windows_of_a_wide_image(base, cdam):
    model, image = small_model().double(), photograph(64, 104)
    made = segmenter(model, base=base, cdam=cdam, alpha=1.4, logit_scale=8.0)
    labels, logits, threshold = plain_segmentation(model, image, base, cdam, alpha=1.4, scale=8.0)
    whole = made(image)
    torch.testing.assert_close(whole.word_logits, logits, rtol=0, atol=1e-6)
    assert whole.threshold == pytest.approx(threshold, rel=1e-5)
    assert torch.equal(whole.labels, labels)
    assert len(labels.unique()) > 2
    by_class = torch.stack([logits[torch.tensor(CLASSES) == i].amax(0) for i in range(4)])
    torch.testing.assert_close(whole.logits, by_class, rtol=0, atol=1e-6)


@every_threshold
def test_every_threshold(over):
    model, image = small_model().double(), photograph(64, 104, 3)
    made = segmenter(model, threshold_over=over, alpha=1.4, logit_scale=8.0)
    labels, _, threshold = plain_segmentation(model, image, "maskclip", True, over, alpha=1.4, scale=8.0)
    whole = made(image)
    assert whole.threshold == pytest.approx(threshold, rel=1e-5)
    assert torch.equal(whole.labels, labels)
    assert 0 < (labels == 0).double().mean() < 1


@every_base
@with_and_without
def test_methods_on_pixels(base, cdam):
    model = small_model().double()
    made = segmenter(model, base=base, cdam=cdam)
    pixels = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    expected = torch.stack([plain_patches(model, one, base, cdam, text(7), text(11, 1)) for one in pixels])
    by_class = torch.stack([expected[:, torch.tensor(CLASSES) == i].amax(1) for i in range(4)], 1)
    torch.testing.assert_close(made.patch_logits(pixels), by_class, rtol=0, atol=1e-7)
    features = torch.stack([plain_features(model, one, base) for one in pixels])
    everything = torch.cat((text(7), text(11, 1))) if cdam else text(7)
    similarity = (features @ everything.T).mT.reshape(2, -1, 4, 6)
    torch.testing.assert_close(made.base_similarity(pixels), similarity, rtol=0, atol=1e-9)
    maps = reference.cdam_attention(similarity, scales=(0.5, 1.0))
    torch.testing.assert_close(made.attention(pixels), maps, rtol=0, atol=1e-6)
    single = reference.cdam_attention(similarity, scales=(1.0,))
    torch.testing.assert_close(made.attention(pixels, scales=(1.0,)), single, rtol=0, atol=1e-6)


def test_every_knob_of_the_map_arrives():
    model = small_model().double()
    options = {
        "scales": (0.75, 1.0),
        "temperature": 0.3,
        "attention_temperature": 0.2,
        "metric": "kl",
        "order": "paper",
        "minmax": (True, False),
    }
    made = segmenter(model, backend="reference", **options)
    pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    similarity = made.base_similarity(pixels)
    torch.testing.assert_close(made.attention(pixels), reference.cdam_attention(similarity, **options))
    features = plain_features(model, pixels[0], "maskclip", made.attention(pixels)[0])
    expected = (features @ text(7).T).T.reshape(7, 4, 4)
    torch.testing.assert_close(made.word_logits(pixels)[0], expected, rtol=0, atol=1e-9)


def test_without_augmented_prompts_the_map_is_of_the_classes_alone():
    model = small_model()
    pixels = torch.randn(1, 3, 64, 64)
    assert segmenter(model, augmented_prompts=False).base_similarity(pixels).shape == (1, 7, 4, 4)
    assert segmenter(model).base_similarity(pixels).shape == (1, 18, 4, 4)


# --- the background


def test_a_fixed_threshold_and_none():
    model, image = small_model(), photograph(64, 64)
    off = segmenter(model, background=None, logit_scale=8.0)(image)
    assert off.threshold == 0
    fixed = segmenter(model, background=0.3, logit_scale=8.0)(image)
    assert fixed.threshold == pytest.approx(0.3)
    below = off.probability < 0.3
    assert 0 < below.double().mean() < 1
    assert torch.equal(fixed.labels, torch.where(below, 0, off.labels))


def test_the_background_may_be_anywhere_and_have_synonyms():
    names = ["cat", ["sky", "Background"], "dog"]
    made = segmenter(names=names, text_features=text(4), background=1.0, logit_scale=1.0)
    assert made(photograph(64, 64)).labels.unique().tolist() == [1]


def test_no_background_class_is_said_once():
    with pytest.warns(UserWarning, match="background: the threshold is off"):
        made = segmenter(names=["cat", "dog"], text_features=text(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made(photograph(64, 64)).threshold == 0
        segmenter(names=["cat", "dog"], text_features=text(2), background=None)


def test_too_few_words_for_the_entropy_are_said():
    """Of two words the entropy is at most 1 bit, so that Eq. 4 gives 1.25 at least."""
    made = segmenter(names=["background", "cat"], text_features=text(2))
    with pytest.warns(UserWarning, match="threshold: .* is above any probability, so every pixel is background"):
        whole = made(photograph(64, 64))
    assert (whole.labels == 0).all()


@pytest.mark.parametrize(("patch", "alpha"), [(16, 2.5), (32, 2.0)])
def test_alpha_by_patch(patch, alpha):
    made = segmenter(small_model(patch=patch, image=64), scales=(1.0,))
    assert made.options.alpha == alpha
    assert segmenter(alpha=1.5).options.alpha == 1.5
