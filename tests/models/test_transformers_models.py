"""transformers' CLIP and SigLIP against their own forward passes, and against the same weights elsewhere."""

import inspect
import math
from types import SimpleNamespace

import open_clip
import pytest
import torch
from other_models import (
    as_open_clip,
    as_timm,
    clip_config,
    clip_of_transformers,
    clip_tokenizer_files,
    joint,
    siglip_of_transformers,
    transformers,
)
from torch import nn
from torch.nn import functional
from towers import WRITTEN_OUT, last_attention, projected, self_self, with_mlp

from cdam_fast import CDAMSegmenter
from cdam_fast.compat import refusal_of_dtype, scaled_dot_product_attention
from cdam_fast.models import BASES, Tower, dense_features, text_features
from cdam_fast.models.blocks import join_heads

package = transformers()
every_base = pytest.mark.parametrize("base", WRITTEN_OUT)
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


def own_image_features(model, pixels):
    """As the model computes them, at other sizes too, which older versions do not."""
    resized = {} if pixels.shape[-2:] == (64, 64) else {"interpolate_pos_encoding": True}
    if not resized.keys() <= inspect.signature(model.get_image_features).parameters.keys():
        pytest.skip("transformers: this version does not resize position embeddings")
    return pooled(model.get_image_features(pixel_values=pixels, **resized))


def by_size(positions, grid):
    return functional.interpolate(positions, size=grid, mode="bicubic")


def after_all_blocks(tower, pixels):
    x = tower.embed(pixels, by_size)
    for block in tower.blocks:
        x = block.run(x)
    return x


# --- the protocol against the model's own forward pass


@pytest.mark.parametrize("size", [(64, 64), (96, 128)], ids=["trained", "other"])
@torch.no_grad()
def test_all_blocks_are_the_forward_pass_of_clip(clip, size):
    pixels = torch.randn(2, 3, *size)
    tower = Tower(clip)
    x = after_all_blocks(tower, pixels)
    own = own_image_features(clip, pixels)
    torch.testing.assert_close(tower.project_features(x[:, :1])[:, 0], own, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (96, 128)], ids=["trained", "other"])
@torch.no_grad()
def test_all_blocks_are_the_forward_pass_of_siglip(siglip, size):
    pixels = torch.randn(2, 3, *size)
    vision = siglip.vision_model
    x = vision.post_layernorm(after_all_blocks(Tower(siglip), pixels))
    torch.testing.assert_close(vision.head(x), own_image_features(siglip, pixels), rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_feature_of_siglip_is_the_pooling_of_that_token_alone(siglip):
    x = torch.randn(2, 5, 64)
    vision = siglip.vision_model
    alone = [[vision.head(vision.post_layernorm(token[None, None]))[0] for token in image] for image in x]
    expected = torch.stack([torch.stack(image) for image in alone])
    torch.testing.assert_close(Tower(siglip).project_features(x), expected, rtol=0, atol=1e-5)


@both
@torch.no_grad()
def test_the_pieces_of_a_block_are_the_block(make):
    x = torch.randn(2, 17, 64)
    for block in Tower(make(vocabulary=8)).blocks:
        tokens = block.normalise(x)
        queries, keys, values = (block.split_heads(block.project(tokens, part)) for part in "qkv")
        attended = join_heads(scaled_dot_product_attention(queries, keys, values))
        torch.testing.assert_close(block.add_mlp(x + block.output(attended)), block.run(x), rtol=0, atol=1e-4)


def test_what_a_tower_says_of_itself(clip, siglip):
    for model, has_cls, size in ((clip, True, 32), (siglip, False, 64)):
        tower = Tower(model)
        said = tower.has_cls, tower.embedding_size, tower.patch, tower.trained_grid, len(tower.blocks)
        assert said == (has_cls, size, (16, 16), (4, 4), 3)
        assert tower.dtype == torch.float32
        assert tower.device.type == "cpu"


# --- the base methods against the same weights in other classes


@every_base
@pytest.mark.parametrize("size", [(64, 64), (96, 32)], ids=["trained", "other"])
def test_dense_features_are_those_of_open_clip(clip, clip_of_open_clip, base, size):
    pixels = torch.randn(2, 3, *size)
    expected = dense_features(clip_of_open_clip, pixels, base)
    torch.testing.assert_close(dense_features(clip, pixels, base), expected, rtol=0, atol=1e-5)


@every_base
@pytest.mark.parametrize("size", [(64, 64), (96, 32)], ids=["trained", "other"])
def test_dense_features_of_siglip_are_those_of_timm(siglip, siglip_of_timm, base, size):
    pixels = torch.randn(2, 3, *size)
    expected = dense_features(siglip_of_timm, pixels, base)
    torch.testing.assert_close(dense_features(siglip, pixels, base), expected, rtol=0, atol=1e-5)


def plainly(layer):
    """A layer under the names that the plain loops know."""
    weight, bias = joint(layer.self_attn)
    heads, out = layer.self_attn.num_heads, layer.self_attn.out_proj
    attention = SimpleNamespace(in_proj_weight=weight, in_proj_bias=bias, num_heads=heads, out_proj=out)
    same = nn.Identity()
    norms = {"ln_1": layer.layer_norm1, "ln_2": layer.layer_norm2}
    return SimpleNamespace(attn=attention, ls_1=same, ls_2=same, mlp=layer.mlp, **norms)


@torch.no_grad()
def plain_siglip(model, image, base, attention=None):
    """Normalised patch features [N, D] of one image [3, 64, 64], one head and one patch at a time.

    attention: a map [N, N] in the place of the base's.
    """
    vision = model.vision_model
    patches = vision.embeddings.patch_embedding(image[None])[0].flatten(1).T
    x = second = patches + vision.embeddings.position_embedding.weight
    *earlier, last = (plainly(layer) for layer in vision.encoder.layers)
    for block in earlier:
        tokens = block.ln_1(x)
        second = second + projected(block, self_self(block, tokens))
        q, k, v = (tokens @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, -1)
        attended = []
        for head in zip(*(part.chunk(block.attn.num_heads, -1) for part in (q, k, v))):
            weights = torch.softmax(head[0] @ head[1].T / math.sqrt(head[0].shape[-1]), -1)
            attended.append(weights @ head[2])
        x = with_mlp(block, x + projected(block, torch.cat(attended, -1)))
    attended = last_attention(last, last.ln_1(x), base)
    if attention is not None:  # maskclip's are the values
        attended = attention @ last_attention(last, last.ln_1(x), "maskclip")
    output = projected(last, attended)
    if base == "gem":
        y = second + output
    elif base == "clearclip":
        y = output
    else:
        y = with_mlp(last, x + output)
    features = torch.cat([vision.head(vision.post_layernorm(token[None, None])) for token in y])
    return features / features.norm(dim=-1, keepdim=True)


@every_base
def test_siglip_against_plain_loops(siglip, base):
    image = torch.randn(3, 64, 64)
    features = dense_features(siglip, image[None], base)
    torch.testing.assert_close(features[0], plain_siglip(siglip, image, base), rtol=0, atol=1e-5)


@every_base
@torch.no_grad()
def test_second_pass_of_siglip_against_plain_loops(siglip, base):
    image, attention = torch.randn(3, 64, 64), torch.rand(16, 16).softmax(-1)
    tower, chosen = Tower(siglip), BASES[base]
    last = chosen.prepare(tower, image[None])
    features = chosen.finish(tower, last, attention @ last.patch_values)
    torch.testing.assert_close(features[0], plain_siglip(siglip, image, base, attention), rtol=0, atol=1e-5)


@every_base
def test_attention_of_the_base_without_a_cls_token(siglip, base):
    """Its rows sum to what the rule says, as nothing is left for a CLS token."""
    tower, chosen = Tower(siglip), BASES[base]
    with torch.no_grad():
        weights = chosen.attention(tower, chosen.prepare(tower, torch.randn(2, 3, 64, 96)))
    assert weights.shape == (2, 24, 24)
    torch.testing.assert_close(weights.sum(-1), torch.full((2, 24), 2.0 if base == "sclip" else 1.0))


# --- the segmenter


@every_base
def test_it_segments_as_open_clips(clip, clip_of_open_clip, tokenizer, base):
    image = torch.rand(3, 64, 80)
    own = open_clip.get_tokenizer("ViT-B-16")
    one = CDAMSegmenter(clip, tokenizer, NAMES, base=base, **OPTIONS)
    other = CDAMSegmenter(clip_of_open_clip, own, NAMES, base=base, **OPTIONS)
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


def test_the_image_tower_of_siglip_alone(siglip):
    alone = package.SiglipVisionModel(siglip.config.vision_config).eval()
    inside = getattr(alone, "vision_model", alone)
    inside.load_state_dict(siglip.vision_model.state_dict())
    pixels = torch.randn(1, 3, 64, 64)
    assert torch.equal(dense_features(alone, pixels), dense_features(siglip, pixels))


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


# --- dtypes and wrappers


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(make, dtype):
    if refusal_of_dtype(dtype, "cpu"):
        pytest.skip("refused by name")
    pixels = torch.randn(1, 3, 64, 96)
    model = make(vocabulary=8)
    expected = dense_features(model, pixels)
    copied = Tower(model).to(dtype, None)
    given = dense_features(model.to(dtype), pixels)
    assert given.dtype == torch.float32
    assert copied.dtype == dtype
    bound = 0.02 if dtype == torch.float16 else 0.15
    assert (given - expected).norm(dim=-1).max() < bound
    assert torch.equal(BASES["maskclip"].first_pass(copied, BASES["maskclip"].prepare(copied, pixels.to(dtype))), given)


def test_a_copy_in_another_dtype_leaves_the_model_alone(clip):
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    made = CDAMSegmenter(clip, None, NAMES, dtype=torch.float64, **GIVEN)
    assert made.tower.dtype == torch.float64
    assert all(torch.equal(value, before[name]) for name, value in clip.state_dict().items())
    assert Tower(clip).to(torch.float32, "cpu").blocks[0].module is clip.vision_model.encoder.layers[0]


class Adapted(nn.Module):
    """As PEFT's models."""

    def __init__(self, model):
        super().__init__()
        self.base_model = model

    def get_base_model(self):
        return self.base_model


class Adapter(nn.Module):
    """As PEFT's LoRA layers: around a projection, which it adds to."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer, self.down = base_layer, nn.Linear(64, 2, bias=False)
        self.up = nn.Linear(2, base_layer.out_features, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


@pytest.mark.parametrize("wrap", ["compiled", "data_parallel", "adapted"])
def test_wrapped_models(clip, wrap, tokenizer):
    if wrap == "compiled" and not hasattr(torch, "compile"):
        pytest.skip("no torch.compile before PyTorch 2")
    wrapped = {"compiled": getattr(torch, "compile", None), "data_parallel": nn.DataParallel, "adapted": Adapted}
    image = torch.rand(3, 64, 80)
    expected = CDAMSegmenter(clip, tokenizer, NAMES, **OPTIONS)(image).word_logits
    assert torch.equal(CDAMSegmenter(wrapped[wrap](clip), tokenizer, NAMES, **OPTIONS)(image).word_logits, expected)


def test_adapters_around_the_projections_count():
    model, merged = clip_of_transformers(vocabulary=8), clip_of_transformers(vocabulary=8)
    for layer, other in zip(model.vision_model.encoder.layers, merged.vision_model.encoder.layers):
        adapter = Adapter(layer.self_attn.v_proj)
        layer.self_attn.v_proj = adapter
        with torch.no_grad():
            other.self_attn.v_proj.weight += adapter.up.weight @ adapter.down.weight
    pixels = torch.randn(1, 3, 64, 96)
    expected = dense_features(merged, pixels, "sclip")
    torch.testing.assert_close(dense_features(Adapted(model), pixels, "sclip"), expected, rtol=0, atol=1e-5)


def test_the_model_is_left_as_it_was(clip, tokenizer):
    modules = [id(module) for module in clip.modules()]
    CDAMSegmenter(clip, tokenizer, NAMES, **OPTIONS)(torch.rand(3, 64, 80))
    assert [id(module) for module in clip.modules()] == modules
    assert not clip.training


# --- refused by name


def without_head():
    """As ``vision_use_head=False`` has it."""
    model = siglip_of_transformers(vocabulary=8)
    del model.vision_model.head
    return model


def of_another_kind():
    model = package.CLIPModel(clip_config(package, layers=1, vocabulary=8))
    model.config.model_type = "blip"
    return model


def vision_alone():
    return package.CLIPVisionModel(clip_config(package, vocabulary=8).vision_config)


def text_alone():
    return package.CLIPTextModel(clip_config(package, vocabulary=8).text_config)


REFUSED = {
    "vision": (vision_alone, ValueError, "got CLIPVisionModel of transformers without visual_projection"),
    "text": (text_alone, TypeError, "got CLIPTextModel of transformers"),
    "no_head": (without_head, ValueError, "got the image tower Siglip.* without head"),
    "kind": (of_another_kind, TypeError, "got CLIPModel of transformers, takes a CLIP of open_clip"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_name(kind):
    make, error, words = REFUSED[kind]
    with pytest.raises(error, match=f"model: {words}"):
        Tower(make())


def test_position_embeddings_of_no_grid():
    model = siglip_of_transformers(layers=1, vocabulary=8)
    model.vision_model.embeddings.position_embedding = nn.Embedding(15, 64)
    with pytest.raises(ValueError, match="model: got 15 position embeddings, takes one for each patch of 3x3"):
        Tower(model)


def test_a_tokenizer_that_cannot_pad(clip, tokenizer):
    class NoPadding:
        __module__ = "transformers.tokenization_utils"
        pad_token = None

    with pytest.raises(ValueError, match="tokenizer: got NoPadding without a padding token"):
        text_features(clip, NoPadding(), PROMPTS)
