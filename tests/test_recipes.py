"""README's drop-in recipes, in code of the same shape as what they go into."""

import open_clip
import pytest
import torch
from torch.nn import functional
from towers import small_model

from cdam_fast import CDAMSegmenter, cdam_attend, cdam_attention, reference

CLASSES, AUGMENTED, SIDE = 5, 9, 96  # 6 x 6 patches


@pytest.fixture(scope="module")
def texts():
    return functional.normalize(
        torch.randn(CLASSES + AUGMENTED, 32, generator=torch.Generator().manual_seed(0)), dim=-1
    )


@pytest.fixture(scope="module")
def model():
    return small_model()


def pixels(count=1):
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


# --- a segmentor that hands the last block a [heads, N+1, N+1] weight for bmm


class Segmentor:
    """One image at a time, tokens first, heads in the batch of bmm: the shape of the released segmentor."""

    def __init__(self, model, texts, make_weight):
        self.visual, self.texts, self.make_weight = model.visual, texts, make_weight

    def forward_feature(self, img, logit_size=None):
        x = self.before_the_last_block(img).permute(1, 0, 2)  # [N+1, 1, width]
        block = self.visual.transformer.resblocks[-1]
        grid = (img.shape[-2] // 16, img.shape[-1] // 16)
        features = self.after_the_last_block(x + self.attention(block, block.ln_1(x), None))
        logits_no_inter = (features @ self.texts.T).permute(0, 2, 1).reshape(1, -1, *grid)
        weight = self.make_weight(logits_no_inter, block.attn.num_heads)
        features = self.after_the_last_block(x + self.attention(block, block.ln_1(x), weight))
        logits = (features @ self.texts[:CLASSES].T).permute(0, 2, 1).reshape(1, -1, *grid)
        size = img.shape[-2:] if logit_size is None else logit_size
        return functional.interpolate(logits, size=size, mode="bilinear")

    def before_the_last_block(self, img):
        visual = self.visual
        x = visual.conv1(img).flatten(2).permute(0, 2, 1)
        positions = visual.positional_embedding
        patches = positions[1:].reshape(1, *visual.grid_size, -1).permute(0, 3, 1, 2)
        scale = [(side // 16 + 0.1) / trained for side, trained in zip(img.shape[-2:], visual.grid_size)]
        patches = functional.interpolate(patches, scale_factor=scale, mode="bicubic").flatten(2).permute(0, 2, 1)
        x = torch.cat((visual.class_embedding.expand(1, 1, -1), x), 1) + torch.cat((positions[None, :1], patches), 1)
        x = visual.ln_pre(x)
        for block in visual.transformer.resblocks[:-1]:
            x = block(x) if block.attn.batch_first else block(x.transpose(0, 1)).transpose(0, 1)
        return x

    def attention(self, block, x, weight):
        tokens, batch, width = x.shape
        v = functional.linear(x, block.attn.in_proj_weight, block.attn.in_proj_bias)[..., 2 * width :]
        v = v.reshape(tokens, batch * block.attn.num_heads, -1).transpose(0, 1)
        out = v if weight is None else torch.bmm(weight, v)
        return block.attn.out_proj(out.transpose(0, 1).reshape(tokens, batch, width))

    def after_the_last_block(self, x):
        block = self.visual.transformer.resblocks[-1]
        x = x + block.mlp(block.ln_2(x))
        features = self.visual.ln_post(x.permute(1, 0, 2)) @ self.visual.proj
        return functional.normalize(features, dim=-1)[:, 1:]


def eager_weight(logits_no_inter, heads):
    patches = logits_no_inter.shape[-2] * logits_no_inter.shape[-1]
    weight = torch.zeros(heads, patches + 1, patches + 1)
    weight[:, 1:, 1:] = reference.cdam_attention(logits_no_inter)[0]
    return weight


# --- an mmseg-style segmentor: forward_feature, forward_slide, predict


class FastSegmentor:
    """README: an mmseg segmentor around ours; its data preprocessor has normalised the images."""

    def __init__(self, model, texts):
        names = [f"class {i}" for i in range(CLASSES)]
        given = {"text_features": texts[:CLASSES], "augmented_text_features": texts[CLASSES:]}
        self.segmenter = CDAMSegmenter(model, None, names, background=None, **given)

    def forward_feature(self, img, logit_size=None):
        logits = self.segmenter.patch_logits(img)
        return functional.interpolate(logits, size=logit_size or img.shape[-2:], mode="bilinear")


def forward_slide(forward_feature, img, crop, stride):
    """Windows of one size over images of one size, logits averaged."""
    height, width = img.shape[-2:]
    total, count = 0, torch.zeros(1, 1, height, width)
    for y in range((max(height - crop + stride - 1, 0)) // stride + 1):
        for x in range((max(width - crop + stride - 1, 0)) // stride + 1):
            top, left = max(min(y * stride + crop, height) - crop, 0), max(min(x * stride + crop, width) - crop, 0)
            logits = forward_feature(img[:, :, top : top + crop, left : left + crop])
            around = (left, width - left - crop, top, height - top - crop)
            total = total + functional.pad(logits, around)
            count += functional.pad(torch.ones(1, 1, crop, crop), around)
    return total / count


@torch.no_grad()
def test_an_mmseg_segmentor(model, texts):
    ours, eager = FastSegmentor(model, texts), Segmentor(model, texts, eager_weight)
    images = pixels(2)
    expected = torch.cat([eager.forward_feature(image[None]) for image in images])
    torch.testing.assert_close(ours.forward_feature(images), expected, rtol=0, atol=1e-5)
    smaller = ours.forward_feature(images, (50, 70))
    assert smaller.shape == (2, CLASSES, 50, 70)


@torch.no_grad()
def test_an_mmseg_slide_equals_our_windows(model, texts):
    image = torch.rand(3, 96, 136, generator=torch.Generator().manual_seed(2))
    ours = FastSegmentor(model, texts)
    names = [f"class {i}" for i in range(CLASSES)]
    made = CDAMSegmenter(
        model,
        None,
        names,
        background=None,
        text_features=texts[:CLASSES],
        augmented_text_features=texts[CLASSES:],
        short_side=96,
        window=96,
        stride=48,
    )
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    deviation = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    expected = forward_slide(ours.forward_feature, ((image - mean) / deviation)[None], 96, 48)
    torch.testing.assert_close(made(image).logits, expected[0], rtol=0, atol=1e-5)


# --- few-shot segmentation with prototypes


def eager_few_shot(similarity):
    """One map at a time, one scale, min-max before the softmax only: [batch, shots, C, h, w] -> [..., N, N]."""
    maps = []
    for image in similarity.flatten(0, 1):
        p = torch.softmax(image.flatten(1).T / 0.1, -1)
        first, second = p[:, None], p[None]
        m = (first + second) / 2
        js = ((first * (first / m).log()).sum(-1) + (second * (second / m).log()).sum(-1)) / 2
        agreement = 1 - js
        low, high = agreement.amin(-1, keepdim=True), agreement.amax(-1, keepdim=True)
        maps.append(torch.softmax((agreement - low) / (high - low + 1e-8) / 0.1, -1))
    return torch.stack(maps).unflatten(0, similarity.shape[:2])


def test_prototypes_of_several_shots():
    batch, shots, prototypes, side = 2, 3, 17, 7
    query = functional.normalize(torch.randn(batch, 1, side * side, 32), dim=-1)
    support = functional.normalize(torch.randn(batch, shots, prototypes, 32), dim=-1)
    similarity = (support @ query.mT).unflatten(-1, (side, side))  # [batch, shots, C, h, w]
    attention = cdam_attention(similarity, scales=(1.0,), minmax=(True, False))
    expected = eager_few_shot(similarity.double())
    assert attention.shape == (batch, shots, side * side, side * side)
    torch.testing.assert_close(attention.double(), expected, rtol=0, atol=3e-5)
    masks = torch.rand(batch, shots, side * side, 2)
    spread = cdam_attend(similarity, masks, scales=(1.0,), minmax=(True, False))
    torch.testing.assert_close(spread.double(), expected @ masks.double(), rtol=0, atol=1e-4)
