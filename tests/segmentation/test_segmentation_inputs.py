"""Images of every kind, the cache of text features, and weights from files."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from segmenters import segmenter

from cdam_fast.segmentation.images import as_tensor, resize_to
from cdam_fast.segmentation.windows import window_starts

RED, WHITE = (255, 0, 0), (255, 255, 255)


def picture(mode, colour, size=(4, 3)):
    return Image.new("RGB", size, colour).convert(mode)


# --- images


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_every_colour_space_is_rgb(mode):
    pixels = as_tensor(picture(mode, RED)).long()
    assert pixels.shape == (3, 3, 4)
    assert (pixels.flatten(1).T - torch.tensor(RED)).abs().max() <= 2


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_is_three_equal_channels(mode):
    pixels = as_tensor(picture(mode, WHITE))
    assert pixels.shape == (3, 3, 4)
    assert (pixels == 255).all()


def test_sixteen_bits_keep_their_range():
    grey = np.array([[0, 65535], [32768, 257]], dtype=np.uint16)
    pixels = as_tensor(Image.fromarray(grey))
    expected = torch.from_numpy(grey.astype(np.float32) / 65535).expand(3, -1, -1)
    torch.testing.assert_close(pixels, expected)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_unknown_ranges_are_refused(mode):
    with pytest.raises(ValueError, match=f"image: got a PIL image of mode {mode}, whose range is unknown"):
        as_tensor(Image.new(mode, (4, 3)))


def test_transparency_is_white():
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 255, 0))
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([*RED, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    palette.info["transparency"] = 1
    for transparent in (image, palette):
        assert as_tensor(transparent)[:, 0].T.tolist() == [list(RED), list(WHITE)]


def png(depth, colour, row, transparent=b""):
    """One row of two pixels as the PNG specification writes it: what no library's writer changes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0))
    between = chunk(b"tRNS", transparent) if transparent else b""
    content = b"\x89PNG\r\n\x1a\n" + header + between + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent", "expected"),
    [
        (16, 0, (0x1234, 0x1235), (0x1234,), [(65535,) * 3, (0x1235,) * 3]),
        (16, 0, (0, 65535), (0,), [(65535,) * 3, (65535,) * 3]),
        (16, 0, (300, 301), (), [(300,) * 3, (301,) * 3]),
        (8, 0, (7, 8), (7,), [WHITE, (8, 8, 8)]),
        (8, 2, (1, 2, 3, 4, 5, 6), (1, 2, 3), [WHITE, (4, 5, 6)]),
        (16, 2, (0x1234, 0, 0xFFFF, 0x9999, 1, 2), (0x1234, 0, 0xFFFF), [WHITE, (0x99, 0, 0)]),
        (16, 2, (0x1234, 0, 0xFFFF, 0x9999, 1, 2), (), [(0x12, 0, 0xFF), (0x99, 0, 0)]),
    ],
)
def test_the_transparent_colour_of_a_png(depth, colour, row, transparent, expected, loaded):
    kind = "H" if depth == 16 else "B"
    image = png(
        depth, colour, struct.pack(f">{len(row)}{kind}", *row), struct.pack(f">{len(transparent)}H", *transparent)
    )
    if loaded:
        image.load()
    pixels = as_tensor(image)
    scale = 65535 if pixels.is_floating_point() else 1
    torch.testing.assert_close(pixels[:, 0].T * scale, torch.tensor(expected).to(pixels.dtype), rtol=0, atol=0.01)


@pytest.mark.parametrize(("depth", "row"), [(4, 0x7F), (2, 0b01110000), (1, 0b01000000)])
def test_the_transparent_grey_of_few_bits(depth, row):
    """It is given at the file's own depth, and the pixels are brought to eight bits."""
    value = {4: 7, 2: 1, 1: 0}[depth]
    grey = as_tensor(png(depth, 0, bytes([row]), struct.pack(">H", value)))
    assert (grey == 255).all()
    other = {4: 15, 2: 3, 1: 1}[depth]
    kept = as_tensor(png(depth, 0, bytes([row]), struct.pack(">H", other)))
    assert kept[:, 0, 0].tolist() == [{4: 119, 2: 85, 1: 0}[depth]] * 3


def test_sixteen_bit_files_keep_their_range_whatever_pillow_makes_of_them():
    """PNG is "I" up to Pillow 10.2, PGM in every version; 32-bit grey of other sources has no known range."""
    grey = np.array([[0, 1, 300], [40000, 65534, 65535]], dtype=np.uint16)
    expected = torch.from_numpy(grey.astype(np.float32) / 65535).expand(3, -1, -1)
    portable = io.BytesIO(b"P5 3 2 65535\n" + grey.astype(">u2").tobytes())
    tagged = io.BytesIO()
    Image.fromarray(grey).save(tagged, format="TIFF")
    for content in (portable, tagged):
        torch.testing.assert_close(as_tensor(Image.open(content)), expected)
    older = Image.open(io.BytesIO(_as_png(grey)))
    older.load()
    if older.mode != "I":
        older.im, older._mode = older.convert("I").im, "I"  # as Pillow 10.0 has it
    torch.testing.assert_close(as_tensor(older), expected)
    wide = io.BytesIO()
    Image.fromarray(grey.astype(np.int32)).save(wide, format="TIFF")
    with pytest.raises(ValueError, match="image: got a PIL image of mode I, whose range is unknown"):
        as_tensor(Image.open(wide))


def _as_png(grey):
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, format="PNG")
    return buffer.getvalue()


MODES = ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "RGBX", "RGBa", "La"]
MODES += ["I;16", "I;16L", "I;16B", "I;16N", "BGR;15", "BGR;16", "BGR;24"]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_an_image_or_named(mode):
    try:
        image = Image.new(mode, (4, 3))
    except (ValueError, KeyError):
        pytest.skip("this Pillow has no such mode")
    if mode in ("I", "F") or mode.startswith("BGR"):
        with pytest.raises(ValueError, match=f"^image: .*{mode}"):
            as_tensor(image)
    else:
        assert as_tensor(image).shape == (3, 3, 4)


def test_a_transparent_grey_of_premultiplied_values_is_white():
    assert (as_tensor(Image.new("La", (4, 3), 0)) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("mode", "format"), [("RGB", "JPEG"), ("RGB", "PNG"), ("I;16", "PNG"), ("RGB", "TIFF"), ("1", "PNG")]
)
def test_every_orientation(orientation, mode, format):
    """The one bright pixel comes to where the EXIF standard has it: row 0 and column 0 as seen."""
    grey = np.zeros((16, 24), dtype=np.uint16)
    grey[:8, :8] = 65535
    image = Image.fromarray(grey) if mode == "I;16" else Image.fromarray((grey >> 8).astype(np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, format=format, exif=exif)
    pixels = as_tensor(Image.open(buffer)).float()
    rows_last, columns_last = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    assert pixels.shape == ((3, 16, 24) if orientation < 5 else (3, 24, 16))
    corner = pixels[0, -8:, :] if rows_last else pixels[0, :8, :]
    corner = corner[:, -8:] if columns_last else corner[:, :8]
    assert corner.min() > 0.9 * pixels.max()
    assert pixels[0].sum() == pytest.approx(float(corner.sum()), rel=0.02)


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (32, 16), RED)
    image.paste((0, 0, 255), (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: left is at the top
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "turned.jpg") as opened:
        pixels = as_tensor(opened)
    assert pixels.shape == (3, 32, 16)
    assert pixels[2, 4, 8] > 200
    assert pixels[0, 28, 8] > 200


def test_grey_and_transparent_arrays():
    grey = np.full((3, 4), 7, dtype=np.uint8)
    assert (as_tensor(grey) == 7).all()
    with_alpha = np.zeros((3, 4, 4), dtype=np.uint8)
    assert (as_tensor(with_alpha) == 255).all()


@pytest.mark.parametrize(
    ("image", "error", "named"),
    [
        ("photo.jpg", TypeError, "image: got str, takes a PIL image"),
        (None, TypeError, "image: got NoneType"),
        (np.zeros((3, 4, 3)), TypeError, "image: got an array of dtype float64"),
        (np.zeros((3, 4, 3), dtype=np.uint16), TypeError, "image: got an array of dtype uint16"),
        (np.zeros((3, 4, 2), dtype=np.uint8), ValueError, "image: got an array of shape"),
        (np.zeros((0, 4, 3), dtype=np.uint8), ValueError, "without a pixel"),
        (np.zeros(5, dtype=np.uint8), ValueError, "image: got an array of shape"),
        (torch.zeros(3, 4, 0), ValueError, "image: got a tensor of shape"),
        (torch.zeros(4, 3, 3), ValueError, "image: got a tensor of shape"),
        (torch.zeros(3, 4), ValueError, "image: got a tensor of shape"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), TypeError, "image: got a tensor of dtype torch.int32"),
        (torch.full((3, 4, 4), 2.0), ValueError, "image: got values from 2 to 2"),
        (torch.full((3, 4, 4), -0.1), ValueError, "image: got values from -0.1"),
        (torch.full((3, 4, 4), torch.nan), ValueError, "image: got values from nan"),
        (Image.new("RGB", (0, 4)), ValueError, "image: got 0x4 pixels"),
    ],
    ids=lambda value: None,
)
def test_no_image(image, error, named):
    with pytest.raises(error, match=named):
        as_tensor(image)


def test_a_strip_is_refused_before_it_is_enlarged():
    with pytest.raises(ValueError, match="image: got 2x400 pixels, takes a long side of at most 50 times"):
        resize_to(torch.zeros(3, 2, 400), 448)


def test_the_place_of_a_bad_image_is_said():
    made = segmenter()
    with pytest.raises(TypeError, match="image 1: got str"):
        made.segment([torch.zeros(3, 64, 64), "photo.jpg"])


def test_resizing_keeps_the_aspect_ratio_and_the_range():
    image = torch.zeros(3, 30, 61, dtype=torch.uint8)
    image[:, 10:20] = 255
    resized = resize_to(image, 64)
    assert resized.shape == (3, 64, 130)
    assert resized.min() == 0
    assert resized.max() == 1


@pytest.mark.parametrize(
    ("length", "starts"),
    [(448, [0]), (449, [0, 1]), (640, [0, 192]), (672, [0, 224]), (673, [0, 224, 225]), (1000, [0, 224, 448, 552])],
)
def test_windows_reach_both_ends(length, starts):
    assert window_starts(length, 448, 224) == starts
