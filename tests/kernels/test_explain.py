"""`cdam_fast.explain`: that the paths it tells are the ones that are taken, and its errors."""

import json
import math

import pytest
import torch

import cdam_fast
from cdam_fast import embedding, jensen_shannon, ops, reference
from cdam_fast.constants import scaled_grid
from cdam_fast.testing import clip_like, degenerate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SCALES = (0.5, 1.0)

needs_kernels = pytest.mark.skipif(ops.refusal(torch.zeros(1, device=DEVICE)) is not None, reason="no kernels here")
interpreted = pytest.mark.skipif(DEVICE != "cpu", reason="compiled kernels cannot be watched")


def saturated(classes, height, width):
    """One class nearly certain everywhere; the others differ."""
    similarity = clip_like(classes, height, width)
    similarity[0] += 2
    return similarity


INPUTS = {
    "low contrast": lambda: clip_like(41, 6, 7, spread=0.005),
    "narrow": lambda: clip_like(41, 6, 7, spread=0.02),
    "wide": lambda: clip_like(41, 6, 7, spread=0.06),
    "peaked": lambda: clip_like(41, 6, 7, spread=1.0),
    "saturated": lambda: saturated(41, 6, 7),
    "five classes": lambda: clip_like(5, 6, 7, spread=0.3),
    "one-hot": lambda: degenerate("one-hot", 41, 6, 7),
    "NaN": lambda: clip_like(41, 6, 7).index_fill(-1, torch.tensor([2]), math.nan),
}
every_input = pytest.mark.parametrize("similarity", [make() for make in INPUTS.values()], ids=INPUTS)


# --- portable ---------------------------------------------------------------------------------------------------


@every_input
def test_portable_path_is_the_one_taken(similarity, monkeypatch):
    """Each step of the map, watched: the last way to the divergence of a scale is the one told."""
    told = cdam_fast.explain(similarity, scales=SCALES).of("portable")
    taken = []
    features, definition = embedding.features, jensen_shannon._by_definition

    def watched_features(weight, position, chosen, rank):
        taken.append(("features", rank, weight.dtype))
        return features(weight, position, chosen, rank)

    def watched_definition(p, q, out):
        taken.append(("definition", 0, p.dtype))
        definition(p, q, out)

    monkeypatch.setattr(embedding, "features", watched_features)
    monkeypatch.setattr(jensen_shannon, "_by_definition", watched_definition)
    for choice in told:
        taken.clear()
        cdam_fast.cdam_attention(similarity, scales=(choice.scale,), backend="portable")
        path, rank, dtype = taken[-1]
        assert (choice.path, choice.rank, choice.dtype) == (path, rank, str(dtype).removeprefix("torch."))


def test_portable_paths_of_the_inputs():
    """The inputs above take every path, so that the test above is of all of them."""
    told = [choice for make in INPUTS.values() for choice in cdam_fast.explain(make(), scales=SCALES).of("portable")]
    assert {(c.path, c.dtype) for c in told} >= {
        ("features", "float32"),
        ("definition", "float32"),
        ("definition", "float64"),
    }
    for choice in told:
        assert (choice.bound <= choice.allowed) == (choice.path == "features")
        assert (choice.rank > 0) == (choice.path == "features")


def test_float64_goes_by_the_definition():
    explained = cdam_fast.explain(clip_like(41, 6, 7).double(), scales=SCALES)
    assert {(c.path, c.dtype) for c in explained.choices} == {("definition", "float64")}
    assert "takes float16, bfloat16 or float32" in explained.kernels


@pytest.mark.parametrize("metric", ["kl", "wasserstein"])
def test_other_metrics_have_one_path(metric):
    explained = cdam_fast.explain(clip_like(9, 6, 7).to(DEVICE), scales=SCALES, metric=metric)
    assert {choice.path for choice in explained.choices} == {metric}
    assert all(math.isnan(choice.contrast) and choice.rank == 0 for choice in explained.choices)


# --- the kernels ------------------------------------------------------------------------------------------------


def first_told(similarity, target, **options):
    return cdam_fast.explain(similarity.to(DEVICE), target=target, **options).of("triton")


@pytest.fixture
def as_on(monkeypatch):
    """Makes the interpreted kernels choose as a target's do."""
    from cdam_fast.kernels import configurations, stages

    own = configurations.divergence

    def choose_as(target):
        order = own(target, "js")["FEATURES_FIRST"]
        monkeypatch.setattr(
            configurations, "divergence", lambda _, metric: {**own("cpu", metric), "FEATURES_FIRST": order}
        )
        stages.forget()

    yield choose_as
    stages.forget()


@pytest.fixture
def ways(monkeypatch):
    """The ways to a tile's divergence that the interpreted kernel went."""
    from cdam_fast.kernels import divergence

    went = []

    def watch(function, name_of):
        original = getattr(divergence, function)

        def watched(*arguments):
            went.append(name_of(arguments))
            return original(*arguments)

        monkeypatch.setattr(divergence, function, watched)

    watch("_js_by_features", lambda arguments: "wide features" if arguments[8] else "narrow features")
    watch("_js_by_logarithms", lambda _: "logarithms")
    watch("_js_by_definition", lambda _: "definition")
    return went


@needs_kernels
@interpreted
@every_input
@pytest.mark.parametrize(
    ("target", "order"),
    [("sm_90", "official"), ("sm_86", "official"), pytest.param("gfx942", "paper", marks=pytest.mark.slow)],
)
def test_kernels_path_is_the_one_taken(similarity, target, order, as_on, ways):
    told = cdam_fast.explain(similarity, scales=SCALES, target=target, order=order).of("triton")
    as_on(target)
    for choice in told:
        ways.clear()
        cdam_fast.cdam_attention(similarity, scales=(choice.scale,), backend="triton", order=order)
        assert set(ways) == {choice.path}


@needs_kernels
def test_kernels_paths_of_the_inputs():
    """The inputs above take every path on the one kind of GPU and on the other."""
    paths = {
        target: {choice.path for make in INPUTS.values() for choice in first_told(make(), target, scales=(1.0,))}
        for target in ("sm_90", "sm_86")
    }
    assert paths["sm_90"] == {"narrow features", "wide features", "logarithms", "definition"}
    assert paths["sm_86"] >= {"narrow features", "logarithms", "definition"}


@needs_kernels
@interpreted
def test_numbers_are_those_that_the_first_stage_stores(monkeypatch):
    """Another reach among its statistics, and the path is another."""
    from cdam_fast.kernels import launch

    similarity, first_stage = clip_like(41, 6, 7), launch._distributions
    (before,) = first_told(similarity, "sm_90", scales=(1.0,))

    def altered(*arguments):
        result = first_stage(*arguments)
        result.statistics[:, -1, 0] = 0.4
        return result

    monkeypatch.setattr(launch, "_distributions", altered)
    (after,) = first_told(similarity, "sm_90", scales=(1.0,))
    assert (before.path, after.path) == ("narrow features", "wide features")
    assert after.reach == pytest.approx(0.4)
    assert after._replace(path="", rank=0, reach=0, floor=0, growth=0, bound=0) == before._replace(
        path="", rank=0, reach=0, floor=0, growth=0, bound=0
    )


@needs_kernels
@pytest.mark.parametrize("spread", [0.003, 0.03, 0.3])
@pytest.mark.parametrize("classes", [3, 41])
def test_contrast_is_a_bound(classes, spread):
    """No row's range is below a quarter of it, by float64."""
    similarity = clip_like(classes, 7, 6, spread=spread)
    for choice in first_told(similarity, None, scales=SCALES):
        assert choice.grid == scaled_grid(7, 6, choice.scale)
        resized = similarity.double()
        if choice.scale != 1:
            resized = torch.nn.functional.interpolate(resized[None], size=choice.grid, mode="bilinear")[0]
        p = torch.softmax(resized.flatten(1).mT / 0.1, -1)
        ranges = reference.pairwise_divergence(p, metric="js").amax(-1)
        assert 0 < choice.contrast <= 4 * float(ranges.min())
        assert choice.bound == pytest.approx(choice.floor * choice.length + choice.growth * choice.tail, nan_ok=True)


@needs_kernels
def test_images_of_a_batch_are_told_apart():
    likes = [clip_like(41, 6, 7, spread=spread) for spread in (0.02, 1.0, 0.06)]
    together = cdam_fast.explain(torch.stack(likes).reshape(3, 1, 41, 6, 7).to(DEVICE), scales=SCALES)
    assert [(c.image, c.scale) for c in together.choices[::3]] == [(i, scale) for i in range(3) for scale in SCALES]
    for i, similarity in enumerate(likes):
        alone = cdam_fast.explain(similarity.to(DEVICE), scales=SCALES)
        for backend in ("reference", "portable", "triton"):
            paths = [choice.path for choice in together.of(backend, i)]
            assert paths == [choice.path for choice in alone.of(backend)]
    assert {choice.path for choice in together.of("triton", 0)} != {choice.path for choice in together.of("triton", 1)}


# --- what is returned -------------------------------------------------------------------------------------------


def test_no_image():
    assert cdam_fast.explain(clip_like(5, 4, 4, batch=(0,)).to(DEVICE)).choices == ()


def test_as_text_and_as_json():
    explained = cdam_fast.explain(clip_like(41, 6, 7).to(DEVICE), scales=(0.5, 1.0))
    lines = str(explained).splitlines()
    assert lines[0] == "41 classes, 6x7 patches, js, official order"
    assert lines[1].startswith(f"backend auto: {explained.auto}; reference: definition")
    shown = [choice for choice in explained.choices if choice.backend != "reference"]
    for line, choice in zip(lines[4:], shown):
        assert line.split()[:4] == ["0", f"{choice.scale:g}", "x".join(map(str, choice.grid)), choice.backend]
        assert choice.path in line
        assert f"{choice.contrast:.3g}" in line
    assert len(lines) == 4 + len(shown)
    content = json.loads(json.dumps(explained.as_dict(), allow_nan=False))
    assert content["options"]["scales"] == [0.5, 1.0]
    assert [choice["path"] for choice in content["choices"]] == [choice.path for choice in explained.choices]
    assert content["choices"][0]["bound"] is None  # of the reference


def test_input_and_gradients_are_left_alone():
    similarity = clip_like(9, 6, 7).to(DEVICE).requires_grad_()
    before = similarity.detach().clone()
    cdam_fast.explain(similarity, scales=SCALES)
    assert torch.equal(similarity.detach(), before)
    assert similarity.grad is None


# --- errors -----------------------------------------------------------------------------------------------------

NO_KERNELS = "got CPU tensors, takes GPU tensors"


def test_where_there_are_no_kernels(monkeypatch):
    monkeypatch.setattr(ops, "refusal", lambda tensor, patches=0: NO_KERNELS)
    explained = cdam_fast.explain(clip_like(9, 6, 7))
    assert (explained.kernels, explained.target) == (NO_KERNELS, None)
    assert {choice.backend for choice in explained.choices} == {"reference", "portable"}
    assert f"triton: not here: {NO_KERNELS}" in str(explained)
    with pytest.raises(RuntimeError, match=f"^target: got 'sm_90', whose kernels do not run here: {NO_KERNELS}"):
        cdam_fast.explain(clip_like(9, 6, 7), target="sm_90")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": "sm90"}, ValueError, "^target: got 'sm90', takes the name of a GPU"),
        ({"target": "H100"}, ValueError, "^target: got 'H100'"),
        ({"target": 90}, TypeError, "^target: got int, takes the name of a GPU"),
        ({"metric": "l2"}, ValueError, "^metric: got 'l2'"),
        ({"scales": ()}, ValueError, "^scales: got an empty sequence"),
    ],
)
def test_bad_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        cdam_fast.explain(clip_like(5, 4, 4), **options)


def test_bad_similarities_are_named():
    with pytest.raises(TypeError, match=r"^similarity: got list"):
        cdam_fast.explain([1.0])
    with pytest.raises(ValueError, match=r"^similarity: got a tensor on meta, takes one that has values"):
        cdam_fast.explain(torch.zeros(5, 4, 4, device="meta"))


def test_transformed_similarities_are_refused():
    if not hasattr(torch, "func"):
        pytest.skip("no torch.func")
    with pytest.raises(RuntimeError, match=r"^similarity: got a tensor that is traced or transformed"):
        torch.func.vmap(lambda one: (cdam_fast.explain(one), one)[1])(clip_like(5, 4, 4, batch=(2,)))
