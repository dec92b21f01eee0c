"""The recipes that give SCLIP's and ClearCLIP's code the map, run in code of their structure."""

import pytest
import torch
from documentation import execute, recipe
from released_clearclip import ClearCLIPSegmentation, ForkedCLIP
from released_clip import CLIP, VisionTransformer, convert_weights, images, templates, tokenize
from released_sclip import CLIPForSegmentation, data_sample, word_features
from torch.nn import functional

from cdam_fast import AUGMENTED_TEXT_PROMPTS, CDAMSegmenter, compat, reference
from cdam_fast.testing import MAP_BUDGET, largest_error

LINES = ["sky, wall, grass, road", "cat", "dog", "sofa, couch", "car", "bird", "horse, pony", "cow"]
MODULES = {
    "clip": {"tokenize": tokenize},
    "prompts": {},
    "prompts.imagenet_template": {"openai_imagenet_template": templates},
}


def taught(heading, original, monkeypatch):
    """The segmentor after the recipe was run beside it, and the weights that it attends with from then on."""

    class Taught(original):
        pass

    name = "clip_segmentor" if original is CLIPForSegmentation else "clearclip_segmentor"
    namespace = execute(recipe(heading), monkeypatch, {**MODULES, name: {original.__name__: Taught}})
    make, weights = namespace["with_cls_token"], []

    def watched(attention, **options):
        weights.append(make(attention, **options))
        return weights[-1]

    namespace["with_cls_token"] = watched
    return Taught, weights


def eager(net, x, weight, residual):
    """The last block by a map [N, N] in eager code, one image and one head at a time: [N+1, width] -> [N, D]."""
    block = net.visual.transformer.resblocks[-1]
    width = x.shape[-1]
    v = block.ln_1(x) @ block.attn.in_proj_weight[2 * width :].T + block.attn.in_proj_bias[2 * width :]
    heads = [torch.cat((torch.zeros_like(head[:1]), weight @ head[1:])) for head in v.chunk(12, -1)]
    y = torch.cat(heads, -1) @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
    if residual:
        y = x + y
        y = y + block.mlp(block.ln_2(y))
    features = (net.visual.ln_post(y) @ net.visual.proj)[1:]
    return functional.normalize(features, dim=-1)


def check(original, made, weights, img, first_pass, residual):
    """Labels, logits and map of each image against the eager computation in float64."""
    net = original.net
    logits = made.forward_feature(img)
    weight = weights.pop().unflatten(0, (len(img), 12))
    augmented = word_features(AUGMENTED_TEXT_PROMPTS, net.encode_text)
    texts = torch.cat((original.query_features, augmented))
    grid = [side // 16 for side in img.shape[-2:]]
    for i, one in enumerate(img):
        first = functional.normalize(first_pass(one[None])[0], dim=-1)
        attention = reference.cdam_attention((texts @ first.T).reshape(-1, *grid))
        assert largest_error(weight[i, :, 1:, 1:].double(), attention.expand(12, -1, -1)) <= MAP_BUDGET
        assert weight[i, :, 0].count_nonzero() == weight[i, ..., 0].count_nonzero() == 0
        x = net.visual.before_the_last_block(one[None])[:, 0]
        second = eager(net, x, attention, residual) @ original.query_features.T
        expected = original.upsampled(second.T.reshape(1, -1, *grid), one[None], None)[0]
        torch.testing.assert_close(logits[i].double(), expected, rtol=0, atol=1e-7)
        assert torch.equal(logits[i].argmax(0), expected.argmax(0))
        assert len(expected.argmax(0).unique()) > 1
    base = original.forward_feature(img)
    assert not torch.equal(base.argmax(1), logits.argmax(1))
    assert made.forward_feature(img, (50, 70)).shape == (len(img), original.num_queries, 50, 70)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(128, 128), (128, 160)], ids=["square", "wide"])
def test_sclip(monkeypatch, batch, size):
    net = CLIP(VisionTransformer()).double()
    kind, weights = taught("SCLIP's code", CLIPForSegmentation, monkeypatch)
    original, made = CLIPForSegmentation(net, LINES), kind(net, LINES)
    img = images(batch, size).double()
    check(original, made, weights, img, lambda one: net.encode_image(one, return_all=True)[:, 1:], residual=True)


def test_heads_in_another_order_are_caught(monkeypatch):
    net = CLIP(VisionTransformer()).double()
    kind, weights = taught("SCLIP's code", CLIPForSegmentation, monkeypatch)
    names = kind.forward_feature.__wrapped__.__globals__
    watched = names["with_cls_token"]

    def heads_apart(attention, heads):
        watched(attention, heads=heads)
        return functional.pad(attention, (1, 0, 1, 0)).repeat(heads, 1, 1)

    names["with_cls_token"] = heads_apart
    original, made = CLIPForSegmentation(net, LINES), kind(net, LINES)
    img = images(3).double()
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        check(original, made, weights, img, lambda one: net.encode_image(one, return_all=True)[:, 1:], residual=True)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("ignore_residual", [True, False], ids=["dropped", "kept"])
@pytest.mark.parametrize("model_type", ["ClearCLIP", "SCLIP", "MaskCLIP", "vanilla"])
def test_clearclip(monkeypatch, batch, ignore_residual, model_type):
    net = ForkedCLIP().double()
    kind, weights = taught("ClearCLIP's code", ClearCLIPSegmentation, monkeypatch)
    options = {"model_type": model_type, "ignore_residual": ignore_residual}
    original, made = ClearCLIPSegmentation(net, LINES, **options), kind(net, LINES, **options)
    img = images(batch).double()
    first_pass = lambda one: net.encode_image(one, model_type, ignore_residual)  # noqa: E731
    check(original, made, weights, img, first_pass, residual=not ignore_residual)


@pytest.mark.parametrize("options", [{"clip_type": "BLIP"}, {"model_type": "GEM"}], ids=str)
def test_what_has_no_last_block_of_that_kind_is_refused(monkeypatch, options):
    kind, _ = taught("ClearCLIP's code", ClearCLIPSegmentation, monkeypatch)
    with pytest.raises(ValueError, match="takes CLIP with a base method in its last block, got"):
        kind(ForkedCLIP(), LINES, **options).forward_feature(images(1))


@pytest.mark.parametrize(
    ("heading", "original", "net"),
    [
        ("SCLIP's code", CLIPForSegmentation, lambda: CLIP(VisionTransformer())),
        ("ClearCLIP's code", ClearCLIPSegmentation, ForkedCLIP),
    ],
    ids=["sclip", "clearclip"],
)
def test_sliding_a_batch_in_float32(monkeypatch, heading, original, net):
    """The segmentor's own windows, words, classes and threshold around the recipe; no hook is left behind."""
    kind, _ = taught(heading, original, monkeypatch)
    made = kind(net(), LINES)
    made.slide_crop, made.slide_stride, made.prob_thd = 96, 48, 0.3
    size = (96, 160)
    results = made.predict(images(3, size), [data_sample(*size) for _ in range(3)])
    for one, result in zip(images(3, size), results):
        (alone,) = made.predict(one[None], [data_sample(*size)])
        assert result.seg_logits.shape == (made.num_classes, *size)
        torch.testing.assert_close(result.seg_logits, alone.seg_logits, rtol=0, atol=1e-4)
        assert (result.pred_sem_seg != alone.pred_sem_seg).float().mean() < 1e-3
    assert len(torch.stack([result.pred_sem_seg for result in results]).unique()) > 2
    assert not made.net.visual.transformer.resblocks[-1].ln_1._forward_pre_hooks


@pytest.mark.skipif(compat.refusal_of_dtype(torch.float16, "cpu") is not None, reason="float16 on a CPU: torch 2.3")
@pytest.mark.parametrize("base", ["sclip", "clearclip"])
def test_in_the_half_precision_of_a_gpu(monkeypatch, base):
    if base == "sclip":
        heading, original, nets = "SCLIP's code", CLIPForSegmentation, [CLIP(VisionTransformer()) for _ in range(2)]
    else:
        heading, original, nets = "ClearCLIP's code", ClearCLIPSegmentation, [ForkedCLIP(), ForkedCLIP()]
    kind, _ = taught(heading, original, monkeypatch)
    full, half = kind(nets[0], LINES), kind(convert_weights(nets[1]) if base == "sclip" else nets[1].half(), LINES)
    logits = half.forward_feature(images(3).half())
    assert logits.dtype == torch.float16
    assert (logits.argmax(1) != full.forward_feature(images(3)).argmax(1)).float().mean() < 0.01


@pytest.mark.parametrize(("base", "model_type"), [("clearclip", "ClearCLIP"), ("maskclip", "MaskCLIP")])
def test_the_fork_of_open_clip_is_a_model_as_it_is(monkeypatch, base, model_type):
    """`CDAMSegmenter` on the fork's model gives what the recipe gives in the fork's segmentor."""
    net = ForkedCLIP().double()
    kind, _ = taught("ClearCLIP's code", ClearCLIPSegmentation, monkeypatch)
    made = kind(net, LINES, model_type=model_type, ignore_residual=base == "clearclip")
    segmenter = CDAMSegmenter(
        net, tokenize, [line.split(", ") for line in LINES], base=base, background=None, templates=templates
    )
    img = images(2).double()
    words = made.forward_feature(img, (8, 8))
    classes = torch.stack([words[:, made.query_idx == i].amax(1) for i in range(made.num_classes)], 1)
    torch.testing.assert_close(segmenter.patch_logits(img), classes, rtol=0, atol=1e-6)
