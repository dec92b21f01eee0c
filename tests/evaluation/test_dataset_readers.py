"""Each reader on a tree of its own, in every layout that it takes."""

import os
import pickle

import dataset_trees as trees
import numpy as np
import pytest
from PIL import Image

from cdam_fast.evaluation import DATASETS, open_dataset

TREES = {
    "voc21": lambda root: trees.voc(root),
    "voc20": lambda root: trees.voc(root, "voc20"),
    "context60": lambda root: trees.context(root),
    "context59": lambda root: trees.context(root, "context59"),
    "context60-mat": lambda root: trees.context(root, raw=True),
    "context59-mat": lambda root: trees.context(root, "context59", raw=True),
    "coco-stuff": lambda root: trees.coco(root, "coco-stuff", "_labelTrainIds"),
    "coco-stuff-maps": lambda root: trees.coco(root, "coco-stuff"),
    "coco-stuff-download": lambda root: trees.coco(root, "coco-stuff", "", "val2017", "stuffthingmaps/val2017"),
    "coco-object": lambda root: trees.coco(root, "coco-object", "_instanceTrainIds"),
    "coco-object-maps": lambda root: trees.coco(root, "coco-object", masks="annotations/stuffthingmaps/val2017"),
    "coco-object-stuff": lambda root: trees.coco(root, "coco-object", "_labelTrainIds"),
    "cityscapes": lambda root: trees.cityscapes(root),
    "cityscapes-ids": lambda root: trees.cityscapes(root, train_ids=False),
    "ade20k": lambda root: trees.ade20k(root),
}

BACKGROUND = {"voc21", "context60", "coco-object"}


def open_tree(tree):
    classes = tree.root / "classes.txt" if tree.name == "custom" else None
    return open_dataset(tree.name, tree.root, classes=classes)


def check(dataset, tree):
    """Names, photographs and every pixel of the truth."""
    assert dataset.name == tree.name
    assert [sample.name for sample in dataset.samples] == list(tree.masks)
    for sample in dataset.samples:
        pixels, truth = dataset.read(sample)
        assert truth.dtype == np.int16
        assert np.array_equal(truth, tree.truth(sample.name, dataset.classes)), sample
        assert pixels.shape == (3, *truth.shape)
        assert np.array_equal(pixels.permute(1, 2, 0), np.asarray(Image.open(sample.photo).convert("RGB")))


@pytest.mark.parametrize("kind", TREES)
def test_every_pixel_of_every_format(kind, tmp_path):
    if kind.endswith("-mat"):
        pytest.importorskip("scipy")
    tree = TREES[kind](tmp_path)
    dataset = open_tree(tree)
    check(dataset, tree)
    assert dataset.background == (0 if tree.name in BACKGROUND else None)
    if tree.name in BACKGROUND:
        assert dataset.classes[0] == "background"


def test_every_data_set_has_a_tree():
    assert {kind for kind in TREES if kind in DATASETS} == set(DATASETS)
    assert len(DATASETS) == 8


@pytest.mark.parametrize(
    ("kind", "roots"),
    [
        ("voc21", ("VOCdevkit/VOC2012", "VOCdevkit", "")),
        ("context60", ("VOCdevkit/VOC2010", "VOCdevkit", "")),
        ("coco-stuff", ("coco_stuff164k", "")),
        ("coco-object", ("coco_stuff164k", "")),
        ("cityscapes", ("cityscapes", "")),
        ("ade20k", ("ADEChallengeData2016", "")),
    ],
)
def test_the_root_may_be_a_folder_above(kind, roots, tmp_path, monkeypatch):
    tree = TREES[kind](tmp_path)
    monkeypatch.chdir(tmp_path)
    for root in roots:
        for given in (tmp_path / root, str(tmp_path / root), os.path.join(".", root)):  # noqa: PTH118
            check(open_dataset(kind, given), tree)


def test_a_link_is_a_folder_too(tmp_path):
    tree = trees.voc(tmp_path / "elsewhere")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "VOC2012").symlink_to(tree.root, target_is_directory=True)
    check(open_dataset("voc21", tmp_path / "here"), tree)


def test_of_several_kinds_of_masks_the_converted_ones_are_taken(tmp_path):
    for name in ("coco-stuff", "coco-object"):
        trees.coco(tmp_path, name)
    stuff = trees.coco(tmp_path, "coco-stuff", "_labelTrainIds")
    things = trees.coco(tmp_path, "coco-object", "_instanceTrainIds")
    check(open_dataset("coco-stuff", tmp_path), stuff)
    check(open_dataset("coco-object", tmp_path), things)
    trees.cityscapes(tmp_path, train_ids=False)
    tree = trees.cityscapes(tmp_path)
    check(open_dataset("cityscapes", tmp_path), tree)


def test_notes_say_what_differs_from_the_whole_set(tmp_path):
    pytest.importorskip("scipy")
    for kind, said in {
        "voc21": "4 images; the whole set has 1449",
        "context60": "3 images by ImageSets/SegmentationContext/val.txt; lists of 5105 and of 5104 are in use",
        "context60-mat": "59 classes taken from the 459 of the .mat files",
        "coco-stuff-maps": "4 images; the whole set has 5000; ids of stuffthingmaps to 171 classes",
        "coco-object-maps": "things of stuffthingmaps, all else background",
        "cityscapes-ids": "3 images; the whole set has 500; ids to 19 classes",
        "ade20k": "5 images; the whole set has 2000",
    }.items():
        assert said in open_tree(TREES[kind](tmp_path / kind)).note


def test_a_whole_data_set_has_nothing_to_note(tmp_path):
    tree = trees.voc(tmp_path)
    names = [*tree.masks, *(f"{i:06d}" for i in range(1445))]
    (tree.root / "ImageSets/Segmentation/val.txt").write_text("\n".join(names))
    assert open_tree(tree).note == ""


def test_a_worker_process_may_have_it(tmp_path):
    tree = trees.voc(tmp_path)
    check(pickle.loads(pickle.dumps(open_tree(tree))), tree)


def test_files_of_the_system_are_no_samples(tmp_path):
    tree = trees.ade20k(tmp_path)
    for name in (".DS_Store", "._ADE_val_00000001.png", "Thumbs.db", "notes.txt"):
        for folder in ("images", "annotations"):
            (tree.root / folder / "validation" / name).write_bytes(b"x")
    check(open_tree(tree), tree)


# --- a data set of one's own


@pytest.mark.parametrize("masks", ["masks", "annotations"])
def test_folders_of_ones_own(masks, tmp_path):
    tree = trees.custom(tmp_path, masks=masks)
    dataset = open_tree(tree)
    check(dataset, tree)
    assert dataset.classes == ("backdrop", "straße", "cat", "日本の木")
    assert dataset.background == 0


def test_names_with_accents_taken_apart_are_the_same_names(tmp_path):
    tree = trees.custom(tmp_path, ("Ähre",))
    (tmp_path / "masks" / "Ähre.png").rename(tmp_path / "masks" / "A\u0308hre.png")
    check(open_tree(tree), tree)


@pytest.mark.parametrize("ending", ["PNG", "tif", "bmp"])
def test_masks_of_other_formats(ending, tmp_path):
    tree = trees.custom(tmp_path, ("a",))
    mask = tmp_path / "masks" / "a.png"
    with Image.open(mask) as image:
        image.load()
    mask.unlink()
    image.save(mask.with_suffix(f".{ending}"))
    check(open_tree(tree), tree)


def test_without_a_background(tmp_path):
    tree = trees.custom(tmp_path, ("a",))
    (tmp_path / "classes.txt").write_text("backdrop\nstraße\ncat\n日本の木", encoding="utf-8")
    assert open_tree(tree).background is None


@pytest.mark.parametrize(("count", "void"), [(255, (255, 65535)), (256, (65535,)), (400, (65535,))])
def test_void_of_many_classes(count, void, tmp_path):
    """255 is void until there is a class of that number."""
    trees.custom(tmp_path, ("a",))
    (tmp_path / "classes.txt").write_text("\n".join(f"class {i}" for i in range(count)))
    values = np.array([[0, 254, min(255, count - 1)], [count - 1, void[0], 65535]])
    trees.write_photo(tmp_path / "images" / "a.jpg", np.random.default_rng(0), (3, 2))
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "masks" / "a.png")
    dataset = open_dataset("custom", tmp_path, classes=tmp_path / "classes.txt")
    expected = np.array([[0, 254, min(255, count - 1)], [count - 1, -1, -1]])
    assert np.array_equal(dataset.truth(dataset.samples[0]), expected)
