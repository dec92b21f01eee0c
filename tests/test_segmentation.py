"""The segmenter against the released code's numbers and against plain loops."""

import warnings

import numpy as np
import open_clip
import pytest
import torch
from cases import float16_of_models
from PIL import Image
from torch.nn import functional
from towers import WRITTEN_OUT, plain_features, small_model

from cdam_fast import CDAMSegmenter, entropy_threshold, reference
from cdam_fast.compat import OutOfMemoryError
from cdam_fast.models import LastBlock, Tower
from cdam_fast.segmentation import result

NAMES = ["background", ["cat", "kitten"], "dog", ["sofa", "couch", "settee"]]
CLASSES = (0, 1, 1, 2, 3, 3, 3)

# the entropy of random models is often too low for Eq. 4, and one test is about what is said then
pytestmark = pytest.mark.filterwarnings("ignore:threshold:UserWarning")

every_base = pytest.mark.parametrize("base", WRITTEN_OUT)
with_and_without = pytest.mark.parametrize("cdam", [False, True], ids=["base", "cdam"])
every_threshold = pytest.mark.parametrize("over", ["image", "window", "last_window"])


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


# --- images, batches, dtypes


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_batch_size_changes_nothing(batch_size):
    model = small_model()
    images = [photograph(64, 104), photograph(96, 64, 1), photograph(64, 64, 2), photograph(150, 200, 3)]
    alone = [segmenter(model, batch_size=8)(image) for image in images]
    together = segmenter(model, batch_size=batch_size).segment(images)
    for one, other in zip(alone, together):
        torch.testing.assert_close(one.word_logits, other.word_logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(one.threshold, other.threshold, rtol=1e-4, atol=0)
        assert (one.labels != other.labels).float().mean() < 1e-3


def test_images_are_taken_as_they_are_needed():
    taken = []

    def images():
        for i in range(4):
            taken.append(i)
            yield photograph(64, 64, i)

    results = segmenter(batch_size=1).iterate(images())
    next(results)
    assert taken == [0]
    assert len(list(results)) == 3


def test_one_image_and_several():
    made = segmenter()
    image = photograph(64, 64)
    assert torch.equal(made.segment(image).labels, made(image).labels)
    assert [one.labels.shape for one in made.segment([image, photograph(64, 72)])] == [(64, 64), (64, 72)]
    assert len(made.segment(torch.stack([image, image]))) == 2
    assert made.segment([]) == []


@pytest.mark.parametrize("size", [(64, 104), (100, 70), (40, 30), (301, 203)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_labels_have_the_photographs_size(size):
    pixels = (photograph(max(size), max(size))[:, : size[0], : size[1]] * 255).to(torch.uint8)
    made = segmenter()
    whole = made(Image.fromarray(pixels.permute(1, 2, 0).numpy()))
    assert whole.labels.shape == size
    assert whole.labels.dtype == torch.int64
    assert whole.probability.shape == size
    assert whole.logits.shape == (4, *size)
    assert whole.class_names == ("background", "cat", "dog", "sofa")
    short = min(size)
    scaled = tuple(int(side * 64 / short + 0.5) for side in size)
    assert whole.word_logits.shape == (7, *scaled)
    upsampled = functional.interpolate(whole.word_logits[None], size=size, mode="bilinear")[0]
    most, index = torch.softmax(50 * upsampled, 0).max(0)
    torch.testing.assert_close(whole.probability, most, rtol=1e-4, atol=1e-6)
    expected = torch.where(most < whole.threshold, 0, torch.tensor(CLASSES)[index])
    assert torch.equal(whole.labels, expected)


def test_a_few_words_at_a_time_give_the_same(monkeypatch):
    logits = torch.randn(9, 8, 8)
    whole = result.best_word(logits, (30, 40), 50.0)
    monkeypatch.setattr(result, "_ELEMENTS_AT_ONCE", 2 * 30 * 40)
    parts = result.best_word(logits, (30, 40), 50.0)
    assert torch.equal(whole[0], parts[0])
    torch.testing.assert_close(whole[1], parts[1])


def test_array_tensor_and_picture_of_one_image_agree():
    pixels = (photograph(72, 64) * 255).to(torch.uint8)
    array = pixels.permute(1, 2, 0).numpy()
    made = segmenter()
    expected = made(pixels).word_logits
    for image in (array, Image.fromarray(array), pixels.float() / 255):
        torch.testing.assert_close(made(image).word_logits, expected, rtol=0, atol=1e-6)


@every_base
@pytest.mark.parametrize("dtype", [float16_of_models, torch.bfloat16, torch.float64], ids=str)
def test_dtype_is_of_a_copy(base, dtype):
    model = small_model()
    image = photograph(64, 64)
    expected = segmenter(model, base=base)(image)
    whole = segmenter(model, base=base, dtype=dtype)(image)
    assert model.visual.conv1.weight.dtype == torch.float32
    assert whole.word_logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert whole.word_logits.isfinite().all()
    error = (whole.word_logits.double() - expected.word_logits.double()).abs().max()
    assert error < {torch.float16: 0.02, torch.bfloat16: 0.15, torch.float64: 1e-5}[dtype]


def test_the_model_is_left_as_it_was():
    model = small_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = segmenter(model)
    made(photograph(64, 80))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_model_with_its_own_normalisation():
    model = small_model()
    plain = segmenter(model)(photograph(64, 64))
    model.visual.image_mean, model.visual.image_std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    own = segmenter(model)(photograph(64, 64))
    pixels = ((photograph(64, 64) - 0.5) / 0.5).unsqueeze(0)
    assert not torch.allclose(plain.word_logits, own.word_logits)
    expected = functional.interpolate(segmenter(model).word_logits(pixels), size=(64, 64), mode="bilinear")
    torch.testing.assert_close(own.word_logits, expected[0])


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


# --- what can go wrong


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
