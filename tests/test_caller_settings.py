"""What the caller has set in PyTorch, and NumPy's numbers for Python's: the same results."""

import contextlib
import warnings

import numpy as np
import open_clip
import pytest
import torch
from torch.nn import functional
from towers import small_model

from cdam_fast import CDAMSegmenter
from cdam_fast.models import class_features, dense_features

SIZES = {"short_side": 64, "window": 64, "stride": 32, "scales": (0.5, 1.0)}
NAMES = ["background", ["cat", "kitten"], "dog"]
pytestmark = pytest.mark.filterwarnings("ignore:threshold:UserWarning")
since_2 = pytest.mark.skipif(not hasattr(torch, "set_default_device"), reason="no default device before PyTorch 2")
TEMPLATES = ("a photo of a {}.".format, "the {}.".format)


@contextlib.contextmanager
def default_device(name):
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)
        context = getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None)
        if getattr(context, "device_context", context) is None and context is not None:
            del context.device_context  # PyTorch 2.6 keeps a None that get_default_device cannot read


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SETTINGS = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "inference_mode": torch.inference_mode,
    "grad": torch.enable_grad,
    "meta": lambda: default_device("meta"),
}
every_setting = pytest.mark.parametrize(
    "setting", [pytest.param(name, marks=since_2 if name == "meta" else ()) for name in SETTINGS]
)


def everything(made, image, pixels):
    """Whatever the segmenter's public methods give."""
    whole = made(image)
    (again,) = made.segment([image])
    return {
        "texts": made.texts.features,
        "labels": whole.labels,
        "probability": whole.probability,
        "threshold": torch.tensor(whole.threshold, dtype=torch.float64, device="cpu"),
        "logits": whole.logits,
        "word_logits": again.word_logits,
        "patch_logits": made.patch_logits(pixels),
        "words": made.word_logits(pixels),
        "base_similarity": made.base_similarity(pixels),
        "attention": made.attention(pixels),
        "base_attention": made.base_attention(pixels),
        "normalised": made.normalise(image),
    }


@every_setting
@pytest.mark.parametrize("when", ["made", "used", "both"])
@pytest.mark.parametrize("cached", [False, True], ids=["no_cache", "cache"])
def test_what_the_caller_has_set_changes_nothing(setting, when, cached, tokenizer, tmp_path):
    model, image, pixels = small_model(), torch.rand(3, 64, 104), torch.randn(2, 3, 64, 96)
    options = {"templates": TEMPLATES, "base": "sclip", "background": "entropy", "threshold_over": "window"}
    expected = everything(CDAMSegmenter(model, tokenizer, NAMES, cache_dir=False, **options, **SIZES), image, pixels)
    here = SETTINGS[setting]
    for _ in range(2):  # the second time from the cache
        with here() if when != "used" else contextlib.nullcontext():
            folder = tmp_path if cached else False
            made = CDAMSegmenter(model, tokenizer, NAMES, cache_dir=folder, **options, **SIZES)
        with here() if when != "made" else contextlib.nullcontext():
            results = everything(made, image, pixels)
        for name, value in results.items():
            assert value.dtype == expected[name].dtype, name
            assert value.device == expected[name].device, name
            assert not value.requires_grad, name
            # a default device switches PyTorch's fast attention off, which is another order of sums
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5 if setting == "meta" else 0)


@every_setting
def test_functions_of_models(setting, tokenizer):
    model, pixels = small_model(), torch.randn(2, 3, 64, 96)
    words = ["cat", "sky"]
    expected = dense_features(model, pixels, "gem"), class_features(model, tokenizer, words, TEMPLATES)
    with SETTINGS[setting]():
        given = dense_features(model, pixels, "gem"), class_features(model, tokenizer, words, TEMPLATES)
    for one, other in zip(given, expected):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@every_setting
def test_weights_that_are_loaded(setting, tmp_path):
    """A float32 model, whatever the default."""
    model = small_model()
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    with SETTINGS[setting]():
        made = CDAMSegmenter.from_pretrained("tiny", class_names=NAMES, cache_dir=tmp_path)
    plain = CDAMSegmenter.from_pretrained("tiny", class_names=NAMES, cache_dir=False)
    assert made.tower.dtype == torch.float32
    assert str(made.tower.device) == "cpu"
    for name, value in plain.tower.visual.state_dict().items():
        assert torch.equal(made.tower.visual.state_dict()[name], value), name
    assert torch.equal(made.texts.features, plain.texts.features)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_on_a_gpu_changes_nothing(dtype, tokenizer):
    model, image, pixels = small_model().cuda(), torch.rand(3, 64, 104), torch.randn(2, 3, 64, 96, device="cuda")
    options = {"templates": TEMPLATES, "cache_dir": False, **SIZES}
    expected = everything(CDAMSegmenter(model, tokenizer, NAMES, **options), image.cuda(), pixels)
    with torch.autocast("cuda", dtype):
        results = everything(CDAMSegmenter(model, tokenizer, NAMES, **options), image.cuda(), pixels)
    for name, value in results.items():
        assert value.dtype == expected[name].dtype, name
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5)


def test_iteration_leaves_the_callers_settings_between_images():
    """A generator that stops in the middle must not leave its settings behind."""
    made = CDAMSegmenter(
        small_model(), None, ["cat", "dog"], text_features=torch.eye(32)[:2], augmented_prompts=False,
        background=None, batch_size=1, **SIZES,
    )  # fmt: skip
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
        results = made.iterate([torch.rand(3, 64, 64)] * 3)
        next(results)
        assert torch.is_grad_enabled()
        weight = torch.ones(2, 2, requires_grad=True)
        product = weight @ weight
        assert product.requires_grad
        assert product.dtype == torch.bfloat16
        results.close()


# --- the pixels' mean and deviation


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_own_mean_and_deviation(kind):
    mean, deviation = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    given = {"text_features": torch.eye(32)[:2], "augmented_prompts": False, "background": None, **SIZES}
    made = CDAMSegmenter(small_model(), None, ["cat", "dog"], image_mean=kind(mean), image_std=kind(deviation), **given)
    image = torch.rand(3, 64, 64)
    pixels = (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)
    torch.testing.assert_close(made.normalise(image), pixels, rtol=0, atol=1e-6)
    expected = functional.interpolate(made.word_logits(pixels[None]), size=(64, 64), mode="bilinear")[0]
    torch.testing.assert_close(made(image).word_logits, expected, rtol=0, atol=1e-5)
    model = small_model()
    model.visual.image_mean, model.visual.image_std = (0.1, 0.1, 0.1), (0.9, 0.9, 0.9)
    own = CDAMSegmenter(model, None, ["cat", "dog"], **given)
    torch.testing.assert_close(own.normalise(image), (image - 0.1) / 0.9)
    over = CDAMSegmenter(model, None, ["cat", "dog"], image_mean=kind(mean), **given)
    torch.testing.assert_close(over.normalise(image), (image - torch.tensor(mean).view(3, 1, 1)) / 0.9)


# --- word lists of the field


def given_features(rows):
    return {"text_features": torch.eye(max(32, rows))[:rows, :32] + 1e-3, "augmented_prompts": False}


def test_a_word_of_two_classes_is_said_and_the_first_gets_it():
    names = [["background", "wall", "bed"], "cat", "Bed", ["dog", "dog"]]
    features = torch.eye(32)[[0, 1, 2, 3, 2, 4, 4]]
    with pytest.warns(UserWarning, match=r"class_names: in two classes: 'Bed' \(background, Bed\); .* the first"):
        made = CDAMSegmenter(
            small_model(), None, names, text_features=features, augmented_prompts=False, background=None, **SIZES
        )
    assert made.texts.words.classes == (0, 0, 0, 1, 2, 3, 3)
    assert made.texts.classes.tolist() == [0, 0, 0, 1, 0, 3, 3]
    seen = {int(label) for seed in range(4) for label in made(torch.rand(3, 64, 64).mul(seed / 3)).labels.unique()}
    assert 2 not in seen


def test_repeated_words_in_one_class_are_said():
    with pytest.warns(UserWarning, match="class_names: 1 words are there a second time"):
        CDAMSegmenter(small_model(), None, [["dog", "Dog"]], background=None, **given_features(2), **SIZES)


def test_imagenets_names():
    """A thousand, of which two are equal."""
    names = open_clip.IMAGENET_CLASSNAMES
    assert len(names) == 1000
    assert len(set(names)) < 1000
    with pytest.warns(UserWarning, match="class_names: in two classes: 'missile'"):
        made = CDAMSegmenter(
            small_model(), None, names, background=None, text_features=torch.randn(1000, 32),
            augmented_prompts=False, **SIZES,
        )  # fmt: skip
    assert made(torch.rand(3, 64, 64)).labels.shape == (64, 64)


@pytest.mark.parametrize("word", ["cat\ndog", "cat\r\ndog", "cat\u2028dog", "cat\0", "caf\udce9"])
def test_words_that_are_no_words(word):
    with pytest.raises(ValueError, match=r"class_names\[1\]: got"):
        CDAMSegmenter(small_model(), None, ["sky", ["dog", word]], **given_features(3), **SIZES)


# --- the class of the background


@pytest.mark.parametrize("chosen", [1, "sky", "Air", " SKY ", np.int64(1), np.str_("sky")])
def test_the_background_by_index_or_word(chosen):
    names = ["cat", ["sky", "air"], "dog"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = CDAMSegmenter(
            small_model(), None, names, background=1.0, background_class=chosen, logit_scale=1.0,
            **given_features(4), **SIZES,
        )  # fmt: skip
    assert made.texts.words.background == 1
    assert made(torch.rand(3, 64, 64)).labels.unique().tolist() == [1]


def test_the_background_is_not_the_class_of_that_name_where_another_is_given():
    made = CDAMSegmenter(small_model(), None, ["background", "cat"], background_class=1, **given_features(2), **SIZES)
    assert made.texts.words.background == 1


@pytest.mark.parametrize(
    ("chosen", "error"),
    [(3, ValueError), (-1, ValueError), ("grass", ValueError), ("", ValueError), (True, TypeError), (0.0, TypeError)],
)
def test_no_such_background(chosen, error):
    with pytest.raises(error, match=r"background_class: got .*, takes None, an index from 0 to 2 or a word"):
        CDAMSegmenter(small_model(), None, ["cat", "sky", "dog"], background_class=chosen, **given_features(3), **SIZES)


# --- the words' logits


def test_logits_of_words_and_of_classes():
    names, pixels = ["background", ["cat", "kitten"], "dog"], torch.randn(2, 3, 64, 96)
    made = CDAMSegmenter(small_model(), None, names, **given_features(4), **SIZES)
    words = made.word_logits(pixels)
    assert words.shape == (2, 4, 4, 6)
    by_class = [part.amax(1) for part in words.split(made.texts.words.synonyms, 1)]
    assert torch.equal(made.patch_logits(pixels), torch.stack(by_class, 1))
    assert not words.requires_grad
