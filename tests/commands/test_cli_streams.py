"""Streams of any encoding, that break or are full; packages that are not there; devices; what is said of time."""

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from cdam_fast import Segmentation, cli
from cdam_fast.commands import streams

FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")


# --- encodings


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp932", "utf-8", "utf-16"])
def test_any_encoding(encoding, arguments, monkeypatch):
    raw = {name: io.BytesIO() for name in ("stdout", "stderr")}
    for name, buffer in raw.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(buffer, encoding=encoding, write_through=True))
    assert cli.main(arguments) == 1
    printed, errors = (buffer.getvalue().decode(encoding) for buffer in raw.values())
    assert printed.startswith("3 written to ")
    assert "Traceback" not in errors
    assert "caf\\xe9.png: " in errors
    assert "broken.png: " in errors


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
@pytest.mark.parametrize(
    "bad", [["--base", "猫"], ["--device", "猫"], ["--out", "/dev/null/猫"], ["--猫"], ["--pretrained", "\udce9.pt"]]
)
def test_errors_in_any_encoding(encoding, bad, arguments, monkeypatch):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(buffer, encoding=encoding, write_through=True))
    assert cli.main([*arguments, *bad]) == 2
    last = buffer.getvalue().decode(encoding).splitlines()[-1]
    assert "error: " in last
    assert bad[-1].encode("ascii", "backslashreplace").decode().replace("\\udce9", "\\xe9") in last


def test_a_table_in_ascii(monkeypatch):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="ascii", write_through=True))
    streams.prepare()
    from rich.table import Table

    table = Table("µs", "猫")
    table.add_row("é", "\udce9")
    streams.show(table)
    assert "\\xb5s" in buffer.getvalue().decode("ascii")


def test_one_line_of_anything():
    assert streams.one_line("a\nb\x1b\u2028\udce9\ud800é猫") == "a\\nb\\x1b\\u2028\\xe9\\ud800é猫"
    assert streams.one_line("C:\\photos\\new.jpg") == "C:\\photos\\new.jpg"


# --- streams that take nothing more


class Refusing(io.StringIO):
    """A stream whose disk is full, or whose reader is gone."""

    def __init__(self, error, after=0):
        super().__init__()
        self.error, self.left = error, after

    def write(self, text):
        if self.left <= 0:
            raise self.error
        self.left -= 1
        return super().write(text)


@pytest.mark.parametrize(
    "run", [["--help"], ["--version"], ["segment", "--help"], ["env"], ["bench", "--grid", "no"]], ids=" ".join
)
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_full_or_broken_stream_ends_in_a_status(run, name, monkeypatch, capsys):
    to_stderr = run[-1] == "no"
    for error, status in ((OSError(28, "No space left on device"), 1), (BrokenPipeError(32, "Broken pipe"), 1)):
        stream = Refusing(error)
        with monkeypatch.context() as patch:
            patch.setattr(sys, name, stream)
            assert cli.main(run) == (status if to_stderr == (name == "stderr") else 2 if to_stderr else 0)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        if name == "stdout" and not to_stderr:
            expected = "cannot write to standard output: No space left on device" if error.errno == 28 else ""
            assert captured.err.strip().removeprefix("cdam-fast: error: ") == expected


@FULL
@pytest.mark.parametrize(
    "command",
    [
        "{} > /dev/full",
        *(
            pytest.param(text, marks=pytest.mark.slow)
            for text in ("{} 2>&1 | head -1", "{} 2>&1 | true", "{} 2> /dev/full")
        ),
    ],
)
def test_results_are_written_though_a_stream_fails(command, arguments, tmp_path):
    quoted = " ".join(f"'{word}'" for word in [sys.executable, "-m", "cdam_fast", *arguments])
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    shell = command.format(quoted) + '; exit "${PIPESTATUS[0]}"'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert "Exception ignored" not in done.stderr
    if command == "{} > /dev/full":
        assert done.stderr.splitlines()[-1] == (
            "cdam-fast: error: cannot write to standard output: No space left on device"
        )
        assert len(list((tmp_path / "結果").glob("*_labels.png"))) == 3


def test_a_full_disk_for_results_is_each_photographs_line(arguments, monkeypatch, capsys):
    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert cli.main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("0 written")
    failed = [line for line in captured.err.splitlines() if line.startswith("failed: ")]
    assert sum("No space left on device" in line for line in failed) == 3


ERRORS = [struct.error("bad"), KeyError("tag"), MemoryError(), RecursionError("deep"), SystemError("frame")]
ERRORS += [ZeroDivisionError("by zero"), StopIteration(), EOFError(), IndexError("range")]


@pytest.mark.parametrize(
    ("step", "error"),
    [("read_photo", error) for error in ERRORS]
    + [(step, error) for step in ("to_dict", "overlay", "png") for error in ERRORS[1:3]],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_whatever_one_photograph_raises_is_its_own(step, error, arguments, monkeypatch, capsys):
    from cdam_fast.commands import segment_files

    place = Segmentation if hasattr(Segmentation, step) else segment_files
    original, calls = getattr(place, step), []

    def failing(*args, **options):
        calls.append(args)
        if len(calls) == 1:
            raise error
        return original(*args, **options)

    monkeypatch.setattr(place, step, failing)
    assert cli.main(arguments) == 1
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.out.startswith("2 written")


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("a kernel failed"), torch.cuda.OutOfMemoryError("full")], ids=repr
)
@pytest.mark.parametrize("step", ["_canvas", "_guarded", "_finish"])
def test_whatever_the_model_raises_is_one_photographs(step, error, arguments, monkeypatch, capsys):
    """Batches hold windows of several photographs."""
    from cdam_fast import CDAMSegmenter

    original = getattr(CDAMSegmenter, step)

    def failing(self, what, *args):
        crops = what if isinstance(what, list) else [getattr(what, "pixels", what)]
        if any(float(crop.float().flatten(1).mean(1).argmax()) == 2 for crop in crops):  # the blue one
            raise error
        return original(self, what, *args)

    with Path(arguments[1], "m-blue.png").open("wb") as file:
        Image.new("RGB", (40, 30), (0, 0, 250)).save(file, format="PNG")
    monkeypatch.setattr(CDAMSegmenter, step, failing)
    assert cli.main([*arguments, "--batch-size", "3"]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("3 written")
    failed = [line for line in captured.err.splitlines() if line.startswith("failed: ")]
    assert ["m-blue.png" in line for line in failed].count(True) == 1
    assert len(failed) == 2
