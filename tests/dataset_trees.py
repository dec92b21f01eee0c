"""Small data sets in the formats in which the field's lie on disk, and what each mask was written from.

What a value stands for is written out here from the data sets' own documents, a few values of each, so that a reader's
own table is not what it is compared with.
"""

import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image
from small_evaluations import make_segmenter

SIZES = ((40, 32), (33, 21), (24, 60), (20, 20))
"""Width and height."""

VOC = {0: "background", 1: "aeroplane", 5: "bottle", 11: "dining table", 20: "tv monitor", 255: None}
CONTEXT = {0: "background", 1: "aeroplane", 2: "bag", 21: "cup", 59: "wood"}
CONTEXT_LABELS = {1: "background", 2: "aeroplane", 9: "bag", 104: "cup", 458: "wood", 459: "background"}
"""Of labels.txt, where 1 is an accordion and 459 wool."""
ADE = {0: None, 1: "wall", 2: "building", 90: "television receiver", 150: "flag"}
CITY_IDS = {0: None, 3: None, 7: "road", 9: None, 19: "traffic light", 28: "bus", 29: None, 31: "train", 33: "bicycle"}
CITY_TRAIN_IDS = {0: "road", 6: "traffic light", 15: "bus", 16: "train", 18: "bicycle", 255: None}
STUFF_MAPS = {0: "person", 10: "fire hydrant", 12: "stop sign", 89: "toothbrush", 91: "banner", 181: "wood", 255: None}
"""A value is one less than the number in labels.txt."""
STUFF_TRAIN_IDS = {0: "person", 11: "stop sign", 79: "toothbrush", 80: "banner", 170: "wood", 255: None}
OBJECT_TRAIN_IDS = {0: "background", 1: "person", 12: "stop sign", 80: "toothbrush"}


def things_only(values):
    """As GroupViT's converter has it: stuff, and what is not labelled, is background."""
    return {value: "background" if name in ("banner", "wood", None) else name for value, name in values.items()}


def without_background(values):
    return {value: None if name == "background" else name for value, name in values.items()}


@dataclass
class Tree:
    """A data set on disk."""

    name: str
    root: Path
    meaning: dict
    """Of each value that is in a mask: the class, or None for void."""
    masks: dict = field(default_factory=dict)
    """Of each image its values ``[H, W]``, in the order of the data set."""

    def truth(self, image, classes):
        """``[H, W]``: class by class, pixel by pixel."""
        names = [[self.meaning[int(value)] for value in row] for row in self.masks[image]]
        return np.array([[-1 if name is None else classes.index(name) for name in row] for row in names])


def values_in_blocks(rng, size, values):
    """``[height, width]``: blocks of 4 x 4, and, where there is a 255, a void border around each quarter."""
    width, height = size
    coarse = rng.choice([value for value in values if value != 255], (-(-height // 4), -(-width // 4)))
    blocks = np.kron(coarse, np.ones((4, 4), dtype=int))[:height, :width]
    if 255 in values:
        for line in (0, height // 2, height - 1):
            blocks[line] = 255
        for line in (0, width // 2, width - 1):
            blocks[:, line] = 255
    return blocks


def write_photo(path, rng, size, mode="RGB", **options):
    """Random pixels; a JPEG of grey or CMYK too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)


def write_mask(path, values, palette=False):
    """Grey of 8 bits, or a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    if palette:
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    image.save(path)


def png_of_bits(values, bits):
    """A PNG of grey with so many bits a pixel, which Pillow does not write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b""
    for row in values:
        digits = "".join(format(int(value), f"0{bits}b") for value in row)
        digits += "0" * (-len(digits) % 8)
        rows += b"\0" + bytes(int(digits[i : i + 8], 2) for i in range(0, len(digits), 8))
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff_of_bits(values, bits, white_is_zero=False):
    """A TIFF of grey with so many bits a pixel, up to 8."""
    rows = b""
    for row in values:
        digits = "".join(format(int(value), f"0{bits}b") for value in row)
        digits += "0" * (-len(digits) % 8)
        rows += bytes(int(digits[i : i + 8], 2) for i in range(0, len(digits), 8))
    height, width = values.shape
    sizes = {256: width, 257: height, 258: bits, 259: 1, 262: int(not white_is_zero)}
    strips = {273: 8, 277: 1, 278: height, 279: len(rows)}
    tags = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in (sizes | strips).items()]
    head = b"II*\0" + struct.pack("<I", 8 + len(rows))
    return head + rows + struct.pack("<H", len(tags)) + b"".join(tags) + b"\0" * 4


def _fill(tree, names, photo, mask, palette=False, write=None):
    """Photographs and masks by the two functions from a name to a file; every third photograph is grey or CMYK."""
    rng = np.random.default_rng(len(names))
    for i, name in enumerate(names):
        size = SIZES[i % len(SIZES)]
        mode = ("RGB", "L", "CMYK")[i % 3] if photo(name).suffix == ".jpg" else "RGB"
        write_photo(photo(name), rng, size, mode)
        tree.masks[name] = values_in_blocks(rng, size, tree.meaning)
        if write is None:
            write_mask(mask(name), tree.masks[name], palette)
        else:
            mask(name).parent.mkdir(parents=True, exist_ok=True)
            write(mask(name), tree.masks[name])
    return tree


def _write_list(path, names):
    """As lists get after years on several systems."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\r\n".join([f"{name}  " for name in names] + ["", "\t", ""]).encode())


def voc(root, name="voc21"):
    """VOC2012 below VOCdevkit."""
    home = root / "VOCdevkit" / "VOC2012"
    names = ["2007_000033", "2009_000012", "2008_000007", "2011_000003"]
    _write_list(home / "ImageSets" / "Segmentation" / "val.txt", names)
    tree = Tree(name, home, VOC if name == "voc21" else without_background(VOC))
    mask = lambda image: home / "SegmentationClass" / f"{image}.png"  # noqa: E731
    return _fill(tree, names, lambda image: home / "JPEGImages" / f"{image}.jpg", mask, palette=True)


def context(root, name="context60", raw=False):
    """VOC2010 below VOCdevkit, converted for mmseg, or with the .mat files as they are downloaded."""
    home = root / "VOCdevkit" / "VOC2010"
    names = ["2008_000002", "2010_000001", "2009_000205"]
    listed = "Main" if raw else "SegmentationContext"
    _write_list(home / "ImageSets" / listed / "val.txt", names)
    meaning = CONTEXT_LABELS if raw else CONTEXT
    tree = Tree(name, home, meaning if name == "context60" else without_background(meaning))

    def write(path, values):
        from scipy.io import savemat

        savemat(path, {"LabelMap": values.astype(np.uint16)}, do_compression=True)

    folder, ending = ("trainval", ".mat") if raw else ("SegmentationClassContext", ".png")
    photo = lambda image: home / "JPEGImages" / f"{image}.jpg"  # noqa: E731
    mask = lambda image: home / folder / f"{image}{ending}"  # noqa: E731
    return _fill(tree, names, photo, mask, write=write if raw else None)


def coco(root, name, ending="", photos="images/val2017", masks="annotations/val2017"):
    """coco_stuff164k: ending "_labelTrainIds", "_instanceTrainIds", or none for the maps of stuffthingmaps."""
    home = root / "coco_stuff164k"
    meaning = {"": STUFF_MAPS, "_labelTrainIds": STUFF_TRAIN_IDS, "_instanceTrainIds": OBJECT_TRAIN_IDS}[ending]
    if name == "coco-object" and ending != "_instanceTrainIds":
        meaning = things_only(meaning)
    tree = Tree(name, home, meaning)
    photo = lambda image: home / photos / f"{image}.jpg"  # noqa: E731
    mask = lambda image: home / masks / f"{image}{ending}.png"  # noqa: E731
    return _fill(tree, ["000000000139", "000000000285", "000000000632", "000000000724"], photo, mask)


def cityscapes(root, train_ids=True):
    """Two towns."""
    home = root / "cityscapes"
    names = ["frankfurt/frankfurt_000000_000294", "lindau/lindau_000001_000019", "lindau/lindau_000002_000019"]
    ids = "_gtFine_labelTrainIds.png" if train_ids else "_gtFine_labelIds.png"
    tree = Tree("cityscapes", home, CITY_TRAIN_IDS if train_ids else CITY_IDS)
    photo = lambda image: home / "leftImg8bit" / "val" / f"{image}_leftImg8bit.png"  # noqa: E731
    mask = lambda image: home / "gtFine" / "val" / f"{image}{ids}"  # noqa: E731
    return _fill(tree, names, photo, mask)


def ade20k(root):
    """ADEChallengeData2016."""
    home = root / "ADEChallengeData2016"
    tree = Tree("ade20k", home, ADE)
    photo = lambda image: home / "images" / "validation" / f"{image}.jpg"  # noqa: E731
    mask = lambda image: home / "annotations" / "validation" / f"{image}.png"  # noqa: E731
    return _fill(tree, [f"ADE_val_0000000{i}" for i in range(1, 6)], photo, mask)


CLASS_LINES = ("backdrop, background", "straße", "cat; kitten", "日本の木 | tree")
CUSTOM = {0: "backdrop", 1: "straße", 2: "cat", 3: "日本の木", 255: None}


def custom(root, names=("a", "Ähre", "日本", "naïve name.1"), masks="masks"):
    """Folders of one's own, and classes.txt beside them."""
    (root / "classes.txt").write_text("\r\n".join(CLASS_LINES), encoding="utf-8-sig")
    tree = Tree("custom", root, CUSTOM)
    return _fill(
        tree, sorted(names), lambda name: root / "images" / f"{name}.jpg", lambda name: root / masks / f"{name}.png"
    )


class GivenSegmenter:
    """A small segmenter whose labels are given: of each image the next ones, or an exception, which is its failure."""

    def __init__(self, names, labels):
        self.segmenter = make_segmenter(list(names))
        self.labels = list(labels)
        self.seen = []

    def __getattr__(self, name):
        return getattr(self.segmenter, name)

    def outcomes(self, images, *, fill):
        labels = iter(self.labels)
        for image in images:
            self.seen.append(image.size)
            one = next(labels)
            yield one if isinstance(one, Exception) else SimpleNamespace(labels=one)
