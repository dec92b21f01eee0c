"""Packages that are not there, and what nobody foresaw."""

import importlib
import sys

import pytest
import torch
from PIL import Image

from cdam_fast import cli
from cdam_fast.commands import env
from cdam_fast.segmentation import fonts, pictures

# --- packages that are not there


def _is_asked_again(module):
    kept = ("cdam_fast.errors", "cdam_fast.commands.streams")  # whose classes the command line knows
    folders = ("commands.", "demo.", "measuring.", "ahead.", "kernels")
    return module.startswith(tuple(f"cdam_fast.{folder}" for folder in folders)) and module not in kept


@pytest.mark.parametrize(
    ("package", "run", "advice"),
    [
        ("open_clip", ["segment", "{photo}", "--classes", "red"], "pip install open_clip_torch"),
        ("open_clip", ["bench", "--grid", "4", "--classes", "5"], "pip install open_clip_torch"),
        ("safetensors", ["segment", "{photo}", "--classes", "red", "{tiny}"], "pip install safetensors"),
        ("PIL", ["segment", "{photo}", "--classes", "red"], "pip install pillow"),
        ("rich", ["segment", "{photo}", "--classes", "red", "{tiny}"], "pip install rich"),
        ("rich", ["bench", "--grid", "4"], "pip install rich"),
        ("rich", ["tune"], "pip install rich"),
        ("matplotlib", ["map", "{photo}", "--point", "1,1", "{tiny}"], 'pip install "cdam_fast[plot]"'),
        ("matplotlib", ["bench", "--plot", "a.png"], 'pip install "cdam_fast[plot]"'),
        ("torchmetrics", ["evaluate", "voc21", "--root", "{photo}"], 'pip install "cdam_fast[evaluation]"'),
        *(
            (package, ["tables", "--small", "--limit", "1", "--out", "t"], 'pip install "cdam_fast[evaluation]"')
            for package in ("torchmetrics", "skimage", "SimpleITK")
        ),
        ("gradio", ["demo"], 'pip install "cdam_fast[demo]"'),
        ("triton", ["kernels"], "pip install triton"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value if value.isidentifier() else "",
)
def test_a_missing_package_is_one_line(package, run, advice, tiny, tmp_path, monkeypatch, capsys):
    photo = tmp_path / "p.png"
    Image.new("RGB", (40, 30)).save(photo)
    filled = [part for word in run for part in (tiny if word == "{tiny}" else [word.format(photo=photo)])]
    for name in list(sys.modules):
        if name.split(".")[0] == package or _is_asked_again(name):
            monkeypatch.delitem(sys.modules, name)
            above, _, last = name.rpartition(".")
            if above.startswith("cdam_fast"):  # "from package import module" looks there first
                monkeypatch.delattr(importlib.import_module(above), last, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    status = cli.main(filled)
    captured = capsys.readouterr()
    assert status == 2
    assert "Traceback" not in captured.err
    last = captured.err.splitlines()[-1]
    assert last.startswith(f"cdam-fast {run[0]}: error: ")
    assert package in last
    assert advice in last
    assert captured.out == ""


def test_segment_needs_no_matplotlib(arguments, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    fonts._names.cache_clear()
    fonts._fonts.cache_clear()
    assert cli.main(arguments) == 1
    assert capsys.readouterr().out.startswith("3 written")
    fonts._names.cache_clear()
    fonts._fonts.cache_clear()


@pytest.mark.parametrize("kind", ["bitmap", "builtin"])
def test_a_legend_without_any_font_file(kind, monkeypatch):
    from PIL import ImageFont

    font = (
        ImageFont.load_default_imagefont()
        if kind == "bitmap" and hasattr(ImageFont, "load_default_imagefont")
        else None
    )
    font = font or ImageFont.load_default()
    monkeypatch.setattr(fonts, "_fonts", lambda size: (font,))
    entries = [pictures.Entry(0, "cat", 0.5), pictures.Entry(1, "猫", 0.5)]
    with pytest.warns(UserWarning, match="legend: no font here has the letters of '猫'"):
        whole = pictures.overlay(
            torch.zeros(3, 20, 30, dtype=torch.uint8), torch.eye(20, 30).long(), [(0, 0, 0), (255, 0, 0)], entries, 0
        )
    assert whole.width >= 720


def test_something_unforeseen_is_one_line_with_its_place(monkeypatch, capsys):
    def broken():
        raise LookupError("no loop in the listing\nand more")

    monkeypatch.setattr(env, "_versions", broken)
    assert cli.main(["env"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cdam-fast env: error: LookupError: no loop in the listing (")
    assert "env.py line " in line
