"""Generated scenes as a data set on disk."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from cdam_fast.evaluation.scenes import CLASSES, make_scenes, write_scenes


def test_the_scenes_of_a_seed_are_on_disk(tmp_path):
    dataset = write_scenes(tmp_path / "new" / "scenes", 5, 7, 96)
    assert dataset.name == "custom"
    assert dataset.classes == CLASSES
    assert dataset.background == 0
    assert [sample.name for sample in dataset.samples] == [f"{i:05d}" for i in range(5)]
    for sample, scene in zip(dataset.samples, make_scenes(5, 7, 96)):
        pixels, truth = dataset.read(sample)
        assert np.array_equal(pixels.permute(1, 2, 0), scene.pixels)
        assert np.array_equal(truth, scene.labels)


def test_again_is_the_same_and_what_is_of_others_is_left_alone(tmp_path):
    write_scenes(tmp_path, 3, 1, 64)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    write_scenes(tmp_path, 3, 1, 64)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
    with pytest.raises(ValueError, match=r"^root: got .*, takes a folder of its own: there is .*00002\.png$"):
        write_scenes(tmp_path, 2, 1, 64)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


@pytest.mark.parametrize("count", [0, -1])
def test_no_scene(count, tmp_path):
    with pytest.raises(ValueError, match=f"^count: got {count}, takes a whole number from 1$"):
        write_scenes(tmp_path / "scenes", count, 0)
    assert not (tmp_path / "scenes").exists()


def test_one_scene_at_a_time_is_in_memory(tmp_path):
    """100 scenes of 96 x 96 are 3.7 MB of pixels and labels."""
    write_scenes(tmp_path / "warm", 2, 0, 96)
    tracemalloc.start()
    write_scenes(tmp_path / "scenes", 100, 0, 96)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5e6


def test_masks_are_grey(tmp_path):
    dataset = write_scenes(tmp_path, 1, 98)
    with Image.open(dataset.samples[0].mask) as mask:
        assert (mask.mode, mask.size) == ("L", (224, 224))
