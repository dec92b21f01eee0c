"""Small photographs of ten kinds, damaged at random."""

import io
import random

import numpy as np
from PIL import Image

KINDS = ("jpg", "png", "gif", "tif", "webp", "bmp", "ppm", "tga", "ico", "pcx")
_FORMATS = {"jpg": "JPEG", "tif": "TIFF"}
_WITH_EXIF = ("jpg", "png", "tif", "webp")
_MODES = {
    "png": ("RGB", "RGBA", "P", "I;16", "1"),
    "tif": ("RGB", "L", "CMYK", "I;16"),
    "gif": ("P",),
    "jpg": ("RGB", "L", "CMYK"),
}


def sound_files():
    """``(kind, content)`` of whole files: each kind in its modes, with and without EXIF."""
    pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    files = []
    for kind in KINDS:
        for mode in _MODES.get(kind, ("RGB",)):
            image = Image.fromarray(pixels).convert("L").convert(mode) if mode == "I;16" else None
            image = image or Image.fromarray(pixels).convert(mode)
            for exif in (False, True) if kind in _WITH_EXIF else (False,):
                options = {"exif": _exif()} if exif else {}
                if kind == "ico":
                    options["sizes"] = [(16, 12)]
                if kind == "tif":
                    options["compression"] = "tiff_lzw" if mode == "RGB" else "raw"
                buffer = io.BytesIO()
                image.save(buffer, format=_FORMATS.get(kind, kind.upper()), **options)
                files.append((kind, buffer.getvalue()))
    return files


def _exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x011A] = 72.5
    exif[0x010F] = "a camera"
    exif.get_ifd(0x8769)[0x9003] = "2026:01:01 00:00:00"
    return exif


def damaged_files(count, seed=0):
    """``(kind, content)``, as many of each kind; half of the damage is in the first 200 bytes."""
    generator = random.Random(seed)
    by_kind = {kind: [content for of, content in sound_files() if of == kind] for kind in KINDS}
    for i in range(count):
        kind = KINDS[i % len(KINDS)]
        yield kind, _damaged(generator, generator.choice(by_kind[kind]))


def _damaged(generator, content):
    data = bytearray(content)
    if generator.random() < 0.2:
        return bytes(data[: generator.randrange(len(data))])
    reach = min(len(data), 200) if generator.random() < 0.5 else len(data)
    for _ in range(generator.randint(1, 6)):
        place = generator.randrange(min(reach, len(data)))
        what = generator.random()
        if what < 0.7:
            data[place] = generator.choice((0, 1, 127, 128, 255, generator.randrange(256)))
        elif what < 0.85:
            data[place : place + generator.randint(1, 8)] = bytes(generator.randint(0, 8))
        else:
            data[place:place] = generator.randbytes(generator.randint(1, 8))
        if not data:
            break
    return bytes(data)


def negative_resolution():
    """A JPEG of orientation 6 whose XResolution is a negative signed rational: Pillow reads but cannot rewrite it."""
    buffer = io.BytesIO()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + bytes.fromhex("0112 0003 00000001 00060000 011a 000a 00000001 00000026")
    exif += bytes(4) + bytes.fromhex("ffffffb8 00000001")
    Image.new("RGB", (16, 12), (255, 0, 0)).save(buffer, format="JPEG", exif=exif)
    return buffer.getvalue()
