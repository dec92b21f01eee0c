"""NACLIP, SC-CLIP and ProxyCLIP's rule against what is written out of their descriptions, and CDAM on each."""

import pytest
import restated_bases
import torch
from cases import float16_of_models
from other_models import siglip_of_transformers
from towers import small_model

from cdam_fast import CDAMSegmenter, proxyclip, reference
from cdam_fast.models import BASES, Tower, check_base, dense_features
from cdam_fast.models.scclip import SCCLIP, _anomalies

PATCH = 16
GENERATOR = torch.Generator().manual_seed(7)
WEIGHTS = torch.randn(5, 3, 8, 8, generator=GENERATOR, dtype=torch.float64)


def encode(pixels):
    """A toy encoder [B, 3, H, W] -> [B, 5, H / 16, W / 16]: its attention keeps some pairs and drops others."""
    return torch.nn.functional.conv2d(pixels, WEIGHTS.to(pixels.dtype), stride=8)[..., ::2, ::2] + 0.4


def grid_of(image):
    return image.shape[1] // PATCH, image.shape[2] // PATCH


def written_out(name, model, image, attention=None):
    if name == "proxyclip":
        features = encode(image[None])[0].flatten(1).T
        return restated_bases.proxyclip(model, image, features, attention)[:2]
    return getattr(restated_bases, name)(model, image, attention)[:2]


def base_of(name):
    return proxyclip(encode) if name == "proxyclip" else BASES[name]


MODELS = {
    "plain": {},
    "layer_scale": {"ls_init_value": 0.5},
    "12_blocks": {"layers": 12},
    "1_block": {"layers": 1},
}
SIZES = {"trained": (64, 64), "wide": (96, 128), "one_row": (16, 96), "one_patch": (16, 16)}
every_name = pytest.mark.parametrize("name", ["naclip", "proxyclip", "scclip"])


@every_name
@pytest.mark.parametrize("kind", MODELS)
def test_features_and_attention_of_every_model(name, kind):
    check(name, small_model(**MODELS[kind]).double(), (96, 128))


@every_name
@pytest.mark.parametrize("size", SIZES)
def test_features_and_attention_at_every_size(name, size):
    check(name, small_model().double(), SIZES[size])


def check(name, model, size):
    pixels = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    base, tower = base_of(name), Tower(model)
    expected = [written_out(name, model, image) for image in pixels]
    features = dense_features(model, pixels, base)
    torch.testing.assert_close(features, torch.stack([one for one, _ in expected]), rtol=1e-9, atol=1e-10)
    with torch.no_grad():
        weights = base.attention(tower, base.prepare(tower, pixels))
    torch.testing.assert_close(weights, torch.stack([one for _, one in expected]), rtol=1e-9, atol=1e-12)
    single = dense_features(model.float(), pixels, base)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, features.float(), rtol=0, atol=1e-5)


@every_name
@pytest.mark.parametrize("kind", ["layer_scale", "12_blocks"])
def test_the_second_pass_is_the_map_in_the_place_of_the_attention(name, kind):
    model = small_model(**MODELS[kind]).double()
    pixels = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    words = torch.nn.functional.normalize(torch.randn(4, 32, dtype=torch.float64), dim=-1)
    made = CDAMSegmenter(
        model, None, ["background", "cat", "dog", "sofa"], base=base_of(name), text_features=words,
        augmented_prompts=False, short_side=64, window=64, stride=32, scales=(0.5, 1.0),
    )  # fmt: skip
    for image, similarity, logits in zip(pixels, made.base_similarity(pixels), made.word_logits(pixels)):
        features, _ = written_out(name, model, image)
        expected = (features @ words.T).T.reshape(4, *grid_of(image))
        torch.testing.assert_close(similarity, expected, rtol=1e-9, atol=1e-10)
        attention = reference.cdam_attention(expected, scales=(0.5, 1.0))
        features, _ = written_out(name, model, image, attention)
        torch.testing.assert_close(logits, (features @ words.T).T.reshape(4, *grid_of(image)), rtol=0, atol=1e-7)


@every_name
@pytest.mark.parametrize("dtype", [float16_of_models, torch.bfloat16], ids=str)
def test_half_precision(name, dtype):
    model, base = small_model(), base_of(name)
    pixels = torch.randn(1, 3, 96, 96)
    expected = dense_features(model, pixels, base)
    features = dense_features(model.to(dtype), pixels, base)
    assert features.dtype == torch.float32
    error = (features - expected).norm(dim=-1)  # a pair at a threshold may fall on its other side
    assert error.median() < (0.02 if dtype == torch.float16 else 0.15)


def test_anomalies_are_found_and_mended():
    model = small_model(layers=12).double()
    image = torch.randn(3, 96, 128, dtype=torch.float64)
    *_, outliers = restated_bases.scclip(model, image)
    assert 0 < len(outliers) <= 3
    torch.testing.assert_close(
        dense_features(model, image[None], "scclip")[0], restated_bases.scclip(model, image)[0], rtol=1e-9, atol=1e-10
    )
    away = torch.randn(2, 48, 6, dtype=torch.float64)
    away[1, 11] += 30
    assert _anomalies(away)[1].nonzero().flatten().tolist() == restated_bases._outliers(away[1])


@pytest.mark.parametrize("name", ["proxyclip", "scclip"])
def test_an_image_of_equal_features_is_finite(name):
    """Where all is equal, no difference from the mean is left but rounding: a patch keeps itself."""
    model, pixels = small_model(), torch.zeros(1, 3, 64, 64)
    base = proxyclip(lambda pixels: torch.ones(len(pixels), 3, 4, 4)) if name == "proxyclip" else SCCLIP
    tower = Tower(model)
    with torch.no_grad():
        weights = base.attention(tower, base.prepare(tower, pixels))
    assert weights.isfinite().all()
    if name == "proxyclip":
        assert torch.equal(weights[0], torch.eye(16))


# --- ProxyCLIP's callable


@pytest.mark.parametrize("options", [{}, {"beta": 0.8, "gamma": 7.0}], ids=str)
@pytest.mark.parametrize("layout", ["tokens", "finer", "coarser"])
def test_proxyclips_features_in_every_layout(layout, options):
    model, pixels = small_model().double(), torch.randn(2, 3, 64, 96, dtype=torch.float64)
    size = {"tokens": (4, 6), "finer": (9, 11), "coarser": (2, 3)}[layout]
    features = torch.randn(2, 5, *size, dtype=torch.float64) + 0.5
    given = features.flatten(2).mT if layout == "tokens" else features
    expected = [
        restated_bases.proxyclip(model, image, restated_bases.on_another_grid(one, 4, 6), **options)[0]
        for image, one in zip(pixels, features)
    ]
    got = dense_features(model, pixels, proxyclip(lambda _: given, **options))
    torch.testing.assert_close(got, torch.stack(expected), rtol=1e-9, atol=1e-10)


def test_proxyclips_encoder_sees_the_normalised_pixels_without_gradients():
    seen = []

    def watched(pixels):
        seen.append((pixels, torch.is_grad_enabled()))
        return encode(pixels)

    pixels = torch.randn(2, 3, 64, 64)
    dense_features(small_model(), pixels, proxyclip(watched))
    assert torch.equal(seen[0][0], pixels)
    assert seen[0][1] is False


@pytest.mark.parametrize(
    ("features", "named"),
    [
        (
            torch.zeros(2, 15, 5),
            r"got features of shape \(2, 15, 5\), takes \[B, D, h', w'\] or \[B, N, D\] with N = 16",
        ),
        (torch.zeros(2, 16), r"got features of shape \(2, 16\)"),
        (torch.zeros(2, 5, 0, 4), r"got features of shape \(2, 5, 0, 4\)"),
        (torch.zeros(1, 16, 5), r"got shape \(1, 16, 5\), takes .* B = 2"),
    ],
    ids=["tokens", "two_dims", "empty", "batch"],
)
def test_proxyclips_features_of_a_wrong_shape(features, named):
    with pytest.raises(ValueError, match=f"base 'proxyclip', see: {named}"):
        dense_features(small_model(), torch.zeros(2, 3, 64, 64), proxyclip(lambda _: features))


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: proxyclip(encode, beta=0), ValueError, "beta: got 0"),
        (lambda: proxyclip(encode, gamma="3"), TypeError, "gamma: got str"),
        (lambda: proxyclip("dino"), TypeError, "base 'proxyclip', see: got 'dino', takes None or a callable"),
        (lambda: proxyclip(None), TypeError, "features: got None, takes a callable"),
        (lambda: check_base("proxyclip"), ValueError, r"base: got 'proxyclip', .*: proxyclip\(features\)"),
    ],
    ids=["beta", "gamma", "features", "none", "name"],
)
def test_what_makes_no_proxyclip(make, error, named):
    with pytest.raises(error, match=named):
        make()


# --- without a CLS token


@pytest.fixture(scope="module")
def siglip():
    return siglip_of_transformers().double()


@pytest.mark.parametrize("name", ["naclip", "proxyclip"])
@torch.no_grad()
def test_a_model_without_a_cls_token(siglip, name):
    base, tower = base_of(name), Tower(siglip)
    pixels = torch.randn(2, 3, 32, 64, dtype=torch.float64)
    last = base.prepare(tower, pixels)
    weights = base.attention(tower, last)
    assert last.first_patch == 0
    assert dense_features(siglip, pixels, base).shape == (2, 8, tower.embedding_size)
    if name == "proxyclip":
        x = torch.nn.functional.normalize(encode(pixels).flatten(2), dim=1)
        shifted = 3 * (x.mT @ x - 1.2 * (x.mT @ x).mean((1, 2), keepdim=True))
        expected = torch.softmax(torch.where(shifted < 0, -torch.inf, shifted), -1)
    else:
        attention = siglip.vision_model.encoder.layers[-1].self_attn
        keys = attention.k_proj(last.tokens).unflatten(-1, (2, 32)).transpose(1, 2)
        row, column = torch.arange(8) // 4, torch.arange(8) % 4
        squared = (row[:, None] - row) ** 2 + (column[:, None] - column) ** 2
        expected = torch.softmax(keys @ keys.mT / 32**0.5 + torch.exp(-squared.double() / 50), -1).mean(1)
    torch.testing.assert_close(weights, expected, rtol=1e-9, atol=1e-12)


def test_scclip_refuses_a_model_without_a_cls_token(siglip):
    with pytest.raises(ValueError, match="base: got 'scclip' for a model without a CLS token"):
        dense_features(siglip, torch.randn(1, 3, 64, 64, dtype=torch.float64), "scclip")
