"""A base method of the user's own: when each hook runs, with which shapes, and what is said of a wrong one."""

import dataclasses

import pytest
import torch
from towers import plain_features, small_model

import cdam_fast
from cdam_fast import Base, CDAMSegmenter, LastBlock, reference
from cdam_fast.models import BASES, Tower, dense_features, last_block
from cdam_fast.models.positions import by_scale_factor

PIXELS = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(4))
pytestmark = pytest.mark.filterwarnings("ignore:threshold:UserWarning")

B, N, T, HEADS, WIDTH, GRID = 2, 24, 25, 2, 64, (6, 4)
NAMES = ["background", "cat", ["dog", "puppy"]]


def attend(block, last, applied_to):
    """MaskCLIP's."""
    return applied_to[:, :, last.first_patch :]


MINE = Base("mine", attend, keeps_residual=True, keeps_mlp=True)


def mine(**fields):
    return dataclasses.replace(MINE, **fields)


def segmenter(base, model=None, **options):
    words = torch.nn.functional.normalize(torch.randn(4, 32, generator=torch.Generator().manual_seed(3)), dim=-1)
    extra = torch.nn.functional.normalize(torch.randn(3, 32, generator=torch.Generator().manual_seed(5)), dim=-1)
    sizes = {"short_side": 64, "window": 64, "stride": 32, "scales": (1.0,)}
    given = {"text_features": words, "augmented_text_features": extra}
    return CDAMSegmenter(model or small_model(), None, NAMES, base=base, **given, **sizes, **options)


def test_it_is_public():
    assert cdam_fast.Base is Base
    assert {"Base", "LastBlock", "proxyclip", "refine"} <= set(cdam_fast.__all__)


def test_a_base_or_its_name():
    expected = dense_features(small_model(), PIXELS, "maskclip")
    assert torch.equal(dense_features(small_model(), PIXELS, MINE), expected)
    assert torch.equal(dense_features(small_model(), PIXELS, BASES["maskclip"]), expected)
    made, named = segmenter(MINE), segmenter("maskclip")
    assert torch.equal(made.word_logits(PIXELS), named.word_logits(PIXELS))
    assert torch.equal(made.base_attention(PIXELS), torch.eye(N).expand(B, N, N))
    assert made.base.name == "mine"


def test_when_each_hook_runs_and_with_what():
    calls = []

    def note(hook, *given):
        calls.append((hook, *(tuple(one.shape) if isinstance(one, torch.Tensor) else one for one in given)))
        assert not torch.is_grad_enabled()
        assert not torch.is_autocast_enabled()

    def see(pixels):
        note("see", pixels)
        return torch.ones(len(pixels), 7)

    def resize(positions, grid):
        note("resize_positions", positions, grid)
        return by_scale_factor(positions, grid)

    def run(tower, tokens, grid, seen):
        note("run", tokens, grid, seen)
        assert isinstance(tower, Tower)
        return last_block(tower, tokens, grid, seen)

    def watched(block, last, applied_to):
        note("attend", last.tokens, last.values, last.residual, last.grid, last.first_patch, last.seen, applied_to)
        assert torch.equal(last.values, block.project(last.tokens, "v"))
        return attend(block, last, applied_to)

    def adjust(similarity):
        note("adjust", similarity)
        return similarity

    made = segmenter(mine(see=see, resize_positions=resize, run=run, attend=watched, adjust=adjust))
    before = [
        ("see", (B, 3, 96, 64)),
        ("resize_positions", (1, WIDTH, 4, 4), GRID),
        ("run", (B, T, WIDTH), GRID, (B, 7)),
    ]
    tokens = ((B, T, WIDTH), (B, T, WIDTH), (B, N, WIDTH), GRID, 1, (B, 7))
    once = ("attend", *tokens, (B, HEADS, T, WIDTH // HEADS))
    with torch.autocast("cpu", torch.bfloat16):
        made.word_logits(PIXELS)
    assert calls == [*before, once, ("adjust", (B, 7, *GRID)), ("adjust", (B, 4, *GRID))]
    calls.clear()
    made.base_attention(PIXELS)
    assert calls == [*before, ("attend", *tokens, (B, HEADS, T, T))]
    calls.clear()
    made(torch.rand(3, 64, 64))
    assert [hook for hook, *_ in calls] == ["see", "run", "attend", "adjust", "adjust"]


def test_the_adjusted_similarity_is_what_the_map_is_made_from():
    model, pixels = small_model().double(), PIXELS.double()
    made, plain = segmenter(mine(adjust=lambda similarity: similarity**3), model), segmenter(MINE, model)
    similarity = made.base_similarity(pixels)
    assert torch.equal(similarity, plain.base_similarity(pixels) ** 3)
    attention = reference.cdam_attention(similarity, scales=(1.0,))
    torch.testing.assert_close(made.attention(pixels), attention, rtol=0, atol=1e-7)
    images = [plain_features(model, *both) for both in zip(pixels, ["maskclip"] * 2, attention)]
    words = made.texts.class_features
    expected = torch.stack([(words @ features.T).reshape(4, *GRID) ** 3 for features in images])
    torch.testing.assert_close(made.word_logits(pixels), expected, rtol=0, atol=1e-7)
    assert torch.equal(segmenter(made.base, model, cdam=False).word_logits(pixels), similarity[:, :4])


def test_what_the_pixels_show_steers_the_attention():
    def see(pixels):
        return torch.nn.functional.avg_pool2d(pixels, 16).flatten(2).mT

    def by_colour(block, last, applied_to):
        weights = torch.softmax(last.seen @ last.seen.mT, -1).unsqueeze(1)
        return weights @ applied_to[:, :, last.first_patch :]

    colours = torch.stack([image.reshape(3, 6, 16, 4, 16).mean((2, 4)).flatten(1).T for image in PIXELS])
    weights = torch.softmax(torch.einsum("bnc,bmc->bnm", colours, colours), -1)
    made = segmenter(mine(attend=by_colour, see=see))
    torch.testing.assert_close(made.base_attention(PIXELS), weights)
    images = [plain_features(small_model(), *both) for both in zip(PIXELS, ["maskclip"] * 2, weights)]
    torch.testing.assert_close(dense_features(small_model(), PIXELS, made.base), torch.stack(images), rtol=0, atol=1e-5)


def test_several_blocks_may_be_changed_and_several_paths_added_up():
    """Two equal paths of half the values each are one path of the whole."""

    def run(tower, tokens, grid, seen):
        last = last_block(tower, tokens, grid, seen)
        return last._replace(tokens=torch.cat((last.tokens,) * 2, -1), values=torch.cat((last.values / 2,) * 2, -1))

    base = mine(run=run)
    expected = plain_features(small_model(), PIXELS[0], "maskclip")
    torch.testing.assert_close(dense_features(small_model(), PIXELS, base)[0], expected, rtol=0, atol=1e-5)
    two, one = segmenter(base), segmenter(MINE)
    torch.testing.assert_close(two.word_logits(PIXELS), one.word_logits(PIXELS), rtol=0, atol=1e-5)
    assert two.base_attention(PIXELS).shape == (B, N, N)


def test_without_residual_and_mlp_there_is_nothing_else():
    features = dense_features(small_model(), PIXELS, mine(attend=lambda b, last, x: 0 * x[:, :, 1:], keeps_mlp=False))
    assert features.std(1).min() > 0  # the residual, which differs from patch to patch
    features = dense_features(
        small_model(), PIXELS, mine(attend=lambda b, last, x: 0 * x[:, :, 1:], keeps_residual=False, keeps_mlp=False)
    )
    torch.testing.assert_close(features.std(1), torch.zeros(B, 32), rtol=0, atol=1e-6)  # the bias alone


def test_the_picture_of_its_attention():
    """What ``cdam-fast map`` draws."""
    pytest.importorskip("matplotlib")
    from cdam_fast.commands.map_figure import map_figure

    photo = torch.randint(256, (3, 64, 80), dtype=torch.uint8)
    assert map_figure(segmenter(MINE), photo, [(10, 20)], {}).startswith(b"\x89PNG")


# --- what is refused

WRONG = {
    "no_tensor": (lambda x: x.tolist(), TypeError, "got list, takes"),
    "shape": (lambda x: x[..., :-1], ValueError, r"got shape \(.*\), takes"),
    "dims": (lambda x: x[0], ValueError, r"got shape \(.*\), takes"),
    "dtype": (lambda x: x.to(torch.int32), TypeError, "got dtype torch.int32, takes"),
    "device": (lambda x: x.to("meta"), ValueError, "got device meta, takes cpu"),
}
every_wrong = pytest.mark.parametrize("wrong", WRONG)


def check(base, wrong, hook, layout="", call=None):
    _, error, named = WRONG[wrong]
    takes = layout if wrong in ("no_tensor", "shape", "dims") else ""
    with pytest.raises(error, match=f"base 'mine', {hook}: {named}.*{takes}"):
        dense_features(small_model(), PIXELS, base) if call is None else call(base)


@every_wrong
def test_attend_returns_something_else(wrong):
    spoil = WRONG[wrong][0]
    base = mine(attend=lambda block, last, x: spoil(attend(block, last, x)))
    layout = r"\[B, heads, N, E\] = \(2, 2, 24, "
    check(base, wrong, "attend", layout + r"32\)")
    check(base, wrong, "attend", layout + r"25\)", lambda base: segmenter(base).base_attention(PIXELS))


def test_attend_forgets_the_cls_token():
    named = r"base 'mine', attend: got shape \(2, 2, 25, 32\), takes \[B, heads, N, E\] = \(2, 2, 24, 32\)"
    made = segmenter(mine(attend=lambda block, last, x: x))
    with pytest.raises(ValueError, match=named):
        made.word_logits(PIXELS)
    with pytest.raises(ValueError, match=r"base 'mine', attend: got shape \(1, 2, 17, 32\)"):
        made(torch.rand(3, 64, 64))


@every_wrong
def test_resize_positions_returns_something_else(wrong):
    spoil = WRONG[wrong][0]
    base = mine(resize_positions=lambda positions, grid: spoil(by_scale_factor(positions, grid)))
    check(base, wrong, "resize_positions", r"\[1, width, h, w\] = \(1, 64, 6, 4\)")


@every_wrong
def test_adjust_returns_something_else(wrong):
    spoil = WRONG[wrong][0]
    base = mine(adjust=lambda similarity: spoil(similarity))
    check(base, wrong, "adjust", r"\[B, Q, h, w\] = \(2, 7, 6, 4\)", lambda base: segmenter(base).word_logits(PIXELS))


@pytest.mark.parametrize(
    ("seen", "error", "named"),
    [
        ([1.0, 2.0], TypeError, "got list, takes a floating torch.Tensor"),
        (torch.zeros(3, 5), ValueError, r"got shape \(3, 5\), takes a floating torch.Tensor \[B, ...\] with B = 2"),
        (torch.zeros(()), ValueError, r"got shape \(\)"),
        (torch.zeros(2, 5, dtype=torch.int64), TypeError, "got dtype torch.int64, takes a floating"),
        (torch.zeros(2, 5, device="meta"), ValueError, "got device meta, takes cpu"),
        (None, TypeError, "got NoneType, takes"),
    ],
    ids=["list", "batch", "scalar", "dtype", "device", "none"],
)
def test_see_returns_something_else(seen, error, named):
    with pytest.raises(error, match=f"base 'mine', see: {named}"):
        dense_features(small_model(), PIXELS, mine(see=lambda pixels: seen))


@every_wrong
@pytest.mark.parametrize("field", ["tokens", "values", "residual"])
def test_run_returns_another_field(field, wrong):
    spoil = WRONG[wrong][0]

    def run(*arguments):
        last = last_block(*arguments)
        return last._replace(**{field: spoil(getattr(last, field))})

    layout = r"\[B, N, width\] = \(2, 24, 64\)" if field == "residual" else r"\[B, T, width\] = \(2, 25, 64\)"
    check(mine(run=run), wrong, f"run, {field}", layout)


@pytest.mark.parametrize(
    ("spoil", "error", "named"),
    [
        (lambda last: last.tokens, TypeError, "run: got Tensor, takes a LastBlock"),
        (lambda last: None, TypeError, "run: got NoneType, takes a LastBlock"),
        (lambda last: last._replace(grid=(4, 6)), ValueError, r"run: got grid \(4, 6\), .*takes grid \(6, 4\)"),
        (lambda last: last._replace(first_patch=2), ValueError, "run: got grid .*first_patch 2, takes .*0 or 1"),
        (lambda last: last._replace(first_patch=0), ValueError, r"run, values: got shape \(2, 25, 64\), takes"),
    ],
    ids=["tensor", "none", "grid", "first_patch", "cls"],
)
def test_run_returns_something_else(spoil, error, named):
    with pytest.raises(error, match=f"base 'mine', {named}"):
        dense_features(small_model(), PIXELS, mine(run=lambda *arguments: spoil(last_block(*arguments))))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": ""}, "name: got '', takes a string that is not empty"),
        ({"name": 3}, "name: got 3"),
        ({"attend": "softmax"}, "base 'mine', attend: got 'softmax', takes a callable"),
        ({"run": None}, "base 'mine', run: got None, takes a callable"),
        ({"resize_positions": 2}, "base 'mine', resize_positions: got 2, takes a callable"),
        ({"see": torch.zeros(1)}, "base 'mine', see: got tensor.*, takes None or a callable"),
        ({"adjust": 0.5}, "base 'mine', adjust: got 0.5, takes None or a callable"),
        ({"keeps_residual": 1}, "base 'mine', keeps_residual: got 1, takes True or False"),
        ({"keeps_mlp": None}, "base 'mine', keeps_mlp: got None, takes True or False"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_fields_that_make_no_base(fields, named):
    with pytest.raises(TypeError, match=named):
        mine(**fields)


@pytest.mark.parametrize("base", [Base, attend, None, ("sclip",), torch.zeros(2)], ids=lambda one: type(one).__name__)
def test_what_is_no_base(base):
    with pytest.raises(TypeError, match=r"base: got .*takes a Base or one of 'maskclip'"):
        dense_features(small_model(), PIXELS, base)


def test_a_last_block_knows_what_the_map_applies_to():
    x = torch.arange(2 * 3 * 4.0).reshape(2, 3, 4)
    last = LastBlock(x, x, x[:, 1:], (1, 2))
    assert torch.equal(last.patch_values, x[:, 1:])
    two = LastBlock(x, x, x[:, :, :2], (1, 3), 0)
    assert torch.equal(two.patch_values, x[..., :2] + x[..., 2:])
