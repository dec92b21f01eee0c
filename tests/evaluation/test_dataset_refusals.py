"""What is not as it should be, in one line that names it: roots, lists, class files."""

import os
import re
import shutil
import sys
from pathlib import Path

import dataset_trees as trees
import pytest

from cdam_fast.evaluation import DATASETS, open_dataset


def refusal(name, root, **options):
    with pytest.raises(ValueError, match=r"^\w+: ") as caught:
        open_dataset(name, root, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", DATASETS)
def test_an_empty_root_names_what_is_expected_and_where_it_was_looked_for(name, tmp_path):
    message = refusal(name, tmp_path)
    wanted = {
        "voc": "ImageSets/Segmentation/val.txt",
        "context": "JPEGImages",
        "coco": "images/val2017",
        "cityscapes": "leftImg8bit/val",
        "ade20k": "images/validation",
    }
    assert wanted[re.match(r"(voc|context|coco|cityscapes|ade20k)", name)[0]] in message
    assert message.startswith(f"root: got {tmp_path}, takes ")
    assert message.count(str(tmp_path)) >= 3  # the root, and what it may be above of


@pytest.mark.parametrize("name", [*DATASETS, "custom"])
def test_a_root_that_is_no_folder(name, tmp_path):
    options = {"classes": tmp_path / "classes.txt"} if name == "custom" else {}
    (tmp_path / "file").write_text("x")
    assert refusal(name, tmp_path / "file", **options) == f"root: {tmp_path / 'file'} is a file, takes a folder"
    missing = tmp_path / "nowhere"
    assert refusal(name, missing, **options) == f"root: {missing} is not there, takes a folder"
    assert refusal(name, "", **options) == "root: got an empty name, takes a folder"  # of a variable that is not set


def test_a_root_at_home(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    trees.custom(tmp_path / "data")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    opened = open_dataset("custom", "~/data", classes=tmp_path / "data/classes.txt")
    assert opened.samples[0].photo.is_relative_to(tmp_path)
    assert refusal("voc21", "~/nowhere").startswith(f"root: {tmp_path / 'nowhere'} is not there")


@pytest.mark.parametrize(
    ("tree", "folder", "named"),
    [
        (trees.voc, "JPEGImages", "no JPEGImages in {root}"),
        (trees.voc, "SegmentationClass", "no SegmentationClass in {root}"),
        (trees.context, "SegmentationClassContext", "no SegmentationClassContext in {root}, nor trainval"),
        (trees.context, "ImageSets", "no ImageSets/SegmentationContext/val.txt in {root}"),
        (trees.cityscapes, "gtFine", "no gtFine/val in {root}"),
        (trees.cityscapes, "gtFine/val/lindau", None),
        (trees.ade20k, "annotations", "no annotations/validation in {root}"),
    ],
)
def test_a_folder_that_is_missing(tree, folder, named, tmp_path):
    tree = tree(tmp_path)
    shutil.rmtree(tree.root / folder)
    if named is None:  # masks of one town: its images fail, one by one
        assert len(open_dataset(tree.name, tmp_path).samples) == 3
    else:
        assert named.format(root=tree.root) in refusal(tree.name, tmp_path)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("coco-stuff", "no *_labelTrainIds.png or *.png in annotations/val2017 or stuffthingmaps/val2017"),
        ("coco-object", "no *_instanceTrainIds.png or *.png or *_labelTrainIds.png in annotations/val2017"),
    ],
)
def test_coco_without_masks(name, named, tmp_path):
    tree = trees.coco(tmp_path, name)
    shutil.rmtree(tree.root / "annotations")
    (tree.root / "annotations").mkdir()
    (tree.root / "annotations" / "instances_val2017.json").write_text("{}")
    message = refusal(name, tmp_path)
    assert named in message
    assert ("instances_val2017.json are not read" in message) == (name == "coco-object")


def test_empty_folders_of_masks(tmp_path):
    for tree, masks in ((trees.cityscapes, "gtFine/val"), (trees.ade20k, "annotations/validation")):
        tree = tree(tmp_path / tree.__name__)
        for mask in list((tree.root / masks).rglob("*.png")):
            mask.unlink()
        assert re.search(rf"no \*\S*\.png .*in .*{tree.root / masks}$", refusal(tree.name, tree.root))


@pytest.mark.parametrize(
    ("tree", "what"),
    [
        (trees.voc, "photo"),
        (trees.voc, "mask"),
        (trees.context, "mask"),
        (lambda root: trees.coco(root, "coco-stuff"), "photo"),
        (trees.cityscapes, "photo"),
        (trees.ade20k, "photo"),
    ],
    ids=["voc-photo", "voc-mask", "context-mask", "coco-photo", "cityscapes-photo", "ade20k-photo"],
)
def test_folders_without_one_file_that_is_wanted(tree, what, tmp_path):
    """With one pair left, the other images fail one by one."""
    tree = tree(tmp_path)
    first, *others = open_dataset(tree.name, tmp_path).samples
    for sample in others:
        getattr(sample, what).unlink()
    assert len(open_dataset(tree.name, tmp_path).samples) == len(others) + 1
    file = getattr(first, what)
    file.unlink()
    message = refusal(tree.name, tmp_path)
    assert message == f"root: not one of {len(others) + 1} images has photograph and mask; there is no {file}"


def test_masks_named_otherwise_than_photographs(tmp_path):
    trees.custom(tmp_path, ("a", "b"))
    for name in "ab":
        (tmp_path / "masks" / f"{name}.png").rename(tmp_path / "masks" / f"{name}_mask.png")
    message = refusal("custom", tmp_path, classes=tmp_path / "classes.txt")
    assert message == f"root: not one of 4 images has photograph and mask; there is no {tmp_path / 'masks' / 'a.png'}"


def test_context_without_scipy_says_so_at_once(tmp_path, monkeypatch):
    pytest.importorskip("scipy")
    tree = trees.context(tmp_path, raw=True)
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ModuleNotFoundError, match="scipy"):
        open_dataset(tree.name, tmp_path)


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    trees.custom(tmp_path, ("a",))

    def forbid(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", forbid)
    message = refusal("custom", tmp_path, classes=tmp_path / "classes.txt")
    assert message == f"root: cannot read {tmp_path / 'images'}: Permission denied"


@pytest.mark.parametrize("root", ["x" * 300, "/".join("a" * 3000)])
def test_a_root_of_no_possible_name(root):
    assert str(root) in refusal("voc21", root)


@pytest.mark.parametrize("value", [3, b"data", ["data"]])
def test_what_is_no_path(value, tmp_path):
    for argument, options in (("root", {"root": value}), ("classes", {"root": tmp_path, "classes": value})):
        with pytest.raises(TypeError, match=rf"^{argument}: got {type(value).__name__}, takes a f"):
            open_dataset("custom", **({"classes": "classes.txt"} | options))


# --- lists


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "has no name, takes one a line"),
        (b"\xef\xbb\xbf\r\n \r\n\t\r\n", "has no name, takes one a line"),
        (b"2007_000033\n2009_000012 -1\n", "line 2: got '2009_000012 -1', takes the name of one photograph"),
        (b"/etc/passwd\n", "line 1: got '/etc/passwd'"),
        (b"a\n\n../../b\n", "line 3: got '../../b'"),
        (b"a\nb\r\n\na \n", "line 4: a is in line 1 already"),
        (b"a\n\xff\xfe\n", "cannot read"),
        (b"a\n2007_000033.JPG\n", "line 2: got 2007_000033.JPG, takes a name without its ending"),
    ],
    ids=["empty", "blank", "two-columns", "absolute", "above", "twice", "no-text", "ending"],
)
def test_lists(content, named, tmp_path):
    path = trees.voc(tmp_path).root / "ImageSets" / "Segmentation" / "val.txt"
    path.write_bytes(content)
    message = refusal("voc21", tmp_path)
    assert named in message
    assert str(path) in message


def test_a_list_with_names_beyond_ascii_and_a_byte_order_mark(tmp_path):
    tree = trees.voc(tmp_path)
    for folder, ending in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
        (tree.root / folder / f"2007_000033{ending}").rename(tree.root / folder / f"Übung_日本{ending}")
    path = tree.root / "ImageSets" / "Segmentation" / "val.txt"
    path.write_bytes("\ufeffÜbung_日本 \r\n2008_000007".encode())
    dataset = open_dataset("voc21", tmp_path)
    assert [sample.name for sample in dataset.samples] == ["Übung_日本", "2008_000007"]
    assert all(dataset.read(sample) for sample in dataset.samples)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders")
def test_a_list_that_is_a_pipe(tmp_path):
    tree = trees.voc(tmp_path)
    path = tree.root / "ImageSets" / "Segmentation" / "val.txt"
    path.unlink()
    os.mkfifo(path)
    assert refusal("voc21", tmp_path) == f"root: cannot read {path}: it is a pipe, takes a file"


# --- names and class files


@pytest.mark.parametrize("name", ["voc", "VOC21", "", "customs", None, 3])
def test_names(name, tmp_path):
    assert refusal(name, tmp_path).startswith(f"name: got {name!r}, takes one of voc21, voc20,")


def test_a_class_file_goes_with_custom_and_nothing_else(tmp_path):
    trees.custom(tmp_path)
    assert refusal("custom", tmp_path) == "classes: got None, takes the file of its classes with custom"
    message = refusal("voc21", tmp_path, classes=tmp_path / "classes.txt")
    assert message == f"classes: got {tmp_path / 'classes.txt'}, takes None with voc21"
    assert refusal("custom", tmp_path, classes="") == "classes: got an empty name, takes a file, a class a line"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "is not there"),
        ("\n \n", "has no class"),
        ("cat\n,;\n", "line 2"),
        ("cat\ndog\ncat, kitten\n", "has 2 classes of the name 'cat'"),
        ("\n".join(map(str, range(32768))), "has 32768 classes, takes at most 32767"),
    ],
    ids=["missing", "blank", "no-word", "twice", "many"],
)
def test_class_files(content, named, tmp_path):
    trees.custom(tmp_path, ("a",))
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_text(content)
    message = refusal("custom", tmp_path, classes=path)
    assert message.startswith("classes: ")
    assert named in message
    assert str(path) in message


def test_folders_of_ones_own(tmp_path):
    def message():
        return refusal("custom", tmp_path, classes=tmp_path / "classes.txt")

    trees.custom(tmp_path, ("a",))
    (tmp_path / "images" / "a.png").write_bytes(b"x")
    assert message() == f"root: {tmp_path / 'images'} has two photographs of one name: a.jpg and a.png"
    (tmp_path / "images" / "a.png").unlink()
    (tmp_path / "annotations").mkdir()
    assert message().endswith("takes a folder with images and masks or annotations: there is masks and annotations")
    (tmp_path / "annotations").rmdir()
    (tmp_path / "masks" / "a.png").unlink()
    assert message().startswith(f"root: no mask in {tmp_path / 'masks'}, takes files ending in ")
    (tmp_path / "masks").rmdir()
    assert message().endswith("there is no masks or annotations")
    shutil.rmtree(tmp_path / "images")
    assert f"no images in {tmp_path}" in message()
    (tmp_path / "images").mkdir()
    assert message().startswith(f"root: no photograph in {tmp_path / 'images'}")
