"""Photographs and masks that are not what they should be: the failure of one image, which is named."""

import dataclasses
import io
import os

import dataset_trees as trees
import numpy as np
import pytest
import torch
from PIL import Image

from cdam_fast.evaluation import VOID, open_dataset


@pytest.fixture
def one(tmp_path):
    """A data set of one's own of one image, and that image."""
    trees.custom(tmp_path, ("a",))
    dataset = open_dataset("custom", tmp_path, classes=tmp_path / "classes.txt")
    return dataset, dataset.samples[0]


def reason(dataset, sample):
    with pytest.raises(ValueError, match=r"^(mask|photograph) ") as caught:
        dataset.read(sample)
    assert "\n" not in str(caught.value)
    return str(caught.value)


VALUES = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [0, 0, 1, 1]])


def photo_of(sample, values=VALUES):
    trees.write_photo(sample.photo, np.random.default_rng(0), values.shape[::-1])


# --- masks


def saved(values, mode, **options):
    """A mask's file by Pillow's mode."""
    kinds = {"1": bool, "L": np.uint8, "I;16": np.uint16, "I": np.int32}
    image = Image.fromarray(values.astype(kinds.get(mode, np.uint8)))
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    elif mode not in kinds:
        image = image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("1", {}),
        ("L", {}),
        ("P", {}),
        ("P", {"bits": 2}),
        ("P", {"transparency": 0}),
        ("I;16", {}),
        ("I", {"format": "TIFF"}),
        ("I;16", {"format": "TIFF"}),
    ],
    ids=["1", "L", "P", "P-2-bits", "P-transparent", "I;16", "I-tiff", "I;16-tiff"],
)
def test_modes_of_masks(mode, options, one):
    dataset, sample = one
    photo_of(sample)
    values = VALUES.clip(0, 1) if mode == "1" else VALUES
    sample.mask.write_bytes(saved(values, mode, **options))
    _, truth = dataset.read(sample)
    assert np.array_equal(truth, values)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_of_any_bits_is_not_stretched(bits, one):
    dataset, sample = one
    photo_of(sample)
    values = VALUES % 2**bits
    sample.mask.write_bytes(trees.png_of_bits(values, bits))
    assert np.array_equal(dataset.read(sample)[1], values)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_of_any_bits_in_a_tiff(bits, one):
    """Counted from white it is refused: what is stored is not what is shown."""
    dataset, sample = one
    photo_of(sample)
    sample.mask.write_bytes(trees.tiff_of_bits(VALUES % 2**bits, bits))
    assert np.array_equal(dataset.read(sample)[1], VALUES % 2**bits)
    sample.mask.write_bytes(trees.tiff_of_bits(VALUES % 2**bits, bits, white_is_zero=True))
    assert "grey counts from white (WhiteIsZero), takes grey that counts from black" in reason(dataset, sample)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "CMYK", "F"])
def test_masks_of_colour_or_with_alpha(mode, one):
    dataset, sample = one
    photo_of(sample)
    sample.mask.write_bytes(saved(VALUES, mode, format="TIFF"))
    said = f"mask a.png: is of mode {mode}, takes one channel, grey or a palette: the value is the class"
    assert reason(dataset, sample) == said


@pytest.mark.parametrize(
    ("value", "mode"), [(4, "L"), (254, "L"), (256, "I;16"), (65534, "I;16"), (65536, "I"), (-1, "I")]
)
def test_a_value_that_means_nothing(value, mode, one):
    dataset, sample = one
    values = np.where(VALUES == 2, value, VALUES)
    photo_of(sample)
    sample.mask.write_bytes(saved(values, mode, format="TIFF"))
    assert reason(dataset, sample) == f"mask a.png: has the value {value}, takes 0 to 3, 255, 65535"


@pytest.mark.parametrize("void", [255, 65535])
def test_void_of_sixteen_bits(void, one):
    dataset, sample = one
    photo_of(sample)
    sample.mask.write_bytes(saved(np.where(VALUES == 2, void, VALUES), "I;16"))
    assert np.array_equal(dataset.read(sample)[1], np.where(VALUES == 2, VOID, VALUES))


@pytest.mark.parametrize(
    ("tree", "value", "takes"),
    [
        (trees.voc, 21, "0 to 20, 255"),
        (trees.context, 60, "0 to 59, 255"),
        (trees.ade20k, 151, "0 to 150, 255"),
        (trees.cityscapes, 19, "0 to 18, 255"),
        (lambda root: trees.cityscapes(root, train_ids=False), 34, "0 to 33, 255"),
        (lambda root: trees.coco(root, "coco-stuff", "_labelTrainIds"), 171, "0 to 170, 255"),
        (
            lambda root: trees.coco(root, "coco-stuff"),
            11,
            "0 to 10, 12 to 24, 26 to 27, 30 to 43, 45 to 64, 66, 69, 71 to 81, 83 to 89, 91 to 181, 255",
        ),
        (lambda root: trees.coco(root, "coco-object", "_instanceTrainIds"), 81, "0 to 80, 255"),
    ],
    ids=["voc21", "context60", "ade20k", "train-ids", "ids", "stuff", "maps", "object"],
)
def test_values_of_each_data_set(tree, value, takes, tmp_path):
    """COCO's eleven dropped categories among them: street sign is 11."""
    dataset = open_dataset(tree(tmp_path).name, tmp_path)
    sample = dataset.samples[0]
    values = np.zeros(np.asarray(Image.open(sample.mask)).shape)
    values[3, 4] = value
    trees.write_mask(sample.mask, values)
    assert reason(dataset, sample) == f"mask {sample.mask.name}: has the value {value}, takes {takes}"
    dataset.read(dataset.samples[1])


def test_mat_files(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    dataset = open_dataset("context60", trees.context(tmp_path, raw=True).root)
    sample = dataset.samples[0]
    for content, said in (
        ({"LabelMap": np.array([[460]])}, "has the value 460, takes 0 to 459"),
        ({"LabelMap": np.array([[1.5]])}, "is of 2 dimensions, float64, takes one channel"),
        ({"LabelMap": np.ones((2, 2, 2), dtype=np.uint16)}, "is of 3 dimensions, uint16, takes one channel"),
        ({"other": np.array([[1]])}, "cannot be read: KeyError: 'LabelMap'"),
    ):
        savemat(sample.mask, content)
        assert f"mask {sample.mask.name}: {said}" in reason(dataset, sample)
    sample.mask.write_bytes(sample.mask.read_bytes()[:100])
    assert "cannot be read: " in reason(dataset, sample)


# --- files that are missing or damaged


def test_a_file_that_is_missing(one):
    dataset, sample = one
    photo, mask = sample.photo.read_bytes(), sample.mask.read_bytes()
    sample.photo.unlink()
    assert reason(dataset, sample) == "photograph a.jpg: cannot be read: No such file or directory"
    sample.photo.write_bytes(photo)
    sample.mask.unlink()
    assert reason(dataset, sample) == "mask a.png: cannot be read: No such file or directory"
    sample.mask.write_bytes(mask)
    dataset.read(sample)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_truncated_files(share, one):
    dataset, sample = one
    for path in (sample.mask, sample.photo):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        kind = "mask" if path is sample.mask else "photograph"
        assert reason(dataset, sample).startswith(f"{kind} {path.name}: ")
        path.write_bytes(content)


def test_damaged_masks_never_raise_anything_else(one):
    dataset, sample = one
    said = []
    rng = np.random.default_rng(5)
    content = np.frombuffer(sample.mask.read_bytes(), dtype=np.uint8)
    for _ in range(150):
        damaged = content.copy()
        damaged[rng.integers(0, len(damaged), 3)] = rng.integers(0, 256, 3)
        sample.mask.write_bytes(damaged.tobytes())
        try:
            _, truth = dataset.read(sample)
        except ValueError as error:
            said.append(str(error))
        else:
            assert set(np.unique(truth)) <= {-1, 0, 1, 2, 3}
    assert len(said) > 50
    assert all(one.startswith("mask a.png: ") and "\n" not in one for one in said)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.parametrize("ending", [".png", ".mat"])
def test_a_pipe_is_not_waited_for(ending, one):
    dataset, sample = one
    sample = dataclasses.replace(sample, mask=sample.mask.with_suffix(ending))
    sample.mask.unlink(missing_ok=True)
    os.mkfifo(sample.mask)
    assert reason(dataset, sample) == f"mask a{ending}: cannot be read: it is a pipe, takes a file"


def test_photographs_and_masks_that_lack_the_other(tmp_path):
    """Either is an image of the data set, which fails."""
    for tree in (trees.ade20k, trees.cityscapes, lambda root: trees.coco(root, "coco-stuff")):
        tree = tree(tmp_path)
        whole = open_dataset(tree.name, tree.root)
        whole.samples[0].mask.unlink()
        whole.samples[1].photo.unlink()
        dataset = open_dataset(tree.name, tree.root)
        assert dataset.samples == whole.samples
        assert reason(dataset, dataset.samples[0]).startswith(f"mask {whole.samples[0].mask.name}: ")
        assert reason(dataset, dataset.samples[1]).startswith(f"photograph {whole.samples[1].photo.name}: ")
        dataset.read(dataset.samples[2])


def test_a_mask_of_another_size(one):
    dataset, sample = one
    trees.write_mask(sample.mask, np.zeros((31, 40)))
    assert reason(dataset, sample) == "mask a.png: 31x40 pixels, and its photograph has 32x40"


# --- colours and EXIF


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_colours_of_photographs(mode, one):
    dataset, sample = one
    trees.write_photo(sample.photo, np.random.default_rng(1), (40, 32), mode)
    pixels, _ = dataset.read(sample)
    assert pixels.shape == (3, 32, 40)
    assert np.array_equal(pixels.permute(1, 2, 0), np.asarray(Image.open(sample.photo).convert("RGB")))


UPRIGHT = {
    2: lambda pixels: pixels.flip(2),
    3: lambda pixels: pixels.flip(1, 2),
    4: lambda pixels: pixels.flip(1),
    5: lambda pixels: pixels.transpose(1, 2),
    6: lambda pixels: pixels.transpose(1, 2).flip(2),
    7: lambda pixels: pixels.transpose(1, 2).flip(1, 2),
    8: lambda pixels: pixels.transpose(1, 2).flip(1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_photographs_are_upright_and_masks_as_they_are_stored(orientation, one):
    dataset, sample = one
    exif = Image.Exif()
    exif[0x0112] = orientation
    trees.write_photo(sample.photo, np.random.default_rng(2), (40, 32), exif=exif)
    stored = torch.from_numpy(np.array(Image.open(sample.photo))).permute(2, 0, 1)
    upright = UPRIGHT[orientation](stored)
    values = np.random.default_rng(3).integers(0, 4, upright.shape[1:])
    trees.write_mask(sample.mask, values)
    pixels, truth = dataset.read(sample)
    assert torch.equal(pixels, upright)
    assert np.array_equal(truth, values)


def test_a_mask_drawn_before_the_turn_is_said(one):
    dataset, sample = one
    exif = Image.Exif()
    exif[0x0112] = 6
    trees.write_photo(sample.photo, np.random.default_rng(2), (40, 32), exif=exif)
    trees.write_mask(sample.mask, np.zeros((32, 40)))
    said = "mask a.png: 32x40 pixels, and its photograph, turned by its EXIF orientation, has 40x32"
    assert reason(dataset, sample) == said
