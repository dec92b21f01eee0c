"""open_clip models around timm's ViT, SigLIP's first: against their own forward pass, and refused by name."""

import open_clip
import pytest
import torch
from other_models import WithTimm, timm_trunk
from torch import nn
from torch.nn import functional

from cdam_fast import CDAMSegmenter
from cdam_fast.compat import TORCH, scaled_dot_product_attention
from cdam_fast.models import BASES, Tower, dense_features
from cdam_fast.models.blocks import join_heads

timm = pytest.importorskip("timm")
SIZES = {"short_side": 64, "window": 64, "stride": 32, "scales": (1.0,)}
needs_meta = pytest.mark.skipif(TORCH < (2, 0), reason="no torch.device as a context before PyTorch 2")
pytestmark = pytest.mark.filterwarnings("ignore:threshold:UserWarning")


def by_size(positions, grid):
    return functional.interpolate(positions, size=grid, mode="bicubic")


def projection(size=24):
    return nn.Sequential(nn.Dropout(0.0), nn.Linear(64, size, bias=False))


every_base = pytest.mark.parametrize("base", [name for name in BASES if name != "scclip"])  # which needs a CLS token
KINDS = {
    "siglip": lambda: WithTimm(timm_trunk()),
    "siglip_projected": lambda: WithTimm(timm_trunk(), projection()),
    "average": lambda: WithTimm(timm_trunk(global_pool="avg", fc_norm=False), projection()),
    "average_then_norm": lambda: WithTimm(timm_trunk(global_pool="avg", fc_norm=True, num_classes=24)),
    "cls": lambda: WithTimm(timm_trunk(class_token=True, global_pool="token", pre_norm=True), projection()),
    "cls_without_position": lambda: WithTimm(
        timm_trunk(class_token=True, global_pool="token", no_embed_class=True), projection()
    ),
    "layer_scale": lambda: WithTimm(timm_trunk(init_values=0.5, qkv_bias=True)),
}


def pooled(trunk, x):
    """What timm makes of the tokens after the last block, ``[B, L, width] -> [B, D]``."""
    return trunk.forward_head(trunk.norm(x))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_all_blocks_are_the_forward_pass(kind):
    model = KINDS[kind]().eval()
    pixels = torch.randn(2, 3, 64, 64)
    tower = Tower(model)
    x = tower.embed(pixels, by_size)
    for block in tower.blocks:
        x = block.run(x)
    features = model.visual.head(pooled(model.visual.trunk, x))
    torch.testing.assert_close(features, model.encode_image(pixels), rtol=0, atol=1e-5)
    assert tower.has_cls == kind.startswith("cls")
    assert tower.embedding_size == features.shape[1]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_feature_is_the_pooling_of_that_token_alone(kind):
    model = KINDS[kind]().eval()
    trunk = model.visual.trunk
    x = torch.randn(2, 5, 64)
    expected = []
    for image in x:
        for token in image:  # a CLS token before it is what timm reads, or leaves out
            alone = token[None, None].expand(1, 1 + trunk.num_prefix_tokens, 64)
            expected.append(model.visual.head(pooled(trunk, alone)))
    features = Tower(model).project_features(x)
    torch.testing.assert_close(features.flatten(0, 1), torch.cat(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_pieces_of_a_block_are_the_block(kind):
    x = torch.randn(2, 17, 64)
    for block in Tower(KINDS[kind]().eval()).blocks:
        tokens = block.normalise(x)
        queries, keys, values = (block.split_heads(block.project(tokens, part)) for part in "qkv")
        attended = join_heads(scaled_dot_product_attention(queries, keys, values))
        torch.testing.assert_close(block.add_mlp(x + block.output(attended)), block.run(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["siglip", "average", "cls", "cls_without_position"])
@torch.no_grad()
def test_positions_at_another_grid(kind):
    """Of a trunk that is given the resized embedding, and whose own forward pass then takes the other size."""
    model = KINDS[kind]().eval()
    trunk, pixels = model.visual.trunk, torch.randn(1, 3, 96, 32)
    x = Tower(model).embed(pixels, by_size)
    first = trunk.pos_embed.shape[1] - 16
    patches = trunk.pos_embed[0, first:].reshape(4, 4, 64).permute(2, 0, 1)[None]
    resized = functional.interpolate(patches, size=(6, 2), mode="bicubic")[0].permute(1, 2, 0).reshape(1, 12, 64)
    tokens = trunk.patch_embed.proj(pixels).flatten(2).mT
    if trunk.no_embed_class:
        tokens = tokens + resized
    if trunk.cls_token is not None:
        tokens = torch.cat((trunk.cls_token, tokens), 1)
    if not trunk.no_embed_class:
        tokens = tokens + torch.cat((trunk.pos_embed[:, :first], resized), 1)
    torch.testing.assert_close(x, trunk.norm_pre(tokens), rtol=0, atol=1e-5)


@every_base
@pytest.mark.parametrize("kind", ["siglip", "average", "cls"])
def test_a_copy_in_float64(kind, base):
    model, pixels = KINDS[kind]().eval(), torch.randn(1, 3, 64, 96)
    copied, chosen = Tower(model).to(torch.float64, None), BASES[base]
    with torch.no_grad():
        exact = chosen.first_pass(copied, chosen.prepare(copied, pixels.double()))
    torch.testing.assert_close(dense_features(model, pixels, base).double(), exact, rtol=0, atol=1e-5)


@every_base
def test_it_segments(base):
    model = KINDS["siglip"]().eval()
    options = {"text_features": torch.randn(3, 64), "augmented_prompts": False, "base": base, **SIZES}
    made = CDAMSegmenter(model, None, ["background", "cat", "dog"], **options)
    pixels = torch.randn(1, 3, 64, 96)
    expected = dense_features(model, pixels, base) @ made.texts.features.T
    torch.testing.assert_close(made.base_similarity(pixels).flatten(2).mT, expected)
    result = made(torch.rand(3, 64, 80))
    assert result.labels.shape == (64, 80)
    assert bool(torch.isfinite(result.word_logits).all())


def test_pixels_as_the_weights_were_trained():
    """open_clip's word on it, then timm's, then CLIP's."""
    model, given = KINDS["siglip"](), {"text_features": torch.eye(64)[:2], "augmented_prompts": False, **SIZES}
    image = torch.rand(3, 64, 64)

    def normalised():
        return CDAMSegmenter(model, None, ["background", "cat"], **given).normalise(image)

    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    deviation = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    torch.testing.assert_close(normalised(), (image - mean) / deviation)
    model.visual.trunk.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    torch.testing.assert_close(normalised(), 2 * image - 1)
    model.visual.image_mean, model.visual.image_std = (0.0, 0.0, 0.0), (0.25, 0.25, 0.25)
    torch.testing.assert_close(normalised(), 4 * image)


def test_wrapped_trunks():
    model, pixels = KINDS["siglip"]().eval(), torch.randn(1, 3, 64, 96)
    expected = dense_features(model, pixels)
    model.visual.trunk = nn.DataParallel(model.visual.trunk)
    assert torch.equal(dense_features(nn.DataParallel(model), pixels), expected)


# --- open_clip's own configurations


SIGLIP = ["ViT-B-16-SigLIP", "ViT-SO400M-14-SigLIP-384", "ViT-B-32-SigLIP2-256"]
OTHERS = {
    "EVA02-B-16": "the image tower Eva of timm",
    "ViTamin-S": "the patch embedding HybridEmbed of timm",
    "MobileCLIP-B": "the patch embedding HybridEmbed of timm",
    "PE-Core-T-16-384": "the image tower Eva of timm",
}


def on_meta(name):
    config = open_clip.get_model_config(name)
    if config is None:
        pytest.skip(f"open_clip: this version has no {name}")
    text = {"context_length": 8, "vocab_size": 16, "heads": 1, "width": 16, "layers": 1}
    try:
        with torch.device("meta"):
            return open_clip.CustomTextCLIP(config["embed_dim"], config["vision_cfg"], text)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"timm: this version does not make {name} without memory: {error}")


@needs_meta
@pytest.mark.parametrize("name", SIGLIP)
def test_siglip_of_open_clip_is_taken(name):
    tower = Tower(on_meta(name))
    config = open_clip.get_model_config(name)
    assert not tower.has_cls
    assert tower.embedding_size == config["embed_dim"]
    assert tower.trained_grid[0] * tower.patch[0] <= config["vision_cfg"]["image_size"]


@needs_meta
@pytest.mark.parametrize("name", OTHERS)
def test_other_towers_of_timm_are_refused_by_name(name):
    model = on_meta(name)
    with pytest.raises(ValueError, match=f"model: got {OTHERS[name]}"):
        Tower(model)


# --- what changes the attention or the pooling is refused by name


def with_pool():
    head = projection()
    head.pool = nn.Flatten()
    return WithTimm(timm_trunk(global_pool="", num_classes=0), head)


def renamed(name, trunk=None):
    trunk = trunk or timm_trunk()
    trunk.__class__ = type(name, (type(trunk),), {})
    return WithTimm(trunk)


def overlapping():
    trunk = timm_trunk()
    trunk.patch_embed.proj.stride = (8, 8)
    return WithTimm(trunk)


def other_block():
    trunk = timm_trunk()
    trunk.blocks[1] = timm.models.vision_transformer.ParallelScalingBlock(64, 2)
    return WithTimm(trunk)


REFUSED = {
    "registers": (lambda: WithTimm(timm_trunk(reg_tokens=2)), "an image tower of timm with register tokens"),
    "queries": (lambda: WithTimm(timm_trunk(qk_norm=True)), "attention of timm with normalised queries"),
    "maximum": (lambda: WithTimm(timm_trunk(global_pool="max")), "the pooling 'max' of timm"),
    "open_clips_pool": (with_pool, "the pooling 'Flatten' of timm"),
    "no_positions": (
        lambda: WithTimm(timm_trunk(pos_embed="none")),
        "the image tower VisionTransformer without pos_emb",
    ),
    "subclass": (lambda: renamed("VisionTransformerDistilled"), "the image tower VisionTransformerDistilled of timm"),
    "overlapping": (overlapping, "patches that overlap or are padded"),
    "block": (other_block, "blocks ParallelScalingBlock with attention"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_name(kind):
    make, words = REFUSED[kind]
    with pytest.raises(ValueError, match=f"model: got {words}"):
        Tower(make())


def test_a_vit_of_timm_alone_is_refused():
    with pytest.raises(TypeError, match="model: got VisionTransformer without an image tower"):
        Tower(timm_trunk())
