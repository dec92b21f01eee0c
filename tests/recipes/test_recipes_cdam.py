"""The recipe for the released CDAM code, run in code of its structure."""

import inspect
import textwrap
from types import SimpleNamespace

import pytest
import torch
from documentation import execute, recipe
from released_cdam import CLIPForSegmentation
from released_clip import CLIP, KeepingVisionTransformer, convert_weights, images
from torch import nn

import cdam_fast
from cdam_fast import compat, reference
from cdam_fast.testing import MAP_BUDGET, largest_error

CLASS_NAMES = [
    "sky, wall, grass, road",
    "cat",
    "dog",
    "sofa, couch",
    "car",
    "bird",
    "boat",
    "horse, pony",
    "train",
    "cow",
]
WORDS = [word for names in CLASS_NAMES for word in names.split(", ")]
CLASSES = [i for i, names in enumerate(CLASS_NAMES) for _ in names.split(", ")]
"""Of each word, as the released code's ``get_cls_idx`` reads a list of classes."""
QUERY_WORDS = [*WORDS, *cdam_fast.AUGMENTED_TEXT_PROMPTS]
QUERY_IDX = [*CLASSES, *range(len(CLASS_NAMES), len(CLASS_NAMES) + 80)]
SIZES = {"as_the_buffer": (128, 128), "another_grid": (128, 160)}


@pytest.fixture(scope="module")
def net():
    return CLIP(KeepingVisionTransformer())


def segmentor(net, kind=CLIPForSegmentation):
    """With the buffer of an 8 x 8 grid, in place of 28 x 28."""
    return kind(net, QUERY_WORDS, QUERY_IDX, tokens=65)


def taught(monkeypatch, block=None):
    """The segmentor after the recipe was run beside it."""

    class Taught(CLIPForSegmentation):
        pass

    modules = {"clip_segmentor": {"CLIPForSegmentation": Taught}}
    execute(block or recipe("The released CDAM code"), monkeypatch, modules)
    return Taught


def observed(net, made, img):
    """Logits, thresholds, the weight that was attended with, and what the map was made from."""
    visual, seen = net.visual, []
    own = visual.custom_dual_attn

    def watched(attn_layer, x, weight=None, **options):
        if weight is not None:
            seen.append(weight.clone())
        return own(attn_layer, x, weight, **options)

    visual.custom_dual_attn = watched
    try:
        logits = made.forward_feature(img)
    finally:
        del visual.custom_dual_attn
    (weight,) = seen
    return logits, made.prob_thd, weight


def similarity(net, made, img):
    features = nn.functional.normalize(net.encode_image(img, 0, 0, return_all=True)[:, 1:], dim=-1)
    grid = [side // 16 for side in img.shape[-2:]]
    return (features @ made.query_features_ori.T).permute(0, 2, 1).reshape(len(img), -1, *grid)


def check(net, kind, img):
    """Raises unless the segmentor of this kind does what the original does with each of the images."""
    original, made = segmentor(net), segmentor(net, kind)
    logits, thresholds, weight = observed(net, made, img)
    maps = reference.cdam_attention(similarity(net, made, img).double())
    exact = img.dtype == torch.float64
    for i, one in enumerate(img):
        expected, threshold, original_weight = observed(net, original, one[None])
        assert largest_error(original_weight[:, 1:, 1:].double(), maps[i].expand(12, -1, -1)) <= 1e-4
        own = weight.unflatten(0, (len(img), 12))[i].double()
        assert largest_error(own[:, 1:, 1:], maps[i].expand(12, -1, -1)) <= MAP_BUDGET
        assert own[:, 0].count_nonzero() == own[..., 0].count_nonzero() == 0
        torch.testing.assert_close(logits[i], expected[0], rtol=0, atol=1e-7 if exact else 2e-5)
        assert_same_labels(logits[i].argmax(0), expected[0].argmax(0), margin(expected[0]), exact)
        torch.testing.assert_close(thresholds.reshape(-1)[i], threshold.to(thresholds.dtype), rtol=1e-4, atol=0)
        if len(img) == 1:
            labels = original.predict(img)
            assert len(labels.unique()) > 1
            most = (50 * expected[0]).softmax(0).amax(0)
            close = torch.minimum(margin(expected[0]), (most - threshold).abs() / 50)
            assert_same_labels(made.predict(img), labels, close, exact)


def margin(logits):
    """By how much the best word leads, [words, H, W] -> [H, W]."""
    first, second = logits.topk(2, 0).values
    return first - second


def assert_same_labels(labels, expected, lead, exact):
    """In float64 all of them; in float32 all that the original's own rounding decides nothing of."""
    assert torch.equal(labels, expected) if exact else bool((lead[labels != expected] <= 2e-5).all())


@pytest.mark.parametrize(
    ("dtype", "batch", "size"),
    [
        (torch.float32, 1, "as_the_buffer"),
        (torch.float32, 3, "another_grid"),
        (torch.float64, 1, "another_grid"),
        (torch.float64, 3, "as_the_buffer"),
    ],
    ids=str,
)
def test_the_recipe_does_what_the_original_does(monkeypatch, dtype, batch, size):
    net = CLIP(KeepingVisionTransformer()).to(dtype)
    check(net, taught(monkeypatch), images(batch, SIZES[size]).to(dtype))


def test_a_second_image_leaves_nothing_of_the_first(net, monkeypatch):
    made = segmentor(net, taught(monkeypatch))
    first, second = images(2)
    made.forward_feature(first[None])
    again = made.forward_feature(second[None])
    assert torch.equal(again, segmentor(net, taught(monkeypatch)).forward_feature(second[None]))


@pytest.mark.skipif(compat.refusal_of_dtype(torch.float16, "cpu") is not None, reason="float16 on a CPU: torch 2.3")
def test_in_the_half_precision_of_a_gpu(monkeypatch):
    """The model, and a threshold that stays in float32: the labels are those of float32."""
    kind, img = taught(monkeypatch), images(3)
    full, half = segmentor(CLIP(KeepingVisionTransformer()), kind), CLIP(KeepingVisionTransformer())
    half = segmentor(convert_weights(half), kind)
    expected, logits = full.forward_feature(img), half.forward_feature(img.half())
    assert logits.dtype == torch.float16
    assert (logits.argmax(1) != expected.argmax(1)).float().mean() < 0.01
    torch.testing.assert_close(half.prob_thd, full.prob_thd, rtol=0.01, atol=0)


def test_the_skeleton_is_the_released_computation(golden_single):
    """What the skeleton writes into its buffer, against a map recorded from the released code in float64."""
    logits = golden_single["logits"].double()[None]
    weight = torch.zeros(2, 197, 197, dtype=torch.float64)
    made = SimpleNamespace(m=nn.Softmax(dim=0), kl_temp_weight=weight)
    names = {"self": made, "logits": logits, "logits_no_inter": logits, "w": 14, "h": 14, "kl_temp_weight": weight}
    source = textwrap.dedent(between(inspect.getsource(CLIPForSegmentation.forward_feature))[1])
    exec(source, vars(inspect.getmodule(CLIPForSegmentation)), names)
    assert largest_error(weight[:, 1:, 1:], golden_single["map"].double().expand(2, -1, -1)) <= 1e-6


# --- what the first release said to do

OF_0_1_0 = """\
attention = cdam_attention(logits_no_inter)  # [1, C, h, w], augmented prompts included
weight = with_cls_token(attention)[0].to(x_dtype).expand(12, -1, -1)  # one map for all 12 heads
"""
"""In place of everything from the class softmax to the assignment of the weight; "what stays: the first pass, the
second pass through the last block with `weight`, ... and the threshold"."""


def between(source):
    """Lines of forward_feature before the map, of the map, and after it."""
    before, rest = source.split("            # the map begins\n")
    of_the_map, after = rest.split("            # the map ends\n")
    return before, of_the_map, after


def followed(net, **found):
    """The segmentor with the map replaced by that recipe, and whatever else a user has found to be missing."""
    before, _, after = between(inspect.getsource(CLIPForSegmentation.forward_feature))
    source = textwrap.dedent(before + textwrap.indent(OF_0_1_0, " " * 12) + after)
    namespace = {**vars(inspect.getmodule(CLIPForSegmentation)), **found}
    exec(source, namespace)
    return type("Followed", (CLIPForSegmentation,), {"forward_feature": namespace["forward_feature"]})


IMPORTED = {"cdam_attention": cdam_fast.cdam_attention, "with_cls_token": cdam_fast.with_cls_token}
TYPED = {**IMPORTED, "x_dtype": torch.float32}


@pytest.mark.parametrize(
    ("found", "missing"),
    [({}, "cdam_attention"), (IMPORTED, "x_dtype"), (TYPED, "softmax_temp")],
    ids=["as_it_is", "with_the_import", "with_the_dtype"],
)
def test_the_old_recipe_lacks_names(net, found, missing):
    with pytest.raises(NameError, match=missing):
        segmentor(net, followed(net, **found)).forward_feature(images(1))


def test_the_old_recipe_attends_with_zeros_and_is_caught(net):
    kind = followed(net, **TYPED, softmax_temp=nn.Softmax(dim=1))
    logits, _, weight = observed(net, segmentor(net, kind), images(1))
    assert logits.isfinite().all()  # in silence
    assert weight.count_nonzero() == 0
    with pytest.raises(AssertionError):
        check(net, kind, images(1))


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("weight=weight", "weight=self.kl_temp_weight"),
        ("attention, heads=block.attn.num_heads)", "attention).repeat(block.attn.num_heads, 1, 1)"),
        ("cdam_attention(similarity, ", "cdam_attention(similarity[:, :-80], "),
        ("self.query_features_ori)  #", "self.query_features)  #"),
        ("    x = x + block.mlp(block.ln_2(x))\n", ""),
        ("alpha=2.5", "alpha=2.0"),
    ],
    ids=["zero_buffer", "heads_apart", "no_augmented", "targets_only", "no_mlp", "alpha"],
)
def test_a_recipe_with_one_line_wrong_is_caught(net, monkeypatch, line, wrong):
    block = recipe("The released CDAM code")
    assert block.code.count(line) == 1
    kind = taught(monkeypatch, block._replace(code=block.code.replace(line, wrong)))
    with pytest.raises((AssertionError, RuntimeError)):
        check(net, kind, images(3 if "repeat" in wrong else 1))
