"""NumPy's numbers, arrays and flags where Python's are taken."""

import numpy as np
import pytest
import torch
from towers import small_model

import cdam_fast
from cdam_fast import CDAMSegmenter

SIZES = {"short_side": 64, "window": 64, "stride": 32, "scales": (0.5, 1.0)}
pytestmark = pytest.mark.filterwarnings("ignore:threshold:UserWarning")


def numpy_options():
    return {
        "class_names": np.array(["background", "cat", "dog"]),
        "cdam": np.bool_(True),
        "augmented_prompts": np.bool_(False),
        "background": np.float32(0.25),
        "background_class": np.int64(0),
        "alpha": np.float64(2),
        "logit_scale": np.float32(8),
        "short_side": np.int64(64),
        "window": np.int32(64),
        "stride": np.uint8(32),
        "long_side": np.int32(2048),
        "area_threshold": np.float32(0.125),
        "batch_size": np.int16(2),
        "scales": np.array([0.5, 1.0]),
        "temperature": np.float32(0.125),
        "attention_temperature": np.float16(0.125),
        "minmax": np.array([True, False]),
        "text_features": np.eye(32, dtype=np.float32)[:3],
        "image_mean": np.full(3, 0.5, dtype=np.float32),
        "image_std": [np.float64(0.5)] * 3,
        "cache_dir": np.bool_(False),
    }


def test_numpy_for_python(tokenizer):
    given = numpy_options()
    plain = {name: value.tolist() for name, value in given.items() if hasattr(value, "tolist")}
    plain["image_std"] = (0.5, 0.5, 0.5)
    plain["text_features"] = torch.eye(32)[:3]
    image = torch.rand(3, 64, 80)
    one, other = (
        CDAMSegmenter(small_model(), None, options.pop("class_names"), **options)(image) for options in (given, plain)
    )
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(one.word_logits, other.word_logits)
    assert one.class_names == ("background", "cat", "dog")


@pytest.mark.parametrize(
    "names", [("cat", "dog"), [np.array(["cat", "kitten"]), "dog"], np.array(["cat", "dog"], object)]
)
def test_names_of_every_sequence(names):
    words = 3 if isinstance(names, list) else 2
    made = CDAMSegmenter(
        small_model(layers=1), None, names, text_features=torch.eye(32)[:words], augmented_prompts=False,
        background=None, **SIZES,
    )  # fmt: skip
    assert made.texts.words.names == ("cat", "dog")


def test_the_functions_take_numpys_numbers():
    similarity, values = torch.randn(5, 6, 6), torch.randn(36, 4)
    options = {"scales": (0.5, 1.0), "temperature": 0.125, "attention_temperature": 0.25, "minmax": (True, False)}
    given = {
        "scales": np.array([0.5, 1.0], dtype=np.float32),
        "temperature": np.float32(0.125),
        "attention_temperature": np.float64(0.25),
        "minmax": (np.bool_(True), np.bool_(False)),
    }
    expected = cdam_fast.cdam_attention(similarity, **options)
    assert torch.equal(cdam_fast.cdam_attention(similarity, **given), expected)
    assert torch.equal(
        cdam_fast.cdam_attend(similarity, values, **given), cdam_fast.cdam_attend(similarity, values, **options)
    )
    threshold = cdam_fast.entropy_threshold(similarity.flatten(1), alpha=np.float64(2), logit_scale=np.int64(20))
    assert threshold == cdam_fast.entropy_threshold(similarity.flatten(1), alpha=2.0, logit_scale=20.0)


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("cdam", np.int64(1), TypeError),
        ("cdam", np.array([True]), TypeError),
        ("stride", np.float32(32), TypeError),
        ("stride", np.bool_(True), TypeError),
        ("stride", np.int64(0), ValueError),
        ("batch_size", np.array([2]), TypeError),
        ("alpha", np.bool_(True), TypeError),
        ("alpha", np.float32("nan"), ValueError),
        ("alpha", np.array([2.0]), TypeError),
        ("background", np.float32(2), ValueError),
        ("background", np.bool_(True), TypeError),
        ("scales", np.array(["1"]), TypeError),
        ("scales", np.array(1.0), TypeError),
        ("scales", np.array([]), ValueError),
        ("minmax", np.array([1, 0]), TypeError),
        ("image_mean", np.array([0.5, 0.5]), ValueError),
        ("image_mean", np.array([[0.5, 0.5, 0.5]]), TypeError),
        ("image_mean", [0.5, 0.5, float("nan")], ValueError),
        ("image_mean", "0.5", TypeError),
        ("image_mean", 0.5, TypeError),
        ("image_std", (0.5, 0.5, 0.0), ValueError),
        ("image_std", (0.5, 0.5, True), TypeError),
        ("text_features", np.ones((3, 32), dtype=np.int64), TypeError),
    ],
)
def test_numpy_is_checked_as_python_is(option, value, error):
    options = numpy_options() | {option: value}
    with pytest.raises(error, match=rf"{option}(\[0\])?: got"):
        CDAMSegmenter(small_model(layers=1), None, options.pop("class_names"), **options)
