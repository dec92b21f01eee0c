"""The segmenter on transformers' CLIP and SigLIP, with their tokenizers and processors."""

from types import SimpleNamespace

import open_clip
import pytest
import torch
from other_models import (
    Adapted,
    as_open_clip,
    as_timm,
    clip_of_transformers,
    clip_tokenizer_files,
    siglip_of_transformers,
    transformers,
)
from torch import nn
from torch.nn import functional

from cdam_fast import CDAMSegmenter
from cdam_fast.models import BASES, text_features

package = transformers()
every_base = pytest.mark.parametrize("base", BASES)
both = pytest.mark.parametrize("make", [clip_of_transformers, siglip_of_transformers], ids=["clip", "siglip"])
SIZES = {"short_side": 64, "window": 64, "stride": 32, "scales": (1.0,)}
OPTIONS = {"templates": ["a photo of a {}.".format], "cache_dir": False, "augmented_prompts": False, **SIZES}
NAMES = ["background", ["cat", "Kitten"], "T-shirt", "café"]
PROMPTS = ["a photo of a cat.", "sky", "a photo of a dark blue potted plant near a dining table."]
GIVEN = {"text_features": torch.eye(32)[:5], "augmented_prompts": False, **SIZES}
pytestmark = pytest.mark.filterwarnings("ignore:threshold:UserWarning")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return package.CLIPTokenizer.from_pretrained(clip_tokenizer_files(tmp_path_factory.mktemp("vocabulary")))


@pytest.fixture(scope="module")
def clip():
    return clip_of_transformers()


@pytest.fixture(scope="module")
def siglip():
    return siglip_of_transformers()


@pytest.fixture(scope="module")
def clip_of_open_clip(clip):
    return as_open_clip(clip)


@pytest.fixture(scope="module")
def siglip_of_timm(siglip):
    return as_timm(siglip)


def pooled(result):
    return getattr(result, "pooler_output", result)


# --- the segmenter


@every_base
def test_it_segments_as_open_clips(clip, clip_of_open_clip, tokenizer, base):
    image = torch.rand(3, 64, 80)
    own = open_clip.get_tokenizer("ViT-B-16")
    options = {**OPTIONS, "base": base, "dtype": torch.float64}
    one = CDAMSegmenter(clip, tokenizer, NAMES, **options)
    other = CDAMSegmenter(clip_of_open_clip, own, NAMES, **options)
    torch.testing.assert_close(one.texts.features, other.texts.features, rtol=0, atol=1e-5)
    torch.testing.assert_close(one(image).word_logits, other(image).word_logits, rtol=0, atol=1e-5)


def test_siglip_segments_as_timms(siglip, siglip_of_timm, tokenizer):
    image = torch.rand(3, 64, 80)
    one = CDAMSegmenter(siglip, tokenizer, NAMES, **OPTIONS)
    given = {**OPTIONS, "text_features": one.texts.features, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    other = CDAMSegmenter(siglip_of_timm, None, NAMES, **given)
    torch.testing.assert_close(one(image).word_logits, other(image).word_logits, rtol=0, atol=1e-5)


@both
def test_text_features_are_the_models_own(make, tokenizer):
    model = make()
    length = model.config.text_config.max_position_embeddings
    tokens = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    with torch.no_grad():
        own = functional.normalize(pooled(model.get_text_features(input_ids=tokens["input_ids"])), dim=-1)
    torch.testing.assert_close(text_features(model, tokenizer, PROMPTS), own, rtol=0, atol=1e-5)
    torch.testing.assert_close(text_features(model, tokenizer, PROMPTS, shorten=False), own, rtol=0, atol=0)


@pytest.mark.parametrize("end", [2, 49407], ids=["by_the_largest", "by_the_first"])
def test_only_the_tokens_up_to_the_end_are_encoded(clip, tokenizer, end, monkeypatch):
    """Both of the package's rules for where the text ends; configurations of before 2023 say 2."""
    seen = []
    encode = type(clip).get_text_features
    monkeypatch.setattr(clip.config.text_config, "eos_token_id", end)
    monkeypatch.setattr(
        type(clip), "get_text_features", lambda self, input_ids: seen.append(input_ids.shape) or encode(self, input_ids)
    )
    text_features(clip, tokenizer, PROMPTS)
    longest = len(tokenizer(PROMPTS[2])["input_ids"])
    assert seen == [(1, 77), (1, longest), (3, longest)]


def test_an_open_clip_model_with_a_tokenizer_of_transformers(clip, clip_of_open_clip, tokenizer):
    own = text_features(clip, tokenizer, PROMPTS)
    torch.testing.assert_close(text_features(clip_of_open_clip, tokenizer, PROMPTS), own, rtol=0, atol=1e-5)


def test_an_image_tower_alone_with_text_features(clip, tokenizer):
    alone = package.CLIPVisionModelWithProjection(clip.config.vision_config).eval()
    alone.load_state_dict({k: v for k, v in clip.state_dict().items() if "vis" in k.split(".")[0]}, strict=False)
    image = torch.rand(3, 64, 80)
    expected = CDAMSegmenter(clip, None, NAMES, **GIVEN)(image).word_logits
    torch.testing.assert_close(CDAMSegmenter(alone, None, NAMES, **GIVEN)(image).word_logits, expected)
    with pytest.raises(TypeError, match="model: got CLIPVisionModelWithProjection of transformers without a text"):
        CDAMSegmenter(alone, tokenizer, NAMES, **OPTIONS)


# --- pixels


class Processor:
    """As transformers' processors: a tokenizer and an image processor."""

    __module__ = "transformers.models.clip.processing_clip"

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.image_processor = SimpleNamespace(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])


def test_mean_and_deviation_of_the_pixels(clip, siglip, tokenizer):
    image = torch.rand(3, 64, 64)
    expected = (image - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    of_processor = CDAMSegmenter(clip, Processor(tokenizer), NAMES, **OPTIONS)
    torch.testing.assert_close(of_processor.normalise(image), expected)
    assert torch.equal(of_processor.texts.features, CDAMSegmenter(clip, tokenizer, NAMES, **OPTIONS).texts.features)
    given = CDAMSegmenter(clip, Processor(tokenizer), NAMES, image_mean=[0.1, 0.2, 0.3], image_std=[1] * 3, **OPTIONS)
    torch.testing.assert_close(given.normalise(image), image - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1))
    eye = {**GIVEN, "text_features": torch.eye(64)[:5]}
    torch.testing.assert_close(CDAMSegmenter(siglip, None, NAMES, **eye).normalise(image), 2 * image - 1)
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    deviation = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    torch.testing.assert_close(CDAMSegmenter(clip, None, NAMES, **GIVEN).normalise(image), (image - mean) / deviation)


# --- the cache


def test_the_cache_knows_text_weights_from_image_weights(clip, tokenizer, tmp_path):
    options = {**OPTIONS, "cache_dir": tmp_path}
    first = CDAMSegmenter(clip, tokenizer, NAMES, **options).texts.features
    other_image = clip_of_transformers(1)
    other_image.text_model.load_state_dict(clip.text_model.state_dict())
    other_image.text_projection.load_state_dict(clip.text_projection.state_dict())
    other_image.logit_scale = clip.logit_scale
    assert torch.equal(CDAMSegmenter(other_image, tokenizer, NAMES, **options).texts.features, first)
    assert len(list(tmp_path.iterdir())) == 1
    other_text = clip_of_transformers(1)
    assert not torch.equal(CDAMSegmenter(other_text, tokenizer, NAMES, **options).texts.features, first)
    assert len(list(tmp_path.iterdir())) == 2


# --- wrappers


@pytest.mark.parametrize("wrap", ["compiled", "data_parallel", "adapted"])
def test_wrapped_models(clip, wrap, tokenizer):
    if wrap == "compiled" and not hasattr(torch, "compile"):
        pytest.skip("no torch.compile before PyTorch 2")
    wrapped = {"compiled": getattr(torch, "compile", None), "data_parallel": nn.DataParallel, "adapted": Adapted}
    image = torch.rand(3, 64, 80)
    expected = CDAMSegmenter(clip, tokenizer, NAMES, **OPTIONS)(image).word_logits
    assert torch.equal(CDAMSegmenter(wrapped[wrap](clip), tokenizer, NAMES, **OPTIONS)(image).word_logits, expected)


def test_the_model_is_left_as_it_was(clip, tokenizer):
    modules = [id(module) for module in clip.modules()]
    CDAMSegmenter(clip, tokenizer, NAMES, **OPTIONS)(torch.rand(3, 64, 80))
    assert [id(module) for module in clip.modules()] == modules
    assert not clip.training


def test_a_tokenizer_that_cannot_pad(clip, tokenizer):
    class NoPadding:
        __module__ = "transformers.tokenization_utils"
        pad_token = None

    with pytest.raises(ValueError, match="tokenizer: got NoPadding without a padding token"):
        text_features(clip, NoPadding(), PROMPTS)
