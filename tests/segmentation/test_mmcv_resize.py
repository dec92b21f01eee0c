"""`resize="mmcv"` against numbers made with OpenCV, the sides that `long_side` leaves, and windows below their size."""

import functools
import io
import pickle
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from segmenters import CLASSES, photograph, segmenter
from torch.nn import functional

from cdam_fast.segmentation.images import resize_to
from cdam_fast.segmentation.resize import opencv_linear, resized_size

pytestmark = pytest.mark.filterwarnings("ignore:threshold:UserWarning")

RECORDED = Path(__file__).parents[1] / "data" / "opencv_resize.npz"
"""What OpenCV 4.10.0 made of `pattern` with INTER_LINEAR; 5.0.0 makes the same."""

CHECKSUMS = (
    ((375, 500), (448, 597), 269257037),
    ((500, 375), (597, 448), 3967635868),
    ((333, 500), (448, 673), 3545740286),
    ((480, 640), (336, 448), 877810131),
    ((640, 427), (671, 448), 2766676760),
    ((1024, 2048), (448, 896), 1341400422),
    ((1024, 2048), (560, 1120), 3220301531),
    ((100, 3000), (68, 2048), 295354552),
    ((896, 4096), (448, 2048), 2333257699),
    ((896, 1000), (448, 500), 189967727),
    ((2000, 1501), (597, 448), 771550383),
    ((448, 448), (448, 448), 2470271756),
    ((37, 41), (448, 496), 2230671693),
)
"""Old size, new size, CRC-32 of what OpenCV 4.10.0 made of `pattern`, of the table's row as its seed."""


def pattern(height, width, seed=0):
    y, x, channel = np.ogrid[:height, :width, :3]
    return ((7 * y * y + 13 * x * y + 11 * x * x + 89 * channel + 37 * seed) % 256).astype(np.uint8)


def resized(pixels, size):
    return opencv_linear(torch.from_numpy(pixels).permute(2, 0, 1), size).permute(1, 2, 0).contiguous().numpy()


@functools.cache
def recorded():
    with np.load(RECORDED) as arrays:
        return {name: arrays[name] for name in arrays.files if name != "opencv"}


def test_what_is_recorded_covers_the_awkward_sizes():
    sizes = [tuple(map(int, re.findall(r"\d+", name))) for name in recorded()]
    assert any(height == 1 for height, *_ in sizes)
    assert any(width == 1 for _, width, *_ in sizes)
    assert any((height, width) == (2 * h, 2 * w) for height, width, h, w in sizes)
    assert any(height == 2 * h and width != 2 * w for height, width, h, w in sizes)
    assert any(height < h and width > w for height, width, h, w in sizes)


@pytest.mark.parametrize("name", sorted(recorded()))
def test_equal_to_what_opencv_made(name):
    height, width, *size = map(int, re.findall(r"\d+", name))
    made = resized(pattern(height, width, list(recorded()).index(name)), tuple(size))
    np.testing.assert_array_equal(made, recorded()[name])


@pytest.mark.parametrize(("old", "new", "checksum"), CHECKSUMS)
def test_equal_at_the_sizes_of_data_sets(old, new, checksum):
    seed = [row[:2] for row in CHECKSUMS].index((old, new))
    assert zlib.crc32(resized(pattern(*old, seed), new).tobytes()) == checksum


def test_equal_to_the_opencv_that_is_installed():
    cv2 = pytest.importorskip("cv2")
    random = np.random.default_rng(3)
    for _ in range(400):
        height, width, *size = (int(side) for side in random.integers(1, random.choice([6, 40, 120]), 4))
        if random.random() < 0.1:
            height, width = 2 * size[0], 2 * size[1]
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(resized(pixels, tuple(size)), expected, err_msg=f"{height}x{width} to {size}")


def test_two_by_two_pixels_are_averaged_by_hand():
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[..., 0] = [[1, 2], [3, 4]]  # 2.5
    pixels[..., 1] = [[0, 0], [0, 1]]  # 0.25
    pixels[..., 2] = [[255, 255], [255, 254]]  # 254.75
    assert resized(pixels, (1, 1)).tolist() == [[[3, 0, 255]]]


@pytest.mark.parametrize(
    ("old", "sides", "new"),
    [
        ((375, 500), (448, 2048), (448, 597)),  # 597.33
        ((500, 334), (448, 2048), (671, 448)),  # 670.66
        ((1024, 2048), (448, 2048), (448, 896)),
        ((448, 2048), (448, 2048), (448, 2048)),  # just at the cap
        ((448, 2049), (448, 2048), (448, 2048)),  # 447.78, just above it
        ((100, 1000), (448, 2048), (205, 2048)),  # 204.8
        ((1000, 100), (448, 2048), (2048, 205)),
        ((1, 5000), (448, 2048), (0, 2048)),  # 0.41
        ((100, 1000), (448, None), (448, 4480)),
        ((3, 2), (3, None), (5, 3)),  # 4.5: a half goes up
    ],
)
def test_sizes_by_hand(old, sides, new):
    assert resized_size(*old, *sides) == new


# --- in the segmenter


def test_pixels_of_a_segmenter_are_opencvs():
    pixels = pattern(100, 140)
    made = segmenter(resize="mmcv").preparation(pixels)
    expected = resized(pixels, (64, 90))  # 89.6
    np.testing.assert_array_equal((made.pixels * 255).round().to(torch.uint8).permute(1, 2, 0), expected)
    assert made.pixels.dtype == torch.float32
    assert made.size == (100, 140)


def assert_logits(result, words):
    """The result's are those of the words ``[Q, h, w]``: at the image's size, a class's the largest of its words."""
    at_size = functional.interpolate(words[None], size=result.labels.shape, mode="bilinear")[0]
    of_classes = torch.stack([at_size[[i for i, of in enumerate(CLASSES) if of == c]].amax(0) for c in range(4)])
    torch.testing.assert_close(result.logits, of_classes, atol=1e-5, rtol=1e-5)


def test_labels_are_those_of_the_resized_image():
    pixels = pattern(128, 128)
    whole = segmenter(resize="mmcv")
    normalised = whole.normalise(torch.from_numpy(resized(pixels, (64, 64))).permute(2, 0, 1) / 255)
    words = functional.interpolate(whole.word_logits(normalised[None]), size=(64, 64), mode="bilinear")[0]
    assert_logits(whole(Image.fromarray(pixels)), words)


def test_pillow_is_the_default_and_another_resize():
    pixels = pattern(100, 100)
    plain, bicubic, linear = (
        segmenter(**options).preparation(pixels).pixels for options in ({}, {"resize": "pillow"}, {"resize": "mmcv"})
    )
    assert torch.equal(plain, bicubic)
    assert (plain - linear).abs().max() > 0.05


@pytest.mark.parametrize("resize", ["pillow", "mmcv"])
def test_another_process_can_prepare(resize):
    preparation = segmenter(resize=resize, long_side=80).preparation
    pixels = pattern(50, 70)
    assert torch.equal(pickle.loads(pickle.dumps(preparation))(pixels).pixels, preparation(pixels).pixels)


def test_long_side_with_pillow():
    image = photograph(40, 400)
    values = functional.interpolate(image[None], size=(26, 256), mode="bicubic", antialias=True)[0].clamp(0, 1)  # 25.6
    torch.testing.assert_close(resize_to(image, 64, long_side=256), values)
    torch.testing.assert_close(resize_to(image, 26, long_side=1000), resize_to(image, 26))


def test_a_long_side_needs_no_other_limit():
    pixels = torch.zeros(3, 10, 600, dtype=torch.uint8)
    with pytest.raises(ValueError, match="takes a long side of at most 50 times the short side"):
        resize_to(pixels, 64)
    assert resize_to(pixels, 64, long_side=2048).shape == (3, 34, 2048)


def starts(length):
    """First and last pixel of each window of 64 pixels, stride 32, as the released code has them."""
    ends = [min(start + 64, length) for start in range(0, max(length - 64 + 31, 0) // 32 * 32 + 1, 32)]
    return [(max(end - 64, 0), end) for end in ends]


def low_windows(whole, pixels):
    """Logits of a photograph with a side below the window, ``[Q, H, W]``: crops are not padded, as there."""
    _, height, width = pixels.shape
    total, count = 0, torch.zeros(height, width)
    for top, bottom in starts(height):
        for left, right in starts(width):
            rows, columns = (bottom - top) // 16 * 16, (right - left) // 16 * 16  # whole patches
            logits = whole.word_logits(pixels[None, :, top : top + rows, left : left + columns])
            logits = functional.interpolate(logits, size=(bottom - top, right - left), mode="bilinear")
            total = total + functional.pad(logits, (left, width - right, top, height - bottom))[0]
            count[top:bottom, left:right] += 1
    return total / count


@pytest.mark.parametrize("resize", ["pillow", "mmcv"])
@pytest.mark.parametrize("turned", [False, True], ids=["wide", "tall"])
def test_windows_are_as_low_as_the_image(resize, turned):
    image = (photograph(64, 400) * 255).to(torch.uint8)[:, :60]
    image = image.transpose(1, 2) if turned else image
    whole = segmenter(resize=resize, long_side=300, background=None)
    pixels = whole.preparation(image).pixels
    assert sorted(pixels.shape) == [3, 45, 300]  # two patches and 13 pixels
    result = whole(image)
    assert_logits(result, low_windows(whole, whole.normalise(pixels)))
    assert result.labels.shape == image.shape[1:]


@pytest.mark.parametrize("over", ["image", "window", "last_window"])
def test_a_batch_takes_windows_of_several_sizes(over):
    images = [photograph(64, 400), photograph(80, 96, 1), photograph(64, 320, 2), photograph(64, 64, 3)]
    options = {"long_side": 256, "threshold_over": over, "alpha": 1.0}
    together = segmenter(batch_size=7, **options).segment(images)
    for one, image in zip(together, images):
        alone = segmenter(batch_size=1, **options)(image)
        torch.testing.assert_close(one.logits, alone.logits, atol=1e-5, rtol=1e-5)
        assert one.threshold == pytest.approx(alone.threshold, rel=1e-4)


# --- what is refused


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"resize": "bicubic"}, ValueError, "resize: got 'bicubic', takes one of 'pillow', 'mmcv'"),
        ({"resize": None}, ValueError, "resize: got None, takes one of"),
        ({"long_side": 63}, ValueError, "long_side: got 63 pixels, takes at least short_side, 64"),
        ({"long_side": "2048"}, TypeError, "long_side: got '2048', takes a whole number"),
        ({"long_side": True}, TypeError, "long_side: got True, takes a whole number"),
        ({"long_side": 0}, ValueError, "long_side: got 0, takes a whole number from 1"),
    ],
    ids=lambda value: None,
)
def test_what_is_refused(options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        segmenter(**options)


@pytest.mark.parametrize("kind", ["float", "sixteen bits"])
def test_mmcv_takes_eight_bits(kind):
    image = photograph(64, 64)
    if kind == "sixteen bits":
        file = io.BytesIO()
        Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(file, "png")
        image = Image.open(file)
    with pytest.raises(TypeError, match=r"^image 0: got torch\.float32 pixels, takes uint8 where resize is 'mmcv'"):
        segmenter(resize="mmcv")(image)


@pytest.mark.parametrize(
    ("height", "options", "message"),
    [
        (
            20,
            {},
            "image 1: got 20x400 pixels, of which long_side=256 leaves windows of 0x4 patches, takes at least one at",
        ),
        (
            40,
            {},
            "image 1: got 40x400 pixels, of which long_side=256 leaves windows of 1x4 patches, takes at least one at",
        ),
        (20, {"cdam": False}, "image 1: got 20x400 pixels, of which long_side=256 leaves windows of 0x4 patches"),
    ],
    ids=["no patch", "no patch at scale 0.5", "no patch without a map"],
)
def test_an_image_too_low_for_a_patch_fails_by_itself(height, options, message):
    images = [photograph(64, 64), photograph(80, 800)[:, :height, :400], photograph(64, 96)]
    outcomes = list(segmenter(long_side=256, **options).outcomes(images))
    assert [isinstance(outcome, Exception) for outcome in outcomes] == [False, True, False]
    assert str(outcomes[1]).startswith(message)


def test_an_image_that_keeps_no_pixel():
    with pytest.raises(ValueError, match=r"^image 0: got 1x600 pixels, of which long_side=256 leaves 0x256$"):
        segmenter(long_side=256)(torch.zeros(3, 1, 600))


def test_without_a_map_one_patch_is_enough():
    image = photograph(40, 400)
    assert segmenter(long_side=256, cdam=False, background=None)(image).labels.shape == (40, 400)
