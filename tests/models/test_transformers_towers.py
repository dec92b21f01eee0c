"""transformers' CLIP and SigLIP against their own forward passes, and against the same weights elsewhere."""

import inspect

import pytest
import torch
from other_models import (
    Adapted,
    as_open_clip,
    as_timm,
    clip_config,
    clip_of_transformers,
    plain_siglip,
    siglip_of_transformers,
    transformers,
)
from torch import nn
from torch.nn import functional
from towers import WRITTEN_OUT

from cdam_fast.compat import refusal_of_dtype, scaled_dot_product_attention
from cdam_fast.models import BASES, Tower, dense_features
from cdam_fast.models.blocks import join_heads

package = transformers()
every_base = pytest.mark.parametrize("base", WRITTEN_OUT)
both = pytest.mark.parametrize("make", [clip_of_transformers, siglip_of_transformers], ids=["clip", "siglip"])


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


def test_the_image_tower_of_siglip_alone(siglip):
    alone = package.SiglipVisionModel(siglip.config.vision_config).eval()
    inside = getattr(alone, "vision_model", alone)
    inside.load_state_dict(siglip.vision_model.state_dict())
    pixels = torch.randn(1, 3, 64, 64)
    assert torch.equal(dense_features(alone, pixels), dense_features(siglip, pixels))


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
    assert Tower(clip).to(torch.float64, None).dtype == torch.float64
    assert all(torch.equal(value, before[name]) for name, value in clip.state_dict().items())
    assert Tower(clip).to(torch.float32, "cpu").blocks[0].module is clip.vision_model.encoder.layers[0]


class Adapter(nn.Module):
    """As PEFT's LoRA layers: around a projection, which it adds to."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer, self.down = base_layer, nn.Linear(64, 2, bias=False)
        self.up = nn.Linear(2, base_layer.out_features, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


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
