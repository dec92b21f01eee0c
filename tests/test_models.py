"""Dense CLIP features against a plain statement of them on a small random model."""

import open_clip
import pytest
import torch

from cdam_fast.evaluation.inputs import MODEL
from cdam_fast.models import maskclip_features, text_features


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    tower = {"width": 64, "layers": 2}
    vision = {"image_size": 64, "patch_size": 16, "head_width": 32, **tower}
    text = {"context_length": 77, "vocab_size": 49408, "heads": 2, **tower}
    return open_clip.CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text).eval()


def test_text_features_equal_the_models_own(model):
    prompts = ["a photo of a cat.", "sky", "a photo of a dark blue potted plant near a dining table."]
    tokenizer = open_clip.get_tokenizer(MODEL)
    with torch.no_grad():
        expected = model.encode_text(tokenizer(prompts), normalize=True)
    torch.testing.assert_close(text_features(model, tokenizer, prompts), expected, rtol=1e-4, atol=1e-5)


def test_maskclip_features_by_hand(model):
    """One block, then the last block with attention as the identity."""
    pixels = torch.randn(2, 3, 64, 64)
    visual = model.visual
    with torch.no_grad():
        x = visual.conv1(pixels).flatten(2).mT
        x = torch.cat((visual.class_embedding.expand(2, 1, -1), x), 1) + visual.positional_embedding
        first, last = visual.transformer.resblocks
        x = visual.ln_pre(x)
        # older open_clip puts the tokens first
        x = first(x) if first.attn.batch_first else first(x.transpose(0, 1)).transpose(0, 1)
        values = last.ln_1(x) @ last.attn.in_proj_weight[128:].T + last.attn.in_proj_bias[128:]
        x = x + last.attn.out_proj(values)
        x = x + last.mlp(last.ln_2(x))
        features = (visual.ln_post(x) @ visual.proj)[:, 1:]
        expected = features / features.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(maskclip_features(model, pixels), expected, rtol=1e-4, atol=1e-5)


def test_the_model_is_left_as_it_was(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    maskclip_features(model, torch.randn(1, 3, 64, 64))
    text_features(model, open_clip.get_tokenizer(MODEL), ["cat"])
    assert not model.visual.transformer.resblocks[-1]._forward_pre_hooks
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
