"""The tiny CLIP that ships with the tests: real segmentations of scenes with known masks, without a download."""

import json
import warnings
from pathlib import Path

import numpy as np
import open_clip
import pytest
import tiny_scenes
import tiny_table
import tiny_train
import torch
from torch.nn import functional
from towers import WRITTEN_OUT, plain_features

from cdam_fast import entropy_threshold, reference

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def tiny():
    return tiny_table.load()


@pytest.fixture(scope="module")
def scenes():
    return tiny_scenes.make_scenes(8, tiny_table.SEED)


def test_scenes_are_the_same_for_the_same_seed(scenes):
    again = tiny_scenes.make_scenes(8, tiny_table.SEED)
    for one, other in zip(scenes, again):
        assert np.array_equal(one.pixels, other.pixels)
        assert one.things == other.things
        present = {tiny_scenes.CLASSES[label] for label in np.unique(one.labels)}
        assert present == {"background", *(thing.shape for thing in one.things)}


def test_captions_are_true_of_their_scene(scenes):
    rng = np.random.default_rng(0)
    for scene in scenes:
        text, said = scene.caption(rng, "a photo of a {}.".format)
        assert tiny_train.phrases_true_of(scene, said)
        assert all(shape in text for shape, _, _ in said)
        assert not tiny_train.phrases_true_of(scene, [*said, ("spiral", None, None)])


def test_the_shipped_file_is_small_and_has_its_log():
    assert tiny_table.MODEL.with_suffix(".safetensors").stat().st_size < 3e6
    assert (DATA / "tiny_clip.log").read_text().startswith(f"seed {tiny_train.SEED}, ")


@torch.no_grad()
def plain_labels(model, texts, pixels, base, cdam):
    """Labels [96, 96] of one scene in one window, with the entropy threshold, in float64."""
    image = torch.from_numpy(pixels).permute(2, 0, 1).double() / 255
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).double().view(3, 1, 1)
    deviation = torch.tensor(open_clip.OPENAI_DATASET_STD).double().view(3, 1, 1)
    image = (image - mean) / deviation
    features = plain_features(model, image, base)
    if cdam:
        attention = reference.cdam_attention((features @ texts.T).T.reshape(-1, 8, 8))
        features = plain_features(model, image, base, attention)
    logits = (features @ texts[:9].T).T
    scale = 0.5 * float(model.logit_scale.detach().exp())
    threshold = entropy_threshold(logits, logit_scale=scale)
    upsampled = functional.interpolate(logits.reshape(1, 9, 8, 8), size=(96, 96), mode="bilinear")
    most, labels = torch.softmax(scale * upsampled[0], 0).max(0)
    return torch.where(most < threshold, 0, labels)


@pytest.mark.parametrize("base", WRITTEN_OUT)
@pytest.mark.parametrize("cdam", [False, True], ids=["base", "cdam"])
def test_labels_are_those_of_the_plain_computation(tiny, scenes, base, cdam):
    model, tokenizer = tiny
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="threshold:")
        made = tiny_table.segmenter(model, tokenizer, base, cdam=cdam)
        results = made.segment([torch.from_numpy(scene.pixels).permute(2, 0, 1) for scene in scenes])
    texts = tiny_table.segmenter(model, tokenizer, base).texts.features.double()
    double = tiny_table.load()[0].double()
    different = 0
    for scene, result in zip(scenes, results):
        expected = plain_labels(double, texts, scene.pixels, base, cdam)
        different += int((expected != result.labels).sum())
    assert different <= 8 * 96 * 96 / 1000  # pixels on an edge between two classes


def test_the_recorded_table():
    """README's numbers, for two bases, of the same scenes."""
    recorded = json.loads((DATA / "tiny_clip_miou.json").read_text())
    assert (recorded["scenes"], recorded["seed"]) == (tiny_table.SCENES, tiny_table.SEED)
    bases = ("maskclip", "gem")
    columns = {name: tiny_table.COLUMNS[name] for name in ("base", "+ augmented prompts")}
    for base, row in tiny_table.table(columns=columns, bases=bases).items():
        for name, value in row.items():
            assert value == pytest.approx(recorded["miou"][base][name], abs=0.2), (base, name)
