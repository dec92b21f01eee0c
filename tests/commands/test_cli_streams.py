"""Streams of any encoding, that break or are full; packages that are not there; devices; what is said of time."""

import importlib
import io
import os
import struct
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from PIL import Image

from cdam_fast import cli, testing
from cdam_fast.commands import devices, env, fonts, pictures, progress, streams
from cdam_fast.measuring import durations
from cdam_fast.measuring.bench import BenchOptions
from cdam_fast.measuring.inputs import parse_class_lists

FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")


@pytest.fixture
def arguments(tiny, tmp_path):
    """A run over three photographs, one of which fails, with a name in Japanese and one that is no text."""
    folder = tmp_path / "写真"
    folder.mkdir()
    for name in (b"a.png", b"caf\xe9.png", "あ.png".encode()):
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:  # noqa: PTH123 - a name in bytes
            Image.new("RGB", (40, 30), (200, 0, 0)).save(file, format="PNG")
    (folder / "broken.png").write_bytes(b"nothing")
    out = ["--out", str(tmp_path / "結果")]
    return ["segment", str(folder), "--classes", "red,猫", *tiny, "--background", "none", *out]


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
    + [(step, error) for step in ("describe", "overlay", "png") for error in ERRORS[1:3]],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_whatever_one_photograph_raises_is_its_own(step, error, arguments, monkeypatch, capsys):
    from cdam_fast.commands import segment_files as segment

    original, calls = getattr(segment, step), []

    def failing(*args, **options):
        calls.append(args)
        if len(calls) == 1:
            raise error
        return original(*args, **options)

    monkeypatch.setattr(segment, step, failing)
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


# --- packages that are not there


def _is_asked_again(module):
    kept = ("cdam_fast.errors", "cdam_fast.commands.streams")  # whose classes the command line knows
    folders = ("commands.", "measuring.", "ahead.", "kernels")
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


# --- devices


def test_auto_takes_the_first_device_that_works(monkeypatch):
    monkeypatch.setattr(devices, "is_there", lambda device: device.type in ("mps", "cpu"))
    assert devices.parse_device("auto") == torch.device("mps")
    monkeypatch.setattr(devices, "is_there", lambda device: device.type == "cpu")
    assert devices.parse_device("auto") == torch.device("cpu")


def test_a_device_that_lacks_an_operation_is_said_and_not_taken(monkeypatch, capsys):
    monkeypatch.setattr(torch, "mps", types.SimpleNamespace(is_available=lambda: True), raising=False)
    monkeypatch.setattr(torch.backends, "mps", types.SimpleNamespace(is_available=lambda: True), raising=False)

    def missing(*args, **options):
        raise NotImplementedError("aten::_upsample_bicubic2d_aa.out is not there")

    image = torch.ones(1, 3, 8, 8)
    monkeypatch.setattr(torch, "zeros", lambda *sizes, device: image)  # as if it could be made there
    monkeypatch.setattr(devices.functional, "interpolate", missing)
    assert not devices.is_there(torch.device("mps"))
    assert capsys.readouterr().err == (
        "device mps: there, and passed over: aten::_upsample_bicubic2d_aa.out is not there\n"
    )


def test_the_first_line_says_device_and_backend(arguments, capsys):
    cli.main(arguments)
    first = capsys.readouterr().err.splitlines()[0]
    device = devices.parse_device("auto")
    assert first.startswith(f"device {device} (")
    assert first.endswith(f"backend {'portable' if device.type == 'cpu' else 'triton'}")


# --- env


def test_env_prints_versions_devices_and_a_check(capsys):
    assert cli.main(["env"]) == 0
    printed = capsys.readouterr().out
    for word in ("cdam_fast", "python", "torch", "triton", "numpy", "open_clip", "Pillow", "system", torch.__version__):
        assert word in printed
    assert "cpu, portable: right, largest error" in printed
    assert "cpu: backend portable; not triton: " in printed


def test_env_works_without_optional_packages(monkeypatch, capsys):
    for name in ("triton", "open_clip", "rich", "matplotlib", "safetensors", "PIL"):
        for module in list(sys.modules):
            if module.split(".")[0] == name:
                monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, name, None)
    assert cli.main(["env"]) == 0
    assert capsys.readouterr().out.count("not installed") >= 6


def test_env_ends_in_1_where_a_backend_is_wrong_or_fails(monkeypatch, capsys):
    def wrong(similarity, backend):
        exact = testing.oracle(similarity).float()
        if backend == "portable":
            return exact + 1e-3
        raise RuntimeError("no such kernel image")

    monkeypatch.setattr(env, "cdam_attention", wrong)
    assert cli.main(["env"]) == 1
    printed = capsys.readouterr().out
    assert "cpu, portable: WRONG, largest error 1.0e-03" in printed
    assert "cpu, reference: FAILED, RuntimeError: no such kernel image" in printed


# --- time


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (7.4, "7 s"), (42, "40 s"), (88, "90 s"), (150, "2 min"), (5000, "1 h 23 min")]
)
def test_durations_as_one_says_them(seconds, said):
    assert progress.spoken(seconds) == said


def test_steps_say_what_is_gone_and_what_is_left(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.counted(4, "counting") as advance:
        for name in "abcd":
            now[0] += 60
            advance(name)
    with progress.estimated(200) as step:
        now[0] += 60
        step("first")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "[1/4] a (3 min left)", "[2/4] b (2 min left)", "[3/4] c (60 s left)", "[4/4] d",
        "takes about 3 min here", "[60 s of about 3 min] first",
    ]  # fmt: skip


def test_more_work_is_estimated_longer():
    def seconds(classes="VOC21", end_to_end=False, **options):
        lists = parse_class_lists(classes)
        return durations.of_bench(BenchOptions(lists, torch.device("cpu"), **options), end_to_end=end_to_end)

    short = seconds(grid=(8, 8))
    assert short < seconds(grid=(40, 40)) < seconds(grid=(40, 40), end_to_end=True)
    assert short < seconds("VOC21,Context60,COCO-Object", grid=(20, 20))
