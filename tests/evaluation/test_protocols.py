"""Protocols: their numbers against the paper's tables, their settings by hand, their words class by class."""

import functools
import json
import re

import pytest
import torch
from towers import small_model

from cdam_fast import CDAMSegmenter
from cdam_fast.evaluation import DATASETS, PROTOCOLS, load_protocol
from cdam_fast.evaluation.datasets.classes import CLASSES

pytestmark = pytest.mark.filterwarnings("ignore:threshold:UserWarning")

BASES = ("maskclip", "sclip", "clearclip", "gem")
WITH_BACKGROUND = ("voc21", "context60", "coco-object")
COUNTS = {
    "voc21": 21,
    "voc20": 20,
    "context60": 60,
    "context59": 59,
    "coco-object": 81,
    "coco-stuff": 171,
    "cityscapes": 19,
    "ade20k": 150,
}

# Tables 1 and 2: MaskCLIP, with CDAM, SCLIP, with CDAM, ClearCLIP, with CDAM, GEM, with CDAM
PAPER = {
    "voc21": (33.1, 55.9, 50.5, 59.0, 50.7, 57.6, 52.1, 58.7),
    "context60": (23.3, 30.5, 25.8, 30.4, 27.8, 29.8, 28.1, 30.6),
    "coco-object": (24.8, 34.3, 31.3, 34.5, 33.0, 34.5, 33.8, 35.2),
    "coco-stuff": (16.5, 24.5, 21.1, 24.5, 23.9, 24.6, 23.7, 24.8),
    "cityscapes": (23.8, 27.6, 19.7, 24.6, 20.8, 21.7, 21.2, 23.7),
    "ade20k": (12.2, 17.8, 14.6, 17.2, 16.6, 17.1, 15.7, 17.2),
}
# Table 16
PAPER_32 = {
    "voc21": (29.5, 50.1, 38.0, 51.6, 47.6, 51.4, 52.1, 55.9),
    "context60": (8.1, 27.6, 24.1, 25.7, 23.3, 27.5, 28.1, 32.4),
    "coco-object": (11.5, 27.8, 25.1, 27.6, 27.3, 28.4, 33.8, 34.4),
}
AVERAGES = ((27.1, 40.2, 35.9, 41.3, 37.2, 40.6, 38.0, 41.5), (17.5, 23.3, 18.5, 22.1, 20.4, 21.1, 20.2, 21.9))


def every_settings():
    for name in PROTOCOLS:
        protocol = load_protocol(name)
        for dataset in protocol.datasets:
            for base in protocol.bases:
                for cdam in (False, True):
                    yield pytest.param(
                        protocol.settings(dataset, base, cdam),
                        id=f"{name}-{dataset}-{base}-{'cdam' if cdam else 'alone'}",
                    )


every = pytest.mark.parametrize("settings", list(every_settings()))


@functools.cache
def tiny_tower():
    return small_model(layers=1)


def segmenter_of(settings, **options):
    words = sum(1 if isinstance(one, str) else len(one) for one in settings.class_names)
    features = torch.randn(words + 5, 32, generator=torch.Generator().manual_seed(0))
    given = {"text_features": features[:words], "augmented_text_features": features[words:]}
    return CDAMSegmenter(
        tiny_tower(),
        None,
        settings.class_names,
        base=settings.base,
        cdam=settings.cdam,
        **(settings.options | given | options),
    )


@every
@pytest.mark.filterwarnings("ignore:class_names. in two classes. 'bed':UserWarning")
def test_a_segmenter_takes_the_options(settings):
    made = segmenter_of(settings)
    assert len(made.texts.words.names) == COUNTS[settings.dataset]
    with_background = settings.dataset in WITH_BACKGROUND
    assert made.texts.words.background == (0 if with_background else None)
    assert (made.options.background is not None) == with_background
    for name in ("resize", "long_side", "short_side", "window", "stride", "refine", "logit_scale"):
        assert getattr(made.options, name) == settings.options[name]
    assert made.options.map["order"] == "official"
    assert json.loads(json.dumps(settings.as_json())) == settings.as_json()


LEVELS = {"image_mean": (122.771, 116.746, 104.094), "image_std": (68.501, 66.632, 70.323)}
"""Of 255, in the code of CDAM, SCLIP and ClearCLIP."""


@every
@pytest.mark.filterwarnings("ignore:class_names. in two classes. 'bed':UserWarning")
def test_pixels_are_normalised_as_in_the_code(settings):
    pixels = torch.randint(0, 256, (3, 5, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    made = segmenter_of(settings).normalise(pixels.float() / 255)
    mean, deviation = (torch.tensor(LEVELS[name], dtype=torch.float64).view(3, 1, 1) for name in LEVELS)
    # CLIP's own numbers, which are the paper's, differ from the rounded ones by 1e-5
    near = 2e-5 if settings.protocol == "paper" else 1e-6
    torch.testing.assert_close(made.double(), (pixels - mean) / deviation, rtol=0, atol=near)


@pytest.mark.parametrize("name", ["released", "sclip"])
def test_another_model_keeps_its_own_mean_and_deviation(name):
    settings = load_protocol(name).settings("voc21")
    assert settings.options_for(settings.model) == settings.options
    for model in ("ViT-B-32", "tiny", "hf-hub:timm/ViT-B-16-SigLIP"):
        assert settings.options_for(model) == {
            option: value for option, value in settings.options.items() if option not in LEVELS
        }


@every
def test_words_are_in_the_order_of_the_data_set(settings):
    renamed = {  # what the words of a class may be beside its name, spaces and dashes aside
        "boat": "ship",
        "diningtable": "table",
        "tvmonitor": "televisionmonitor",
        "background": "sky",
    }
    own = CLASSES[settings.dataset]
    assert len(settings.class_names) == len(own) == COUNTS[settings.dataset]
    for words, name in zip(settings.class_names, own):
        first, name = (re.sub(r"[ -]", "", text) for text in (words if isinstance(words, str) else words[0], name))
        assert first in (name, renamed.get(name)), (words, name)


@every
def test_every_setting_has_a_source(settings):
    protocol = load_protocol(settings.protocol)
    known = "|".join((*map(re.escape, protocol.repositories), "of CDAM; ", "open_clip's"))
    named = set(settings.options) | {"pretrained", "activation", "words"}
    assert set(settings.sources) == named
    for setting, source in settings.sources.items():
        assert re.match(rf"({known})", source), (setting, source)
    assert (settings.miou is None) == (settings.miou_source == "")


@every
def test_weights_have_the_activation(settings):
    from cdam_fast.segmentation.sources import find_source

    source = find_source(settings.model, settings.pretrained)
    assert source.quick_gelu == (settings.activation == "QuickGELU")


def test_numbers_of_the_paper():
    protocol = load_protocol("paper")
    assert set(protocol.datasets) == set(PAPER)
    for model, table in (("ViT-B-16", PAPER), ("ViT-B-32", PAPER_32)):
        for dataset, row in table.items():
            numbers = [
                protocol.settings(dataset, base, cdam, model=model).miou for base in BASES for cdam in (False, True)
            ]
            assert numbers == pytest.approx([number / 100 for number in row], abs=1e-9)
    for dataset in set(PAPER) - set(PAPER_32):
        assert protocol.settings(dataset, model="ViT-B-32").miou is None


def test_numbers_typed_here_average_to_those_of_the_tables():
    datasets = list(PAPER)
    for three, averages in ((datasets[:3], AVERAGES[0]), (datasets[3:], AVERAGES[1])):
        means = [sum(PAPER[dataset][i] for dataset in three) / 3 for i in range(8)]
        assert means == pytest.approx(averages, abs=0.11)


def test_numbers_of_sclip_and_clearclip():
    protocol = load_protocol("sclip")
    sclip = {
        "voc21": 59.63,
        "voc20": 81.54,
        "context60": 31.74,
        "context59": 34.46,
        "coco-object": 33.52,
        "coco-stuff": 22.77,
        "cityscapes": 32.34,
        "ade20k": 16.45,
    }
    others = {  # ClearCLIP, MaskCLIP, GEM of ClearCLIP's table
        "voc20": (80.9, 74.9, 79.9),
        "context59": (35.9, 26.4, 35.9),
        "coco-stuff": (23.9, 16.4, 23.7),
        "cityscapes": (30.0, 12.6, 30.8),
        "ade20k": (16.7, 9.8, 15.7),
    }
    for dataset in DATASETS:
        assert protocol.settings(dataset, cdam=False).miou == pytest.approx(sclip[dataset] / 100)
        assert protocol.settings(dataset, cdam=True).miou is None
        row = [protocol.settings(dataset, base, cdam=False).miou for base in ("clearclip", "maskclip", "gem")]
        assert row == pytest.approx([number / 100 for number in others[dataset]] if dataset in others else [None] * 3)


def test_paper():
    protocol = load_protocol("paper")
    settings = protocol.settings("voc21")
    assert (settings.base, settings.cdam, settings.model) == ("maskclip", True, "ViT-B-16")
    assert (settings.pretrained, settings.activation) == ("laion2b_s34b_b88k", "GELU")
    assert settings.options["background"] == "entropy"
    assert settings.options["threshold_over"] == "image"
    assert [settings.options[name] for name in ("short_side", "window", "stride")] == [448, 448, 224]
    assert protocol.settings("voc21", "sclip", cdam=False).options["background"] == 0.2
    assert any("MaskCLIP, ClearCLIP and GEM without CDAM" in text for text in protocol.unconfirmed)
    assert protocol.settings("ade20k", cdam=False).options["background"] is None
    names = protocol.settings("voc21").class_names
    assert [names[i] for i in (0, 4, 11, 16, 20)] == ["background", "boat", "diningtable", "pottedplant", "tvmonitor"]


@pytest.mark.parametrize(("patch", "alpha"), [(16, 2.5), (32, 2.0)])
def test_alpha_of_the_paper_goes_by_the_patch(patch, alpha):
    settings = load_protocol("paper").settings("voc21")
    features = {"text_features": torch.eye(32)[:21], "augmented_text_features": torch.eye(32)[:5]}
    made = CDAMSegmenter(small_model(layers=1, patch=patch), None, settings.class_names, **settings.options, **features)
    assert made.options.alpha == alpha


def test_released():
    protocol = load_protocol("released")
    assert protocol.datasets == WITH_BACKGROUND
    for dataset in protocol.datasets:
        settings = protocol.settings(dataset)
        assert (settings.model, settings.pretrained, settings.activation) == ("ViT-B-16", "openai", "QuickGELU")
        options = settings.options
        assert (options["resize"], options["long_side"], options["short_side"]) == ("mmcv", 2048, 448)
        assert (options["background"], options["threshold_over"], options["alpha"]) == ("entropy", "last_window", 2.5)
        assert (options["logit_scale"], options["window"], options["stride"]) == (50, 448, 224)
    assert protocol.settings("coco-object").class_names[0] == "sky"
    assert protocol.settings("context60").class_names[59] == "wood"
    voc = protocol.settings("voc21").class_names
    assert [voc[i] for i in (4, 11, 16, 20)] == ["ship", "diningtable", "pottedplant", "tv monitor"]
    assert [protocol.settings(name).miou for name in WITH_BACKGROUND] == [0.559, 0.305, 0.343]
    assert protocol.settings("voc21", "gem").miou is None


@pytest.mark.parametrize(
    ("dataset", "short_side", "logit_scale", "background", "words"),
    [
        ("voc21", 336, 65, 0.1, 21 + 25 + 6 + 4),
        ("voc20", 336, 40, None, 20 + 6 + 4),
        ("context60", 336, 50, 0.1, 60),
        ("context59", 336, 40, None, 59),
        ("coco-object", 336, 50, 0.1, 81 + 25 + 7),
        ("coco-stuff", 448, 40, None, 171),
        ("cityscapes", 560, 40, None, 19),
        ("ade20k", 336, 40, None, 150),
    ],
)
def test_sclip(dataset, short_side, logit_scale, background, words):
    settings = load_protocol("sclip").settings(dataset, cdam=False)
    options = settings.options
    assert settings.base == "sclip"
    assert (options["short_side"], options["window"], options["stride"]) == (short_side, 224, 112)
    assert (options["logit_scale"], options["background"]) == (logit_scale, background)
    assert options.get("area_threshold") == (0.1 if dataset == "voc21" else None)
    assert sum(1 if isinstance(one, str) else len(one) for one in settings.class_names) == words


@pytest.mark.parametrize(
    ("dataset", "window", "background"),
    [
        ("voc21", 448, 0.5),
        ("voc20", 448, None),
        ("context60", 448, 0.15),
        ("context59", 448, None),
        ("coco-object", 448, 0.4),
        ("coco-stuff", 448, None),
        ("cityscapes", 224, None),
        ("ade20k", 448, None),
    ],
)
@pytest.mark.parametrize("base", ["clearclip", "maskclip", "gem"])
def test_clearclip(dataset, window, background, base):
    settings = load_protocol("sclip").settings(dataset, base, cdam=False)
    options = settings.options
    assert (options["short_side"], options["window"], options["stride"]) == (448, window, 224)
    assert (options["logit_scale"], options["background"]) == (50, background)
    assert "area_threshold" not in options
    assert all(isinstance(one, str) for one in settings.class_names)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_an_image_under_each_protocol(name):
    settings = load_protocol(name).settings("voc21")
    small = {"short_side": 64, "window": 64, "stride": 32, "long_side": 256}
    image = torch.randint(0, 256, (3, 50, 70), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    result = segmenter_of(settings, **small)(image)
    assert result.labels.shape == (50, 70)
    assert int(result.labels.max()) < 21
