"""What a segmentation is saved, shown and described as."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from cdam_fast import Segmentation
from cdam_fast.segmentation.palette import MOST_CLASSES, palette, seen

# what somebody with one kind of cone missing tells apart at a glance, in CIELAB; 2.3 is just noticeable
APART = 10.0


def segmentation(labels, names=("background", "cat", "sofa"), synonyms=(1, 2, 1), background=0):
    labels = torch.as_tensor(labels)
    words = ("background", "cat", "kitten", "sofa") if sum(synonyms) == 4 else tuple(map(str, range(sum(synonyms))))
    logits = torch.zeros(sum(synonyms), 2, 2)
    probability = torch.full(labels.shape, 0.25)
    return Segmentation(labels, probability, 0.5, tuple(names), logits, tuple(synonyms), words, background)


HALVES = segmentation([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 2, 2]])


def test_saved_labels_are_the_indices(tmp_path):
    HALVES.save(tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), HALVES.labels.numpy())
        assert image.getpalette()[:3] == [0, 0, 0]
    HALVES.save(str(tmp_path / "again.PNG"))
    assert (tmp_path / "again.PNG").read_bytes() == (tmp_path / "out.png").read_bytes()


@pytest.mark.parametrize("name", ["out.jpg", "out", "out.png.gif"])
def test_a_format_that_loses_indices_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"path: got .*, takes a name that ends in \.png"):
        HALVES.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_dict_for_json():
    found = json.loads(json.dumps(HALVES.to_dict()))
    assert (found["height"], found["width"], found["threshold"]) == (3, 4, 0.5)
    cat = found["classes"][1]
    assert (cat["class"], cat["words"], cat["label"], cat["pixels"]) == ("cat", ["cat", "kitten"], 1, 4)
    assert cat["area"] == pytest.approx(1 / 3)
    assert cat["score"] == pytest.approx(0.25)
    assert [row["words"] for row in found["classes"]] == [["background"], ["cat", "kitten"], ["sofa"]]
    assert segmentation(torch.zeros(2, 2).long()).to_dict()["classes"][2]["score"] is None


def tints_of(overlay, grey):
    """Colour of the middle of each half of the picture, less the photograph's share."""
    pixels = np.asarray(overlay.convert("RGB")).astype(int)
    height = overlay.width * 3 // 4
    return [pixels[height // 8, overlay.width // 16] - grey, pixels[height // 8, -overlay.width // 16] - grey]


@pytest.mark.parametrize("kind", ["PIL", "array", "uint8", "float"])
def test_overlay_of_every_kind_of_image(kind):
    grey = np.full((3, 4, 3), 100, dtype=np.uint8)
    tensor = torch.from_numpy(grey).permute(2, 0, 1)
    image = {"PIL": Image.fromarray(grey), "array": grey, "uint8": tensor, "float": tensor / 255}[kind]
    overlay = HALVES.overlay(image)
    background, cat = tints_of(overlay, 100)
    assert (background < 0).all()  # darkened
    expected = np.array(palette(3, 0)[1]) - 100
    assert (np.sign(cat) == np.sign(expected)).all()
    assert overlay.height > overlay.width * 3 // 4  # a legend below


def test_overlay_of_another_image_is_refused():
    with pytest.raises(ValueError, match=r"image: got 4x4 pixels, takes the 3x4 that were segmented"):
        HALVES.overlay(torch.zeros(3, 4, 4))
    with pytest.raises(TypeError, match="image: got str"):
        HALVES.overlay("photo.jpg")


def test_a_notebook_shows_a_png():
    image = Image.open(io.BytesIO(HALVES._repr_png_()))
    assert image.format == "PNG"
    colours = {tuple(colour) for colour in np.asarray(image.convert("RGB")).reshape(-1, 3)}
    assert set(palette(3, 0)) <= colours


def test_more_classes_than_a_palette_has_are_said():
    count = MOST_CLASSES + 1
    many = segmentation(torch.zeros(2, 2).long(), map(str, range(count)), [1] * count, None)
    assert many.to_dict()["classes"][-1]["colour"] is None
    for draw in (many._repr_png_, lambda: many.overlay(torch.zeros(3, 2, 2))):
        with pytest.raises(ValueError, match="class_names: got 257 classes, a picture takes at most 256"):
            draw()


@pytest.mark.parametrize(("count", "least"), [(8, APART), (21, APART), (60, 5.0), (256, 2.3)])
def test_colours_stay_apart_for_every_vision(count, least):
    places = seen(np.array(palette(count, 0), dtype=float))
    apart = np.linalg.norm(places[:, :, None] - places[:, None], axis=-1).min(0)
    assert apart[~np.eye(count, dtype=bool)].min() >= least


def test_who_sees_what():
    """Against colours as others print them: sRGB red in CIELAB, and red and green that a deuteranope confuses."""
    red = seen(np.array([[255.0, 0.0, 0.0]]))[0, 0]
    assert red == pytest.approx([53.2, 80.1, 67.2], abs=0.3)
    confused = seen(np.array([[154.0, 117.0, 0.0], [200.0, 90.0, 0.0]]))
    assert np.linalg.norm(confused[2, 0] - confused[2, 1]) < np.linalg.norm(confused[0, 0] - confused[0, 1]) / 2
    grey = seen(np.array([[128.0, 128.0, 128.0]]))
    assert grey[:, 0, 1:] == pytest.approx(0, abs=1.0)
