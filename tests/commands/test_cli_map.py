"""``cdam-fast map``."""

import pytest
from PIL import Image
from saved_photo import save_photo

from cdam_fast import cli

CLASSES = "background,cat|kitten,dog,sky"


@pytest.mark.parametrize(
    ("point", "named"),
    [
        ("90,10", "--point: got 90,10, takes X below 90 and Y below 60"),
        ("3", "--point: got '3'"),
        ("a,b", "--point: got 'a,b'"),
        ("-1,4", "--point"),
    ],
)
def test_bad_points(weights, photo, out, point, named, capsys):
    assert cli.main(["map", str(photo), f"--point={point}", *weights, "--out", str(out)]) == 2
    assert named in capsys.readouterr().err


def test_a_strip_has_no_map(weights, tmp_path, out, capsys):
    strip = save_photo(tmp_path / "strip.png", 20, 90)
    assert cli.main(["map", str(strip), "--point=0,0", *weights, "--out", str(out)]) == 2
    assert "PHOTO: got 90x20 pixels, takes a long side of at most 4 times" in capsys.readouterr().err


def test_map_draws_a_picture(weights, photo, out, capsys):
    points = ["--point", "10,20", "--point", "80,50"]
    assert cli.main(["map", str(photo), *points, "--classes", CLASSES, *weights, "--out", str(out)]) == 0
    path = next(out.glob("photo-*_10-20_80-50_map.png"))
    assert capsys.readouterr().out == f"written to {path}\n"
    with Image.open(path) as picture:
        assert picture.width > 1000
