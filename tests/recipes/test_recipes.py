"""The recipes for any mmseg segmentor and for prototypes, in code of the shape of what they go into."""

import open_clip
import pytest
import torch
from documentation import execute, recipe
from released_clip import CLIP, VisionTransformer, images, tokenize
from released_sclip import CLIPForSegmentation, data_sample, word_features
from torch.nn import functional

from cdam_fast import AUGMENTED_TEXT_PROMPTS, reference

LINES = ["sky, wall, grass, road", "cat", "dog", "sofa, couch", "car", "bird", "horse, pony", "cow"]

# --- any mmseg segmentor, with synonyms


def taught(monkeypatch, change=("", "")):
    class Taught(CLIPForSegmentation):
        pass

    block = recipe("Any mmseg segmentor")
    assert change[0] in block.code
    block = block._replace(code=block.code.replace(*change)) if change[0] else block
    modules = {"clip": {"tokenize": tokenize}, "clip_segmentor": {"CLIPForSegmentation": Taught}}
    execute(block, monkeypatch, modules)
    return Taught


class Eager(CLIPForSegmentation):
    """SCLIP with the map of the reference, one image and one head at a time."""

    def forward_feature(self, img, logit_size=None):
        net, block = self.net, self.net.visual.transformer.resblocks[-1]
        templates = open_clip.OPENAI_IMAGENET_TEMPLATES
        texts = torch.cat((self.query_features, word_features(AUGMENTED_TEXT_PROMPTS, net.encode_text, templates)))
        grid = [side // 16 for side in img.shape[-2:]]
        logits = []
        for one in img:
            first = functional.normalize(net.encode_image(one[None], return_all=True)[0, 1:], dim=-1)
            attention = reference.cdam_attention((texts @ first.T).reshape(-1, *grid))
            x = net.visual.before_the_last_block(one[None])[:, 0]
            v = (block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, -1)[2]
            heads = [torch.cat((torch.zeros_like(head[:1]), attention @ head[1:])) for head in v.chunk(12, -1)]
            y = x + block.attn.out_proj(torch.cat(heads, -1))
            y = net.visual.ln_post(y + block.mlp(block.ln_2(y))) @ net.visual.proj
            logits.append((self.query_features @ functional.normalize(y[1:], dim=-1).T).reshape(-1, *grid))
        return self.upsampled(torch.stack(logits), img, logit_size)


@pytest.fixture(scope="module")
def net():
    return CLIP(VisionTransformer()).double()


def predicted(kind, net, img, **options):
    made = kind(net, LINES, slide_crop=96, slide_stride=48, **options)
    return made.predict(img, [data_sample(*img.shape[-2:]) for _ in img])


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3])
def test_words_slide_and_become_classes(monkeypatch, net, batch):
    img = images(batch, (96, 160)).double()
    options = {"prob_thd": 0.3}
    expected = predicted(Eager, net, img, **options)
    results = predicted(taught(monkeypatch), net, img, **options)
    for result, eager in zip(results, expected):
        torch.testing.assert_close(result.seg_logits, eager.seg_logits, rtol=0, atol=1e-5)
        assert torch.equal(result.pred_sem_seg, eager.pred_sem_seg)
    assert len(torch.stack([result.pred_sem_seg for result in results]).unique()) > 2


@torch.no_grad()
def test_without_sliding_the_size_is_the_photograph_s(monkeypatch, net):
    made = taught(monkeypatch)(net, LINES, slide_crop=0)
    (result,) = made.predict(images(1, (96, 128)).double(), [data_sample(50, 70)])
    assert result.pred_sem_seg.shape == (1, 50, 70)


@torch.no_grad()
def test_classes_in_place_of_words_are_caught(monkeypatch, net):
    """What the segmentor slides and softmaxes are words; the logits of classes do not fit."""
    with pytest.raises(RuntimeError, match="must match"):
        predicted(taught(monkeypatch, ("word_logits", "patch_logits")), net, images(1, (96, 160)).double())


# --- few-shot segmentation with prototypes


def eager_refine(query, prototypes, coefficient):
    """One image and one shot at a time: the attention of each shot, their mean, and what it attends to."""
    results = []
    for features, shots in zip(query.flatten(2), prototypes):
        maps = []
        for shot in shots:
            cosines = functional.cosine_similarity(shot[:, :, None], features[None], dim=1)
            p = torch.softmax(cosines.T / 0.1, -1)  # [N, C]
            first, second = p[:, None], p[None]
            m = (first + second) / 2
            js = ((first * (first / m).log()).sum(-1) + (second * (second / m).log()).sum(-1)) / 2
            low, high = (1 - js).amin(-1, keepdim=True), (1 - js).amax(-1, keepdim=True)
            maps.append(torch.softmax((1 - js - low) / (high - low + 1e-8) / 0.1, -1))
        results.append(features + coefficient * (features @ torch.stack(maps).mean(0).T))
    return torch.stack(results).reshape(query.shape)


@pytest.mark.parametrize(("batch", "shots", "prototypes"), [(1, 1, 71), (2, 5, 17)], ids=["B1-S1-C71", "B2-S5-C17"])
def test_prototypes_of_several_shots(monkeypatch, batch, shots, prototypes):
    refine = execute(recipe("Prototypes in place of prompts"), monkeypatch)["refine"]
    query = torch.randn(batch, 32, 7, 9)
    support = torch.randn(batch, shots, prototypes, 32)
    expected = eager_refine(query.double(), support.double(), 0.5)
    torch.testing.assert_close(refine(query.double(), support.double(), 0.5), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(refine(query, support, 0.5).double(), expected, rtol=0, atol=2e-4)


def test_prototypes_are_learned(monkeypatch):
    refine = execute(recipe("Prototypes in place of prompts"), monkeypatch)["refine"]
    query = torch.randn(1, 8, 4, 4, dtype=torch.float64, requires_grad=True)
    support = torch.randn(1, 2, 5, 8, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(1, 8, 4, 4, dtype=torch.float64)
    of_ours = torch.autograd.grad((refine(query, support) * weights).sum(), (query, support))
    of_eager = torch.autograd.grad((eager_refine(query, support, 1.0) * weights).sum(), (query, support))
    for ours, eager in zip(of_ours, of_eager):
        torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-7)
