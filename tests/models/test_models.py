"""Dense and text features against plain statements of them on small random models."""

import open_clip
import pytest
import torch
from cases import float16_of_models, needs_meta
from torch import nn
from towers import WRITTEN_OUT, last_attention, plain_features, small_model

from cdam_fast.measuring.inputs import MODEL
from cdam_fast.models import BASES, Tower, check_base, class_features, dense_features, text_features

every_base = pytest.mark.parametrize("base", WRITTEN_OUT)

TOWERS = {
    "plain": {},
    "quick_gelu": {"quick_gelu": True},
    "layer_scale": {"ls_init_value": 0.5},
    "patch32": {"patch": 32, "image": 96},
    "8_blocks": {"layers": 8},
    "1_block": {"layers": 1},
    "no_ln_pre": {"no_ln_pre": True},
    "sin_cos": {"pos_embed_type": "sin_cos_2d"},
    "custom_text": {"custom_text": True},
}
SIZES = {"trained": (64, 64), "larger": (96, 96), "wide": (32, 160), "same_count": (32, 128)}


@pytest.fixture(scope="module")
def model():
    return small_model(layers=2)


@pytest.fixture(scope="module")
def tokenizer():
    return open_clip.get_tokenizer(MODEL)


@every_base
@pytest.mark.parametrize("tower", TOWERS)
def test_every_base_on_every_tower(base, tower):
    model = small_model(**TOWERS[tower]).double()
    pixels = (
        torch.randn(2, 3, 128, 64, dtype=torch.float64) if tower != "patch32" else torch.randn(2, 3, 64, 96).double()
    )
    expected = torch.stack([plain_features(model, image, base) for image in pixels])
    torch.testing.assert_close(dense_features(model, pixels, base), expected, rtol=1e-9, atol=1e-10)


@every_base
@pytest.mark.parametrize("size", SIZES)
def test_every_base_at_every_size(base, size):
    model = small_model()
    pixels = torch.randn(2, 3, *SIZES[size])
    expected = torch.stack([plain_features(model.double(), image.double(), base) for image in pixels])
    torch.testing.assert_close(dense_features(model.float(), pixels, base).double(), expected, rtol=0, atol=2e-6)


@every_base
def test_second_pass_is_the_map_in_the_place_of_the_attention(base):
    model = small_model(layers=7).double()
    pixels = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    attention = torch.rand(2, 24, 24, dtype=torch.float64)
    tower, chosen = Tower(model), BASES[base]
    with torch.no_grad():
        last = chosen.prepare(tower, pixels)
        features = chosen.finish(tower, last, attention @ last.patch_values)
    expected = [plain_features(model, *both) for both in zip(pixels, [base] * 2, attention)]
    torch.testing.assert_close(features, torch.stack(expected), rtol=1e-9, atol=1e-10)


@every_base
def test_attention_of_the_base_applied_to_the_values(base):
    """In a model of one head, the mean over heads applied to the patches' values, the CLS token's share apart."""
    model = small_model(layers=2, head_width=64).double()
    tower, chosen = Tower(model), BASES[base]
    with torch.no_grad():
        last = chosen.prepare(tower, torch.randn(2, 3, 64, 96, dtype=torch.float64))
        weights = chosen.attention(tower, last)
        attended = last_attention(model.visual.transformer.resblocks[-1], last.tokens[1], base)[1:]
    row_sum = 2 if base == "sclip" else 1
    cls_share = row_sum - weights[1].sum(-1)
    expected = weights[1] @ last.values[1, 1:] + cls_share[:, None] * last.values[1, :1]
    assert weights.shape == (2, 24, 24)
    torch.testing.assert_close(attended, expected)


@every_base
@pytest.mark.parametrize("dtype", [float16_of_models, torch.bfloat16], ids=str)
def test_half_precision(base, dtype):
    model = small_model(layers=7)
    pixels = torch.randn(1, 3, 96, 96)
    expected = dense_features(model, pixels, base)
    features = dense_features(model.to(dtype), pixels, base)
    assert features.dtype == torch.float32
    error = (features - expected).norm(dim=-1)
    assert error.max() < (0.02 if dtype == torch.float16 else 0.15)


@pytest.mark.parametrize("base", BASES)
def test_the_model_is_left_as_it_was(base):
    model = small_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    features = dense_features(model, torch.randn(1, 3, 96, 64), base)
    assert not features.requires_grad
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_patch_dropout_drops_no_patch():
    model = small_model(patch_dropout=0.5).train()
    pixels = torch.randn(1, 3, 64, 64)
    expected = plain_features(model.eval(), pixels[0], "sclip")
    torch.testing.assert_close(dense_features(model.train(), pixels, "sclip")[0], expected, rtol=1e-4, atol=1e-5)


# --- bad models and pixels


def residual_network():
    text = {"context_length": 8, "vocab_size": 16, "heads": 1, "width": 16, "layers": 1}
    return open_clip.CLIP(8, {"image_size": 32, "layers": (1, 1, 1, 1), "width": 8}, text)


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: "ViT-B-16", TypeError, "model: got str"),
        (lambda: nn.Linear(2, 2), TypeError, "model: got Linear without an image tower"),
        (residual_network, ValueError, "model: got the image tower ModifiedResNet"),
        (lambda: small_model(attentional_pool=True, attn_pooler_heads=2), ValueError, "attentional pooling"),
    ],
    ids=["str", "linear", "resnet", "attentional_pool"],
)
def test_bad_models(make, error, named):
    with pytest.raises(error, match=named):
        Tower(make())


def image_towers():
    """open_clip's own model configurations, less timm's, which are other towers."""
    configs = ((name, open_clip.get_model_config(name)) for name in open_clip.list_models())
    return {name: config for name, config in configs if "timm_model_name" not in config["vision_cfg"]}


@needs_meta
@pytest.mark.parametrize("name", image_towers())
def test_every_tower_of_open_clip_is_taken_or_refused_by_name(name):
    config = image_towers()[name]
    text = {"context_length": 8, "vocab_size": 16, "heads": 1, "width": 16, "layers": 1}
    with torch.device("meta"):
        model = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], text, config.get("quick_gelu", False))
    refused = "RN50" in name or "RN101" in name or name in ("coca_ViT-B-32", "coca_ViT-L-14")
    if refused:
        with pytest.raises(ValueError, match="model: got"):
            Tower(model)
    else:
        assert Tower(model).embedding_size == config["embed_dim"]
        assert 448 % Tower(model).patch[0] == 0 or name == "coca_base"


def test_another_attention_is_refused():
    model = small_model()
    model.visual.transformer.resblocks[0].attn = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="model: got attention of type Linear"):
        Tower(model)


@pytest.mark.parametrize(
    ("pixels", "error", "named"),
    [
        ("photo.jpg", TypeError, "pixels: got str"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), TypeError, "pixels: got dtype torch.uint8"),
        (torch.zeros(3, 64, 64), ValueError, "pixels: got shape"),
        (torch.zeros(1, 4, 64, 64), ValueError, "pixels: got shape"),
        (torch.zeros(0, 3, 64, 64), ValueError, "pixels: got shape"),
        (
            torch.zeros(1, 3, 64, 65),
            ValueError,
            "pixels: got 64x65, takes sides that are multiples",
        ),
        (torch.zeros(1, 3, 64, 64, device="meta"), ValueError, "pixels: got device meta"),
    ],
    ids=["str", "uint8", "3_dims", "4_channels", "empty", "not_whole_patches", "device"],
)
def test_bad_pixels(model, pixels, error, named):
    with pytest.raises(error, match=named):
        dense_features(model, pixels)


@pytest.mark.parametrize("base", ["clip", None, 3, "MaskCLIP"])
def test_bad_base(base):
    error = ValueError if isinstance(base, str) else TypeError
    with pytest.raises(error, match=r"base: got .* takes .*one of 'maskclip', 'sclip', 'clearclip', 'gem'"):
        check_base(base)


# --- text

PROMPTS = ["a photo of a cat.", "sky", "a photo of a dark blue potted plant near a dining table."]


@pytest.mark.parametrize("custom", [False, True], ids=["clip", "custom_text"])
def test_text_features_equal_the_models_own(custom, tokenizer):
    model = small_model(custom_text=custom)
    with torch.no_grad():
        expected = model.encode_text(tokenizer(PROMPTS), normalize=True)
    torch.testing.assert_close(text_features(model, tokenizer, PROMPTS), expected, rtol=1e-4, atol=1e-5)


def test_text_of_a_tower_that_is_not_causal(tokenizer):
    """Its attention sees the padding, which must not be cut off."""
    torch.manual_seed(0)
    text = {"context_length": 77, "vocab_size": 49408, "heads": 2, "width": 64, "layers": 2, "no_causal_mask": True}
    vision = {"image_size": 32, "patch_size": 16, "head_width": 32, "width": 64, "layers": 1}
    model = open_clip.CLIP(32, vision, text).eval()
    with torch.no_grad():
        expected = model.encode_text(tokenizer(PROMPTS), normalize=True)
    torch.testing.assert_close(text_features(model, tokenizer, PROMPTS), expected, rtol=1e-4, atol=1e-5)


def test_class_features_equal_open_clips_zero_shot_classifier(model, tokenizer):
    words, templates = ["cat", "potted plant"], open_clip.OPENAI_IMAGENET_TEMPLATES
    expected = open_clip.build_zero_shot_classifier(model, tokenizer, words, templates).T
    heard = []
    features = class_features(model, tokenizer, words, templates, on_progress=heard.append)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert heard[-1] == 2
