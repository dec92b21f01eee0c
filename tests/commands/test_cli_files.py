"""Photographs, results and class lists as people have them: names, folders, and what is no file."""

import json
import os
import socket
import unicodedata
from pathlib import Path

import pytest
from damaged import negative_resolution
from PIL import Image, PngImagePlugin

from cdam_fast import cli
from cdam_fast.commands import photos, results
from cdam_fast.errors import UsageError
from cdam_fast.segmentation import photo_files


def save_photo(path, colour=(200, 30, 30), size=(40, 30)):
    path = Path(os.fsdecode(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Image.new("RGB", size, colour).save(file, format="PNG")
    return path


@pytest.fixture
def segment(tiny, tmp_path, capsys):
    def run(*arguments, classes="red,blue", out="out"):
        options = ["--classes", classes, *tiny, "--background", "none", "--out", str(tmp_path / out)]
        status = cli.main(["segment", *map(str, arguments), *options])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- names of results


def test_a_later_run_replaces_nothing_of_another_photograph(segment, tmp_path):
    """Two folders with equal names, and a neighbour that appears between runs."""
    first, second = (save_photo(tmp_path / folder / "p.jpg") for folder in ("x", "y"))
    segment(first.parent, "--json")
    before = contents(tmp_path / "out")
    segment(second.parent, "--json")
    after = contents(tmp_path / "out")
    assert len(after) == 2 * len(before) == 6
    assert before.items() <= after.items()
    save_photo(tmp_path / "x" / "p.png")
    _, printed, _ = segment(first.parent, "--json")
    assert "1 written" in printed
    assert "1 done before" in printed
    assert after.items() <= contents(tmp_path / "out").items()


def test_names_never_meet_on_any_file_system(tmp_path):
    """Letter case, Unicode normalisation, trailing characters, forbidden ones, length, endings, folders."""
    names = ["p.jpg", "P.JPG", "P.jpg", "p.png", "p .jpg", "p..jpg", "p", "p.", "p_.jpg", "p?.jpg", "p:.jpg", "p\n.jpg"]
    names += [
        "é.jpg",
        "e\u0301.jpg",
        "\udce9.jpg",
        "\udcea.jpg",
        "ß.jpg",
        "ss.jpg",
        "a" * 250,
        "a" * 251,
        "あ" * 83,
        "あ" * 84,
    ]
    paths = [tmp_path / folder / name for folder in ("x", "y", "x-y", "x/y") for name in names]
    made = [results.result_name(path) for path in paths]
    seen = {unicodedata.normalize("NFC", name).casefold().rstrip(" .") for name in made}
    assert len(seen) == len(paths)
    for name in made:
        assert len(f"{name}{results.OVERLAY}".encode()) < 200
        assert not set(name) & set('<>:"/\\|?*\n')


def test_a_name_depends_on_the_photograph_alone(tmp_path, monkeypatch):
    photo = save_photo(tmp_path / "in" / "p.png")
    expected = results.result_name(photo)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    monkeypatch.chdir(tmp_path / "in")
    ways = [Path("p.png"), Path("./p.png"), Path("../in/p.png"), tmp_path / "link" / "p.png"]
    assert {results.result_name(way) for way in ways} == {expected}


def test_a_result_of_another_photograph_is_kept_even_where_names_meet(segment, tmp_path, monkeypatch):
    first, second = (save_photo(tmp_path / folder / "p.jpg") for folder in ("x", "y"))
    monkeypatch.setattr("cdam_fast.commands.segment_files.result_name", lambda photo: "p")
    segment(first, "--json")
    before = contents(tmp_path / "out")
    status, _, errors = segment(second, "--json")
    assert status == 1
    assert "made from another photograph and is kept" in errors
    assert contents(tmp_path / "out") == before


def test_json_of_other_settings_is_written_again(segment, tmp_path):
    photo = save_photo(tmp_path / "p.png")
    segment(photo, "--json")
    segment(photo, classes="green,blue")
    segment(photo, "--json", classes="green,blue")
    (path,) = (tmp_path / "out").glob("*.json")
    assert [row["class"] for row in json.loads(path.read_text())["classes"]] == ["green", "blue"]


@pytest.mark.parametrize("stem", ["x" * 248, "あ" * 82, "é" * 120, "🎈" * 62])
def test_long_names(segment, tmp_path, stem):
    for name in ("first.png", f"{stem}.png", "last.png"):
        save_photo(tmp_path / "in" / name)
    status, printed, _ = segment(tmp_path / "in", "--json")
    assert status == 0
    assert printed.startswith("3 written")
    assert len(list((tmp_path / "out").glob(f"{stem[:20]}*"))) == 3


def test_results_have_the_mode_that_the_user_wants(segment, tmp_path):
    previous = os.umask(0o027)
    try:
        segment(save_photo(tmp_path / "p.png"), "--json")
    finally:
        os.umask(previous)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o640}


# --- names that are no text


@pytest.mark.parametrize("json_too", [[], ["--json"]], ids=["pictures", "json"])
def test_names_that_are_no_text(segment, tmp_path, json_too):
    folder = os.fsencode(tmp_path / "in")
    for name in (b"caf\xe9.png", b"\xff\xfe.png", b"new\nline.png", b"\x1b[31mred.png", "あ.png".encode()):
        save_photo(folder + b"/" + name)
    (tmp_path / "in" / "\udce9-broken.png").write_bytes(b"nothing")
    status, printed, errors = segment(tmp_path / "in", *json_too)
    assert status == 1
    assert printed.startswith("5 written")
    (failed,) = [line for line in errors.splitlines() if line.startswith("failed: ")]
    assert "\\xe9-broken.png: " in failed
    assert not any("\x1b" in text for text in (printed, errors))
    described = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "out").glob("*.json")]
    assert len(described) == (5 if json_too else 0)
    for entry in described:
        entry["photo"].encode()
    if json_too:
        assert {Path(entry["photo"]).name for entry in described} >= {"caf\\xe9.png", "new\nline.png", "あ.png"}


# --- what is taken from folders


def test_our_pictures_are_known_by_what_they_carry(segment, tmp_path):
    """A user's own files have our endings, and ours may have any name."""
    theirs = [save_photo(tmp_path / "in" / name) for name in ("world_map.png", "site_overlay.png", "x_labels.png")]
    assert photos.find_photos([str(tmp_path / "in")]) == sorted(theirs)
    segment(tmp_path / "in", out="in")
    segment(theirs[0], out="in/deeper")
    (made,) = (tmp_path / "in" / "deeper").glob("*_labels.png")
    made.rename(tmp_path / "in" / "holiday.png")
    assert photos.find_photos([str(tmp_path / "in"), str(tmp_path / "in" / "*.png")]) == sorted(theirs)
    with pytest.raises(UsageError, match="PHOTO: got only pictures that cdam-fast made"):
        photos.find_photos([str(tmp_path / "in" / "holiday.png")])


def test_a_png_with_text_of_others_is_a_photograph(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "a camera")
    text.add_text(results.SETTINGS, "no settings")
    Image.new("RGB", (4, 4)).save(tmp_path / "p.png", pnginfo=text)
    assert len(photos.find_photos([str(tmp_path)])) == 1


def test_a_folder_gives_photographs_only(tmp_path):
    taken = [save_photo(tmp_path / name) for name in ("a.png", "B.JPG", "c.webp", "d.tiff", "e.jp2")]
    for name in ("._a.png", ".hidden.jpg", "report.pdf", "clip.mpg", "clip.mpeg", "plot.eps", "plot.ps", "data.h5"):
        (tmp_path / name).write_bytes(b"\0\x05\x16\x07")
    for name in ("data.fits", "weather.grib", "picture.wmf", "film.fli", "notes.txt", "a.xmp", "no-ending"):
        (tmp_path / name).write_bytes(b"something")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert photos.find_photos([str(tmp_path)]) == sorted(taken)


def test_photographs_that_need_a_plugin_are_said_in_one_line(tmp_path):
    save_photo(tmp_path / "a.png")
    for name in ("IMG_1.HEIC", "IMG_2.heic", "raw.NEF", "raw.cr2", "new.jxl"):
        (tmp_path / name).write_bytes(b"something")
    said = []
    assert len(photos.find_photos([str(tmp_path)], said.append)) == 1
    (line,) = said
    for part in (
        "2 .heic, takes pip install pillow-heif",
        "1 .nef, a camera's raw file",
        "1 .cr2",
        "pillow-jxl-plugin",
    ):
        assert part in line
    (tmp_path / "a.png").unlink()
    with pytest.raises(UsageError, match=r"no photograph in the folder .*2 \.heic, takes pip install pillow-heif"):
        photos.find_photos([str(tmp_path)])
    with pytest.raises(ValueError, match=r"\.heic takes pip install pillow-heif"):
        photo_files.read_photo(tmp_path / "IMG_2.heic")
    save_photo(tmp_path / "thumbnail.nef")  # what Pillow would read of a raw file is its thumbnail
    with pytest.raises(ValueError, match="raw file: export it"):
        photo_files.read_photo(tmp_path / "thumbnail.nef")


def test_what_is_no_file_is_never_waited_for(segment, tmp_path):
    photo = save_photo(tmp_path / "in" / "z.png")
    os.mkfifo(tmp_path / "in" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.bind(str(tmp_path / "in" / "s.png"))
        except OSError:  # the path is longer than a socket's may be
            (tmp_path / "in" / "s.png").mkdir()
        assert photos.find_photos([str(tmp_path / "in")]) == [photo]
        assert photos.find_photos([str(tmp_path / "in" / "*.png")]) == [photo]
        named = [
            tmp_path / "in" / "pipe.png",
            tmp_path / "in" / "s.png",
            "/dev/zero",
            "/dev/stdin",
            tmp_path / ("n" * 300),
        ]
        status, printed, errors = segment(*named, tmp_path / "in")
    assert status == 1
    assert printed.startswith("1 written")
    assert "pipe.png: cannot be read: it is a pipe, takes a file" in errors
    assert "/dev/zero: cannot be read: it is a device" in errors
    assert "File name too long" in errors


@pytest.mark.parametrize("command", [["bench", "--grid", "4", "--image"], ["map", "--model", "tiny", "--point=1,1"]])
@pytest.mark.parametrize("kind", ["pipe", "damaged", "missing", "raw.nef"])
def test_one_photograph_that_is_none_is_said_before_any_work(command, kind, tmp_path, capsys):
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind != "missing":
        path.write_bytes(negative_resolution()[:500])
    assert cli.main([*command, str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{kind}: " in line


def test_a_folder_without_a_name(tmp_path):
    save_photo(tmp_path / "p.png")
    assert cli.main(["segment", str(tmp_path / "p.png"), "--classes", "a", "--model", "tiny", "--out", ""]) == 2


@pytest.mark.parametrize(
    "word", ["cat\ndog", "cat\rdog", "a\tb", "a\x1b[31mb", "a\x00b", "a\u2028b", "a\x85b", "\udce9"]
)
def test_words_are_checked_before_any_work(segment, tmp_path, word):
    photo = save_photo(tmp_path / "p.png")
    status, printed, errors = segment(photo, classes=f"sky,{word}")
    assert status == 2
    assert printed == ""
    (line,) = errors.splitlines()
    assert line.startswith("cdam-fast segment: error: --classes: got ")
    assert not (tmp_path / "out").exists()


def test_words_of_any_language(segment, tmp_path):
    status, _, _ = segment(save_photo(tmp_path / "p.png"), "--json", classes="猫|ねこ,собака,كلب,कुत्ता,🐕")
    assert status == 0
    (path,) = (tmp_path / "out").glob("*.json")
    described = json.loads(path.read_text(encoding="utf-8"))["classes"]
    assert [row["class"] for row in described] == ["猫", "собака", "كلب", "कुत्ता", "🐕"]
