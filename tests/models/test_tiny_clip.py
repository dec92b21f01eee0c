"""The tiny CLIP in the package: what it was trained on, and real segmentations of scenes with known masks."""

import json
import warnings
from pathlib import Path

import numpy as np
import open_clip
import pytest
import tiny_regions
import tiny_scenes
import tiny_table
import tiny_train
import torch
from PIL import Image
from tiny_scenes import GROUND, Thing
from torch.nn import functional
from towers import WRITTEN_OUT, plain_features

from cdam_fast import entropy_threshold, reference

TEMPLATES = [lambda word: f"a photo of a {word}."]


@pytest.fixture(scope="module")
def tiny():
    return tiny_table.load()


@pytest.fixture(scope="module")
def small():
    """Scenes of 8 x 8 patches."""
    return tiny_scenes.make_scenes(4, tiny_table.SEED, side=64)


def pixels_of(scene):
    return torch.from_numpy(scene.pixels).permute(2, 0, 1)


# --- scenes


@pytest.mark.parametrize("side", [96, 224])
def test_scenes_are_the_same_for_the_same_seed(side):
    for one, other in zip(*(tiny_scenes.make_scenes(4, 7, side) for _ in range(2))):
        assert one.pixels.shape == (side, side, 3)
        assert np.array_equal(one.pixels, other.pixels)
        assert one.things == other.things
        present = {tiny_scenes.CLASSES[label] for label in np.unique(one.labels)}
        assert present == {"background", *(thing.shape for thing in one.things)}


def test_what_is_said_is_true_of_the_scene():
    rng = np.random.default_rng(0)
    scenes = tiny_scenes.make_scenes(6, 7)
    for scene in scenes:
        text, said = scene.caption(rng, "a photo of a {}.".format)
        assert all(any(words.fits(thing) for thing in scene.things) for words in said)
        assert all(words.words() in text for words in said)
        for thing, label in scene.regions():
            assert thing.said(rng, 0.5, 0.5).fits(thing)
            assert tiny_scenes.CLASSES[label] == thing.shape


def test_some_words_of_a_thing_are_never_none():
    ring = Thing("ring", "red", "striped")
    assert ring.said(np.random.default_rng(0), 0, 0) == ring
    assert ring.said(np.random.default_rng(0), 0, 1).words() == "red striped"
    assert GROUND.said(np.random.default_rng(0), 0, 1).words() == "background"


def test_which_captions_are_true_of_what():
    """In plain words, for scenes and for regions, an empty scene and its caption included."""
    rng = np.random.default_rng(1)
    scenes = tiny_scenes.make_scenes(12, 5)
    scenes += [tiny_scenes.Scene(scenes[0].pixels, 0 * scenes[0].labels, ())]
    said = [scene.caption(rng, str)[1] for scene in scenes]
    found = tiny_regions.true_of_scenes(said, scenes)
    for i, caption in enumerate(said):
        for j, scene in enumerate(scenes):
            true = all(any(words.fits(thing) for thing in scene.things) for words in caption)
            assert bool(found[i, j]) == (true if caption else not scene.things)
    things = [thing for scene in scenes for thing, _ in scene.regions()]
    words = [thing.said(rng, 0.5, 0.5) for thing in things]
    found = tiny_regions.true_of_regions(words, things)
    assert found.tolist() == [[one.fits(thing) for thing in things] for one in words]


def test_patches_are_of_the_region_that_has_most_of_them():
    shelf = tiny_regions.make_shelf(3, 7, 96, 8)
    for scene, patches in zip(shelf.scenes, shelf.patches):
        for row, column in np.ndindex(12, 12):
            cell = scene.labels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            counts = np.bincount(cell.ravel(), minlength=9)
            assert patches[row, column] == (counts.argmax() if counts.max() >= 0.6 * 64 else -1)


def test_some_patches_are_of_the_region_and_never_none():
    masks = torch.rand(40, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.3
    chosen = tiny_regions.some_patches(masks, np.random.default_rng(0))
    assert not (chosen & ~masks).any()
    assert chosen.flatten(1).any(1).all()
    assert 0 < (chosen == masks).flatten(1).all(1).sum() < 40


# --- the features that it is trained with


class Certain:
    """A random generator that keeps the residual of the CLS token and the MLP."""

    def integers(self, *arguments, size=None):
        return np.ones(arguments[2], int) if len(arguments) == 3 else np.zeros(size, int)

    def random(self, shape=None):
        return 0.7 if shape is None else np.ones(shape)


@pytest.mark.skipif(not hasattr(functional, "scaled_dot_product_attention"), reason="the training takes PyTorch 2")
@torch.no_grad()
def test_features_of_scenes_and_regions(tiny):
    """A scene's are the model's own; a region's are the last block's with a mask, by PyTorch's attention module."""
    model, _ = tiny
    visual = model.visual
    shelf = tiny_regions.make_shelf(3, 7, 224, 8)
    batch = tiny_regions.draw_batch(shelf, range(3), Certain())
    scenes, regions = tiny_regions.encode(visual, batch, batch.masks, (0, 0), Certain())
    torch.testing.assert_close(scenes, model.encode_image(batch.pixels, normalize=True), rtol=0, atol=1e-5)
    block = visual.transformer.resblocks[-1]
    for k, (i, mask) in enumerate(zip(batch.owner.tolist(), batch.masks)):
        x = tiny_regions.tokens_of(visual, batch.pixels[i : i + 1], (0, 0), torch.arange(784)[None])
        tokens = block.ln_1(x)[0][:, None]  # as older PyTorch wants them where it is not batch first
        if block.attn.batch_first:
            tokens = tokens.transpose(0, 1)
        hidden = torch.cat((torch.ones(1, dtype=torch.bool), ~mask.flatten()))[None]
        query = tokens[:, :1] if block.attn.batch_first else tokens[:1]
        attended = block.attn(query, tokens, tokens, attn_mask=hidden, need_weights=False)[0].flatten()
        y = x[0, 0] + attended
        y = y + block.mlp(block.ln_2(y))
        expected = functional.normalize(visual.ln_post(y) @ visual.proj, dim=-1)
        torch.testing.assert_close(regions[k], expected, rtol=0, atol=1e-5)


# --- the file, and segmentations


def test_the_shipped_file_is_small_and_has_its_log():
    assert tiny_table.MODEL.with_suffix(".safetensors").stat().st_size < 3e6
    assert tiny_table.MODEL.with_suffix(".log").read_text().startswith(f"seed {tiny_train.SEED}, ")


@torch.no_grad()
def plain_labels(model, texts, pixels, base, cdam):
    """Labels [64, 64] of one scene in one window, with the entropy threshold, in float64."""
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).double().view(3, 1, 1)
    deviation = torch.tensor(open_clip.OPENAI_DATASET_STD).double().view(3, 1, 1)
    image = (pixels.double() / 255 - mean) / deviation
    features = plain_features(model, image, base)
    if cdam:
        attention = reference.cdam_attention((features @ texts.T).T.reshape(-1, 8, 8))
        features = plain_features(model, image, base, attention)
    logits = (features @ texts[:9].T).T
    threshold = entropy_threshold(logits, logit_scale=50)
    upsampled = functional.interpolate(logits.reshape(1, 9, 8, 8), size=(64, 64), mode="bilinear")
    most, labels = torch.softmax(50 * upsampled[0], 0).max(0)
    return torch.where(most < threshold, 0, labels)


@pytest.mark.parametrize("base", WRITTEN_OUT)
@pytest.mark.parametrize("cdam", [False, True], ids=["base", "cdam"])
def test_labels_are_those_of_the_plain_computation(tiny, small, base, cdam):
    model, tokenizer = tiny
    sides = {"short_side": 64, "window": 64, "stride": 32}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="threshold:")
        made = tiny_table.segmenter(model, tokenizer, base, cdam=cdam, templates=TEMPLATES, **sides)
        results = made.segment([pixels_of(scene) for scene in small])
    texts = made.texts.features.double()
    double = tiny_table.load()[0].double()
    different = 0
    for scene, result in zip(small, results):
        expected = plain_labels(double, texts, pixels_of(scene), base, cdam)
        different += int((expected != result.labels).sum())
    assert different <= len(small) * 64 * 64 / 1000  # pixels on an edge between two classes


# --- what is said of it


def recorded():
    return json.loads(tiny_table.RECORDED.read_text())


def test_the_recorded_table_has_the_gain():
    """What README says: at 28 x 28 patches, nine classes, no threshold in either."""
    table = recorded()
    assert (table["scenes"], table["seed"]) == (tiny_table.SCENES, tiny_table.SEED)
    assert (table["short_side"], table["window"]) == (224, 224)
    for base in ("sclip", "clearclip"):
        row = table["miou"][base]
        assert row["base"] >= 30
        assert row[tiny_table.FULL] >= row["base"] + 3


def test_the_recorded_table_is_of_these_weights():
    """Some of its scenes again."""
    first = recorded()["first"]
    assert first["scenes"] == tiny_table.FIRST
    for base, row in tiny_table.table(tiny_table.FIRST, ("base", tiny_table.FULL), ("sclip", "clearclip")).items():
        for name, value in row.items():
            assert value == pytest.approx(first["miou"][base][name], abs=0.3), (base, name)
        assert row[tiny_table.FULL] > row["base"], base


SAMPLES = sorted((Path(tiny_table.MODEL).parent / "scenes").glob("*.png"))


def test_there_are_three_sample_scenes():
    assert len(SAMPLES) == 3
    for path in SAMPLES:
        assert path.stat().st_size < 60_000
        with Image.open(path) as image:
            assert image.size == (224, 224)
