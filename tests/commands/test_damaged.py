"""Damaged files: whatever Pillow makes of them, it is one named error, one photograph's and no one else's."""

import io
from pathlib import Path

import pytest
import torch
from damaged import KINDS, damaged_files, negative_resolution, sound_files
from PIL import Image
from towers import small_model

from cdam_fast import CDAMSegmenter, cli
from cdam_fast.segmentation.images import as_tensor
from cdam_fast.segmentation.photo_files import read_photo

COUNT = 2000


pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow tells of what it finds in damaged files


def attempt(function, *arguments):
    """The result, or the ValueError; anything else is a failure."""
    try:
        return function(*arguments)
    except ValueError as error:
        return error


@pytest.fixture(scope="module")
def opened():
    """Of the damaged files, those that open."""
    found = []
    for kind, content in damaged_files(COUNT):
        try:
            found.append((kind, Image.open(io.BytesIO(content))))
        except Exception:  # noqa: PERF203 - not our call; read_photo's is below
            continue
    return found


def test_sound_files_are_read():
    for kind, content in sound_files():
        pixels = as_tensor(Image.open(io.BytesIO(content)))
        assert pixels.shape[0] == 3, kind
        assert sorted(pixels.shape[1:]) == [12, 16], kind


def test_an_image_is_a_tensor_or_a_named_error(opened):
    results = [attempt(as_tensor, image, "image 7") for _, image in opened]
    failed = [result for result in results if isinstance(result, ValueError)]
    assert all(str(error).startswith("image 7: ") for error in failed)
    assert all(len(result) == 3 for result in results if isinstance(result, torch.Tensor))
    assert len(results) > COUNT / 4
    assert len(failed) > COUNT / 40


def test_a_file_is_read_or_said(tmp_path):
    failed = set()
    for kind, content in damaged_files(COUNT):
        path = tmp_path / f"photo.{kind}"
        path.write_bytes(content)
        result = attempt(read_photo, path)
        if isinstance(result, ValueError):
            assert len(str(result).splitlines()) == 1
            failed.add(kind)
        else:
            assert result.dtype == torch.uint8
    assert failed == set(KINDS)


@pytest.fixture(scope="module")
def segmenter():
    options = {"short_side": 64, "window": 64, "stride": 64, "scales": (1.0,), "background": None, "cache_dir": False}
    options |= {"text_features": torch.eye(32)[:3], "augmented_prompts": False}
    return CDAMSegmenter(small_model(layers=1), None, ["cat", "dog", "sky"], **options)


def test_a_segmenter_names_what_it_cannot_decode(segmenter, opened):
    for _, image in opened[::40]:
        result = attempt(segmenter, image)
        assert not isinstance(result, ValueError) or str(result).startswith("image 0: ")


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_outcomes_are_in_order_and_each_images_own(segmenter, batch_size, monkeypatch):
    """An image that cannot be prepared, one that the model cannot take, and one that cannot be finished."""
    marked = [
        torch.full((3, 64, 64 * width), value) for value, width in ((0.1, 1), (0.9, 3), (0.2, 2), (0.7, 2), (0.3, 1))
    ]
    cut = Image.open(io.BytesIO(next(content for kind, content in sound_files() if kind == "png")[:-40]))
    images = [marked[0], "no image", *marked[1:3], cut, *marked[3:]]
    expected = [result.labels for result in segmenter.segment([marked[0], marked[2], marked[4]])]
    guarded, finish = segmenter._guarded, segmenter._finish

    def fails(crop, value):
        return torch.allclose(crop.float(), segmenter.normalise(torch.full((3, 1, 1), value)).float(), atol=1e-3)

    def model(crops):
        if any(fails(crop, 0.9) for crop in crops):
            raise RuntimeError("no kernel")
        return guarded(crops)

    def last(canvas):
        if fails(canvas.pixels, 0.7):
            raise MemoryError
        return finish(canvas)

    monkeypatch.setattr(segmenter, "_guarded", model)
    monkeypatch.setattr(segmenter, "_finish", last)
    monkeypatch.setattr(segmenter, "options", segmenter.options._replace(batch_size=batch_size))
    outcomes = list(segmenter.outcomes(images))
    kinds = [type(outcome).__name__ for outcome in outcomes]
    good = "Segmentation"
    assert kinds == [good, "TypeError", "RuntimeError", good, "ValueError", "MemoryError", good]
    labels = [outcome.labels for outcome in outcomes if not isinstance(outcome, Exception)]
    assert all(torch.equal(one, other) for one, other in zip(labels, expected))
    assert str(outcomes[1]).startswith("image 1: ")
    with pytest.raises(TypeError, match="image 1: "):
        list(segmenter.iterate(images[:2]))


def test_exif_is_never_rewritten(segmenter):
    image = Image.open(io.BytesIO(negative_resolution()))
    assert as_tensor(image).shape == (3, 16, 12)
    assert segmenter(image).labels.shape == (16, 12)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "block", [b"", b"Exif", b"MM\0*" + b"\xff" * 40, b"\xff" * 40], ids=["none", "cut", "wild", "noise"]
)
def test_a_broken_exif_block_is_no_rotation(format, block):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12)).save(buffer, format=format, exif=b"Exif\0\0" + block)
    assert as_tensor(Image.open(buffer)).shape == (3, 12, 16)


@pytest.mark.parametrize("place", [0, 3, 1 << 20, 0xFFFFFFFF])
def test_a_tiff_whose_camera_entry_points_nowhere(place):
    exif = Image.Exif()
    exif[0x0112], exif[0x8768] = 6, 1 << 20  # the second becomes the camera's entry, which Pillow would write itself
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12)).save(buffer, format="TIFF", exif=exif)
    sound = (1 << 20).to_bytes(4, "little")
    entry = b"\x68\x87\x04\x00\x01\x00\x00\x00"
    content = buffer.getvalue().replace(entry + sound, entry.replace(b"\x68", b"\x69") + place.to_bytes(4, "little"))
    assert content != buffer.getvalue()
    assert as_tensor(Image.open(io.BytesIO(content))).shape == (3, 16, 12)


def test_a_run_over_damaged_files_has_no_traceback(tiny, tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    sound = 0
    for i, (kind, content) in enumerate(damaged_files(60, seed=1)):
        (folder / f"{i:03d}.{kind}").write_bytes(content)
    for i, (kind, content) in enumerate(sound_files()[::4]):
        (folder / f"{200 * (i % 2) + i}-sound.{kind}").write_bytes(content)
        sound += 1
    (folder / "negative.jpg").write_bytes(negative_resolution())
    status = cli.main(
        ["segment", str(folder), *tiny, "--classes", "red,blue", "--background", "none", "--out", str(out)]
    )
    captured = capsys.readouterr()
    assert status == 1
    assert "Traceback" not in captured.err
    assert len(list(out.glob("*-sound-*_labels.png"))) == sound
    assert len(list(out.glob("negative-*_labels.png"))) == 1
    written, failed = (int(part.split()[0]) for part in (captured.out, captured.out.split(", ")[-1]))
    assert written + failed == 61 + sound
    lines = [line for line in captured.err.splitlines() if line.startswith("failed: ")]
    assert len(lines) == failed
    assert all(Path(line.split(": ")[1]).parent == folder for line in lines)
