"""The matrix and the mean of a data set on disk: by hand, and counted pixel by pixel."""

import dataset_trees as trees
import numpy as np
import pytest
import torch
from PIL import Image

from cdam_fast.evaluation import VOID, evaluate, open_dataset

pytest.importorskip("torchmetrics")

CLASSES = ("a", "b", "c", "d", "e")
V = 255

MASKS = {
    "one": [[0, 0, 1], [1, V, 0]],
    "two": [[0, 0, V], [V, 1, 1]],
}
PREDICTIONS = {
    "one": [[0, 1, 1], [1, 2, 2]],
    "two": [[0, 0, 3], [3, 1, 0]],
}
CONFUSION = [  # rows the truth, columns the prediction; three pixels are void
    [3, 1, 1, 0, 0],
    [1, 3, 0, 0, 0],
    [0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0],
]


def test_by_hand(tmp_path):
    """c is absent but predicted: 0. d is predicted on void only, e is nowhere: both are left out of the mean."""
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    for name, values in MASKS.items():
        trees.write_mask(tmp_path / "masks" / f"{name}.png", np.array(values))
        trees.write_photo(tmp_path / "images" / f"{name}.jpg", np.random.default_rng(0), (3, 2))
    dataset = open_dataset("custom", tmp_path, classes=tmp_path / "classes.txt")
    segmenter = trees.GivenSegmenter(CLASSES, [torch.tensor(PREDICTIONS[sample.name]) for sample in dataset.samples])
    result = evaluate(segmenter, dataset)
    assert result.confusion.tolist() == CONFUSION
    assert result.iou == {"a": pytest.approx(3 / 6), "b": pytest.approx(3 / 5), "c": 0.0, "d": None, "e": None}
    assert result.miou == pytest.approx((1 / 2 + 3 / 5 + 0) / 3)
    assert (result.images, result.failed) == (2, [])


def mmseg_mean(pairs, classes):
    """As mmseg's IoUMetric: intersections and unions of each image added up, NaN left out of the mean."""
    both, union = np.zeros(classes), np.zeros(classes)
    for truth, predicted in pairs:
        for row, of_row in zip(truth, predicted):
            for one, other in zip(row, of_row):
                if one == VOID:
                    continue
                if one == other:
                    both[one] += 1
                    union[one] += 1
                else:
                    union[one] += 1
                    union[other] += 1
    with np.errstate(invalid="ignore"):
        return float(np.nanmean(both / union))


TREES = {
    "voc21": lambda root: trees.voc(root),
    "voc20": lambda root: trees.voc(root, "voc20"),
    "context60": lambda root: trees.context(root),
    "context59": lambda root: trees.context(root, "context59"),
    "coco-stuff": lambda root: trees.coco(root, "coco-stuff"),
    "coco-object": lambda root: trees.coco(root, "coco-object"),
    "cityscapes": lambda root: trees.cityscapes(root, train_ids=False),
    "ade20k": lambda root: trees.ade20k(root),
}


@pytest.mark.parametrize("name", TREES)
def test_every_data_set(name, tmp_path):
    """Predictions that are right for about half of the pixels."""
    tree = TREES[name](tmp_path)
    dataset = open_dataset(name, tmp_path)
    rng = np.random.default_rng(11)
    count = len(dataset.classes)
    pairs = []
    for image in tree.masks:
        truth = tree.truth(image, dataset.classes)
        random = rng.integers(0, count, truth.shape)
        pairs.append((truth, np.where((rng.random(truth.shape) < 0.5) & (truth >= 0), truth, random)))
    expected = np.zeros((count, count), dtype=int)
    for truth, predicted in pairs:
        for one, other in zip(truth.ravel().tolist(), predicted.ravel().tolist()):
            if one >= 0:
                expected[one, other] += 1
    result = evaluate(trees.GivenSegmenter(dataset.classes, [torch.from_numpy(two) for _, two in pairs]), dataset)
    assert np.array_equal(result.confusion, expected)
    assert result.miou == pytest.approx(mmseg_mean(pairs, count), rel=1e-12)
    assert 0.01 < result.miou < 0.9


def test_awkward_images_fail_each_by_itself(tmp_path):
    names = ["cmyk", "damaged", "grey", "no mask", "no photograph", "other size", "red", "strange", "turned", "Ähre日"]
    tree = trees.custom(tmp_path, names)
    random = np.random.default_rng(4)
    masks, images = tmp_path / "masks", tmp_path / "images"
    trees.write_photo(images / "cmyk.jpg", random, (20, 20), "CMYK")
    trees.write_mask(masks / "cmyk.png", np.zeros((20, 20)))
    tree.masks["cmyk"] = np.zeros((20, 20))
    (masks / "damaged.png").write_bytes((masks / "damaged.png").read_bytes()[:60])
    trees.write_photo(images / "grey.jpg", random, tree.masks["grey"].shape[::-1], "L")
    (masks / "no mask.png").unlink()
    (images / "no photograph.jpg").unlink()
    trees.write_mask(masks / "other size.png", np.zeros((9, 8)))
    Image.open(masks / "red.png").convert("RGB").save(masks / "red.png")
    trees.write_mask(masks / "strange.png", np.full(tree.masks["strange"].shape, 99))
    exif = Image.Exif()
    exif[0x0112] = 8
    height, width = tree.masks["turned"].shape
    trees.write_photo(images / "turned.jpg", random, (height, width), exif=exif)
    Image.fromarray(tree.masks["Ähre日"].astype(np.uint16)).save(masks / "Ähre日.png")

    dataset = open_dataset("custom", tmp_path, classes=tmp_path / "classes.txt")
    good = ["cmyk", "grey", "turned", "Ähre日"]
    right = [np.maximum(tree.truth(name, dataset.classes), 0) for name in good]
    heard = []
    segmenter = trees.GivenSegmenter(dataset.classes, map(torch.from_numpy, right))
    result = evaluate(segmenter, dataset, on_image=lambda name, _: heard.append(name))
    assert segmenter.seen == [(3, *one.shape) for one in right]
    assert sorted(heard) == sorted(names)
    failed = dict(result.failed)
    assert list(failed) == ["damaged", "no mask", "no photograph", "other size", "red", "strange"]
    for name, said in {
        "damaged": "mask damaged.png: cannot be read: ",
        "no mask": "mask no mask.png: cannot be read: No such file",
        "no photograph": "photograph no photograph.jpg: cannot be read: No such file",
        "other size": "mask other size.png: 9x8 pixels, and its photograph has ",
        "red": "mask red.png: is of mode RGB",
        "strange": "mask strange.png: has the value 99, takes 0 to 3, 255, 65535",
    }.items():
        assert failed[name].startswith(said)
    assert result.images == 4
    assert result.miou == 1.0
    assert int(result.confusion.sum()) == sum(int((tree.truth(name, dataset.classes) >= 0).sum()) for name in good)


def test_void_only(tmp_path):
    trees.custom(tmp_path, ("a",))
    trees.write_mask(tmp_path / "masks" / "a.png", np.full((32, 40), V))
    dataset = open_dataset("custom", tmp_path, classes=tmp_path / "classes.txt")
    result = evaluate(trees.GivenSegmenter(dataset.classes, [torch.zeros(32, 40, dtype=torch.int64)]), dataset)
    assert result.miou is None
    assert int(result.confusion.sum()) == 0
