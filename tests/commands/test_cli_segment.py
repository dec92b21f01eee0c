"""``cdam-fast segment`` and ``map``: what they write, what they skip, and what they say of bad input."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from saved_photo import save_photo

from cdam_fast import CDAMSegmenter, cli
from cdam_fast.commands import photos
from cdam_fast.commands.classes import parse_classes
from cdam_fast.errors import UsageError
from cdam_fast.segmentation import pictures
from cdam_fast.segmentation.palette import palette

CLASSES = "background,cat|kitten,dog,sky"


def only(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


@pytest.fixture
def segment(weights, out, capsys):
    def run(*arguments, classes=CLASSES):
        try:
            defaults = ["--background", "none", "--classes", classes, *weights, "--out", str(out)]
            status = cli.main(["segment", *defaults, *map(str, arguments)])
        except SystemExit as stopped:
            status = stopped.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_segment_writes_labels_overlay_and_json(segment, photo, out, weights):
    status, printed, progress = segment(photo, "--json")
    assert status == 0
    assert printed == f"1 written to {out}, 0 done before, 0 failed\n"
    assert progress.splitlines()[1].startswith(f"[1/1] {photo}: ")
    assert len(list(out.iterdir())) == 3

    names = ["background", ["cat", "kitten"], "dog", "sky"]
    made = CDAMSegmenter.from_pretrained(weights[1], weights[3], names, background=None)
    with Image.open(photo) as opened:
        expected = made(opened)
    with Image.open(only(out, "photo-*_labels.png")) as picture:
        assert picture.mode == "P"
        labels = np.array(picture)
        colours = np.array(picture.getpalette()).reshape(-1, 3)
    assert np.array_equal(labels, expected.labels.numpy())
    assert colours[0].tolist() == [0, 0, 0]

    written = json.loads(only(out, "photo-*.json").read_text())
    assert (written["height"], written["width"], written["threshold"]) == (60, 90, 0.0)
    for i, row in enumerate(written["classes"]):
        inside = labels == i
        assert row["class"] == expected.class_names[i]
        assert row["pixels"] == inside.sum()
        assert row["area"] == pytest.approx(inside.mean())
        assert row["colour"] == colours[i].tolist()
        mean = expected.probability.numpy()[inside].mean() if inside.any() else None
        assert row["score"] == (mean if mean is None else pytest.approx(float(mean), rel=1e-5))
    assert written["classes"][1]["words"] == ["cat", "kitten"]


def test_overlay_shows_the_colours_and_has_a_legend(segment, photo, out):
    segment(photo)
    with Image.open(only(out, "photo-*_overlay.png")) as picture:
        assert picture.width >= 720
        assert picture.height > 720 * 60 / 90
        colours = {colour for _, colour in picture.getcolors(1 << 20)}
    with Image.open(only(out, "photo-*_labels.png")) as labels:
        used = {tuple(labels.getpalette()[3 * i : 3 * i + 3]) for i in np.unique(np.array(labels))}
    assert used <= colours


def test_legend_names_every_class_even_a_hundred():
    names = [f"a class with a long name, number {i}" for i in range(100)]
    colours = palette(100, 0)
    assert len(set(colours)) == 100
    entries = [pictures.Entry(i, name, 0.01) for i, name in enumerate(names)]
    whole = pictures.overlay(torch.zeros(3, 20, 30, dtype=torch.uint8), torch.zeros(20, 30).long(), colours, entries, 0)
    assert set(colours) <= {colour for _, colour in whole.getcolors(1 << 24)}


def test_what_is_done_is_skipped_until_something_changes(segment, photo, out):
    def summary(*arguments, **options):
        return segment(photo, *arguments, **options)[1].split(", ")[:2]

    fresh, done = [f"1 written to {out}", "0 done before"], [f"0 written to {out}", "1 done before"]
    assert summary() == fresh
    assert summary() == done
    assert summary("--json") == fresh
    assert summary("--json") == done
    assert summary("--base", "sclip") == fresh
    assert summary("--base", "sclip", "--batch-size", "1") == done
    assert summary(classes="cat,dog") == fresh
    save_photo(photo, seed=1)
    assert summary(classes="cat,dog") == fresh
    only(out, "photo-*_overlay.png").write_bytes(b"half a fi")
    assert summary(classes="cat,dog") == fresh


def test_a_bad_file_does_not_stop_the_rest(segment, photo, out):
    folder = photo.parent
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "cut.png").write_bytes(photo.read_bytes()[:200])
    (folder / "notes.txt").write_text("not an image, not looked at")
    save_photo(folder / "strip.png", 2, 300)
    save_photo(folder / "z.jpg", 40, 40, 1)
    status, printed, errors = segment(folder, folder / "missing.jpg")
    assert status == 1
    assert printed == f"2 written to {out}, 0 done before, 4 failed\n"
    failed = {line.split(": ")[1]: line for line in errors.splitlines() if line.startswith("failed: ")}
    assert {Path(name).name for name in failed} == {"broken.jpg", "cut.png", "strip.png", "missing.jpg"}
    assert "not an image" in failed[str(folder / "broken.jpg")]
    assert "long side of at most 50 times" in failed[str(folder / "strip.png")]
    assert "No such file" in failed[str(folder / "missing.jpg")]
    assert len(list(out.iterdir())) == 4
    for name in ("photo", "z"):
        assert only(out, f"{name}-*_labels.png")


def test_folders_patterns_and_equal_names(segment, photo, out, tmp_path):
    (tmp_path / "other").mkdir()
    save_photo(tmp_path / "other" / "photo.jpg")
    save_photo(tmp_path / "in" / "photo.jpg")
    status, _, _ = segment(str(tmp_path / "*" / "photo.*"), photo)
    assert status == 0
    assert len(list(out.glob("photo-*_labels.png"))) == 3
    again = photos.find_photos([str(photo.parent), str(photo)])
    assert again == sorted(again)
    assert len(again) == 2


def test_our_own_pictures_are_no_photographs(segment, photo):
    status, printed, _ = segment(photo.parent, "--out", photo.parent)
    assert status == 0
    status, printed, _ = segment(photo.parent, "--out", photo.parent)
    assert printed.endswith("0 written to " + str(photo.parent) + ", 1 done before, 0 failed\n")


def test_no_background_word_is_said(segment, photo):
    status, _, errors = segment(photo, "--background", "entropy", classes="cat,dog")
    assert status == 0
    assert errors.count("cdam-fast segment: note: background: the threshold is off") == 1


def test_nothing_is_left_half_written(segment, photo, out, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    status, _, errors = segment(photo)
    assert status == 1
    assert "--out: cannot write" in errors
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--base", "clip"], "--base: got 'clip', takes one of 'maskclip'"),
        (["--background", "otsu"], "--background: got 'otsu', takes entropy, none or a probability"),
        (["--background", "7"], "--background: got 7.0"),
        (["--batch-size", "0"], "--batch-size: got 0"),
        (["--alpha", "0"], "--alpha: got 0.0"),
        (["--device", "toaster"], "--device: got 'toaster'"),
        (["--dtype", "float8"], "--dtype"),
        (["--model", "ViT-B-61"], "--model: got 'ViT-B-61'"),
        (["--pretrained", "laion3b"], "--pretrained: got 'laion3b'"),
        (["--pretrained", "missing.safetensors"], "--pretrained: there is no file missing.safetensors"),
        (["--classes", "cat,,dog"], "--classes: got 'cat,,dog'"),
        (["--classes", ",".join(f"c{i}" for i in range(257))], "--classes: got 257 classes"),
        (["--out", __file__], "--out: cannot write"),
        (["nothing/*.jpg"], "PHOTO: nothing matches nothing/*.jpg"),
    ],
    ids=lambda value: "-".join(value)[:40] if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_exit_2(weights, photo, out, arguments, named, capsys):
    try:
        options = ["--classes", CLASSES, *weights, "--out", str(out)]
        status = cli.main(["segment", *options, str(photo), *arguments])
    except SystemExit as stopped:
        status = stopped.code
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if "error:" in line]
    assert status == 2
    assert captured.out == ""
    assert len(errors) == 1
    assert named in errors[0]


def test_weights_without_a_network_say_what_to_do(photo, out, capsys, monkeypatch):
    def offline(*args, **options):
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", offline)
    assert cli.main(["segment", str(photo), "--classes", "cat", "--out", str(out)]) == 2
    *before, line = capsys.readouterr().err.splitlines()
    waiting = "cdam_fast: downloading 'laion2b_s34b_b88k' of ViT-B-16 from huggingface.co"
    assert any(said.startswith(waiting) for said in before)
    assert line.startswith("cdam-fast segment: error: --pretrained: cannot get 'laion2b_s34b_b88k' of ViT-B-16")
    assert "give the path of its weights in safetensors format" in line


def test_classes_and_synonyms():
    assert parse_classes("cat, dog ,sofa|couch | settee") == ["cat", "dog", ["sofa", "couch", "settee"]]
    assert len(parse_classes("voc21")) == 21
    for text in ("", "cat,", "cat|", "|"):
        with pytest.raises(UsageError, match="--classes"):
            parse_classes(text)


def settings_of(folder):
    return json.loads(only(folder, "*.json").read_text())["settings"]


def test_the_tiny_model_brings_its_own_sides(photo, out, capsys):
    arguments = ["segment", str(photo), "--classes", CLASSES, "--background", "none", "--json", "--out"]
    assert cli.main([*arguments, str(out), "--model", "tiny"]) == 0
    made = CDAMSegmenter.from_pretrained(
        "tiny", class_names=["background", ["cat", "kitten"], "dog", "sky"], background=None
    )
    for name in ("short_side", "window", "stride", "logit_scale"):
        assert settings_of(out)[name] == getattr(made.options, name)
    with Image.open(photo) as opened, Image.open(only(out, "*_labels.png")) as labels:
        assert np.array_equal(np.array(labels), made(opened).labels.numpy())
    given = ["--model", "tiny", "--logit-scale", "20", "--stride", "56"]
    assert cli.main([*arguments, str(out / "given"), *given]) == 0
    settings = settings_of(out / "given")
    assert (settings["short_side"], settings["stride"], settings["logit_scale"]) == (224, 56, 20.0)
    assert cli.main(["map", str(photo), "--point", "1,1", "--model", "tiny", "--out", str(out)]) == 0


def test_the_background_is_a_class_by_number_or_word(segment, photo, out):
    for name in ("2", "sofa"):
        assert (
            segment(photo, "--json", "--background-class", name, "--background", "1", classes="cat,dog,sofa|couch")[0]
            == 0
        )
        with Image.open(only(out, "*_labels.png")) as labels:
            assert (np.array(labels) == 2).all()
            assert labels.getpalette()[6:9] == [0, 0, 0]
    status, _, errors = segment(photo, "--background-class", "3", classes="cat,dog,sofa|couch")
    assert status == 2
    assert "--background-class: got 3" in errors


def test_the_default_weights_are_of_the_default_model_only(photo, out, capsys):
    assert cli.main(["segment", str(photo), "--classes", "cat", "--model", "ViT-L-14", "--out", str(out)]) == 2
    assert "--pretrained: got None, takes a file of weights or a tag of ViT-L-14" in capsys.readouterr().err


def test_sides_are_options(capsys):
    """For a model whose patch does not divide 448."""
    tiny = ["--model", "tiny", "--pretrained", "weights.safetensors"]
    sides = ["--short-side", "96", "--window", "96", "--stride", "48"]
    for command in (["segment", "no.png"], ["map", "no.png", "--point", "1,1"]):
        parsed = cli._parser().parse_args([*command, "--classes", "a,b", *tiny, *sides])
        assert (parsed.short_side, parsed.window, parsed.stride) == (96, 96, 48)
