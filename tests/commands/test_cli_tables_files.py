"""``cdam-fast tables``: options that no table takes, and files that change under what was measured."""

import errno
import json
import os
import re

import pytest
from PIL import Image

from cdam_fast import cli
from cdam_fast.evaluation.tables import small


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "3", "--only", "5,6"], "--limit: is of no table of --only 5,6, takes one of 1, 2, 3, 8, 11,"),
        (
            ["--model", "tiny", "--only", "5,18"],
            "--model: is of no table of --only 5,18, takes one of 1, 2, 3, 8",
        ),
        (["--pretrained", "openai", "--only", "18"], "--pretrained: is of no table of --only 18, takes one of 1,"),
        (["--root", "voc21=x", "--only", "2"], "--root: voc21 is of no table of --only 2, takes one of 1, 3, 8,"),
        (["--root", "ade20k=x", "--only", "1,3"], "--root: ade20k is of no table of --only 1,3, takes one of 2"),
        (["--root", "ade20k=x", "--root", "voc21=y", "--only", "1"], "--root: ade20k: x is not there, takes a folder"),
        (["--model", "", "--only", "1"], "--model: "),
        (["--pretrained", "", "--only", "1"], "--pretrained: got ''"),
        (["--small", "--model", ""], "--model: takes no --small as well"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_options_without_a_use(tmp_path, capsys, arguments, message):
    assert cli.main(["tables", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"cdam-fast tables: error: {message}")


@pytest.fixture
def tables(tmp_path, capsys):
    """The small run of some tables: what it said last, and the scenes' cells of a table's file."""

    def run(*arguments):
        status = cli.main(["tables", "--small", "--out", str(tmp_path), "--device", "cpu", *arguments])
        captured = capsys.readouterr()
        read = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("table-*.json")}
        found = {name: [cell for cell in one["cells"] if cell["column"] == small.NAME] for name, one in read.items()}
        return status, captured.err, found

    return run


def test_more_images_than_there_are(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(small.scenes_column, "__defaults__", (1,))
    assert tables("--only", "14", "--limit", "20")[0] == 0
    assert "on the first 1 of its held-out generated scenes" in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("place", ["cdam_fast.evaluation.scenes._write", "cdam_fast.commands.results.check_room"])
def test_a_full_disk(tables, monkeypatch, place):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(place, full)
    status, said, _ = tables("--only", "14")
    assert (status, said.count("\n")) == (2, 1)
    assert re.match(r"cdam-fast tables: error: --out: cannot write .*: No space left on device", said), said


def test_a_mask_that_has_changed_is_measured_again(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(small.scenes_column, "__defaults__", (2,))
    only = ("--only", "11,14,17")
    _, _, first = tables(*only)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").rglob("*.json*")}
    assert tables(*only)[2] == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").rglob("*.json*")} == times

    mask = tmp_path / small.NAME / "masks" / "00001.png"
    written = small.write_scenes

    def spoiled(spoil):
        def write(*arguments):
            dataset = written(*arguments)
            spoil()
            return dataset

        return write

    def turn():
        Image.open(mask).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mask)

    monkeypatch.setattr(small, "write_scenes", spoiled(turn))
    _, _, second = tables(*only)
    for name, cells in second.items():
        assert [cell["ours"] for cell in cells] != [cell["ours"] for cell in first[name]], name
    monkeypatch.setattr(small, "write_scenes", spoiled(lambda: mask.write_bytes(b"nothing")))
    status, said, third = tables(*only)
    assert (status, "1 images failed, the first: 00001: mask 00001.png: cannot be read" in said) == (1, True), said
    for cells in third.values():
        assert {cell["reason"].partition(":")[0] for cell in cells if cell.get("failed")} == {"00001"}
