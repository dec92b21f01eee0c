"""``cdam-fast evaluate``: what it prints and writes, which protocol it takes, and what it says of bad input."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from small_evaluations import write
from spawned import SLOWLY, environment

from cdam_fast import cli
from cdam_fast.evaluation import load_protocol, open_dataset
from cdam_fast.evaluation.scenes import write_scenes
from cdam_fast.files import json_text

SCENES = 4


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, SCENES, 7, side=96)
    return folder


@pytest.fixture
def given(root, tiny):
    return ["custom", "--root", str(root), "--classes", str(root / "classes.txt"), *tiny, "--workers", "0"]


@pytest.fixture
def evaluate(given, capsys):
    def run(*arguments, options=None):
        status = cli.main(["evaluate", *(given if options is None else options), *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_a_table_the_protocol_and_json(evaluate, tmp_path):
    status, printed, progress = evaluate("--background", "0.5", "--json", tmp_path / "result.json")
    assert status == 0, progress
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["images"] == SCENES
    rows = dict(line.split()[:2] for line in printed.splitlines() if len(line.split()) == 2)
    for name, iou in result["iou"].items():
        assert rows.get(name) == (None if iou is None else f"{100 * iou:.2f}")
    assert rows["mean"] == f"{100 * result['miou']:.2f}"
    but = "model tiny, short side 96, window 96, stride 48, background 0.5"
    assert f"protocol paper, but: {but}\n" in printed
    assert "tiny; short side 96 (mmcv, long side at most 2048), window 96, stride 48\n" in printed
    assert "background below 0.5, order official, cpu, float32\n" in printed
    assert printed.splitlines()[-1].startswith(f"{SCENES} images, 0 failed, ")
    said = progress.splitlines()
    assert said[1] == f"protocol paper, but: {but}"
    assert [line.split("]")[0] for line in said[2:]] == [f"[{i}/{SCENES}" for i in range(1, SCENES + 1)]
    assert f": mIoU so far {100 * result['miou']:.2f} %" in said[-1]
    assert result["protocol"]["name"] == "paper"
    assert result["protocol"]["different"] == but.split(", ")
    assert result["settings"]["model"] == ["tiny"]
    assert result["settings"]["order"] == "official"
    assert result["published_miou"] is None


def test_another_model_gets_its_own_pixels(evaluate, tmp_path):
    status, _, errors = evaluate("--protocol", "released", "--limit", 1, "--json", tmp_path / "a.json")
    assert status == 0, errors
    settings = json.loads((tmp_path / "a.json").read_text())["settings"]
    assert settings["image_std"] == pytest.approx([0.26862954, 0.26130258, 0.27577711], abs=1e-7)
    released = load_protocol("released").settings("voc21").options["image_std"]
    assert settings["image_std"] != pytest.approx(released, abs=1e-7)


def test_a_warning_is_said_once(evaluate):
    """Nine words have little entropy: Eq. 4 is above any probability for every image."""
    errors = evaluate()[2]
    assert errors.count("note: threshold: ") == 1


def test_out_goes_on(evaluate, tmp_path):
    out = tmp_path / "out"
    assert evaluate("--limit", 2, "--out", out)[0] == 0
    status, printed, progress = evaluate("--out", out)
    assert status == 0
    assert "[1/2] 00002: " in progress
    assert f"{SCENES} images, 0 failed" in printed
    whole = evaluate("--json", tmp_path / "whole.json")
    assert whole[0] == 0
    kept, apart = (json.loads(path.read_text()) for path in (out / "result.json", tmp_path / "whole.json"))
    assert kept["confusion"] == apart["confusion"]
    status, _, errors = evaluate("--out", out, "--no-cdam")
    assert status == 2
    assert errors.splitlines()[-1].startswith(f"cdam-fast evaluate: error: --out: {out} has results with cdam true, ")


def test_failed_images_are_named(given, evaluate, tmp_path, tiny):
    write(tmp_path / "data", count=3)
    (tmp_path / "data" / "masks" / "写真1.png").unlink()
    options = ["custom", "--root", str(tmp_path / "data"), "--classes", str(tmp_path / "data/classes.txt"), *tiny]
    status, printed, errors = evaluate("--background", "none", "--json", tmp_path / "a.json", options=options)
    assert status == 1
    reason = "写真1: mask 写真1.png: cannot be read: No such file or directory"
    assert errors.splitlines()[-1] == f"failed: {reason}"
    assert "2 images, 1 failed" in printed
    assert json.loads((tmp_path / "a.json").read_text())["failed"][0]["image"] == "写真1"
    status, printed, errors = evaluate("--background", "none", "--strict", options=options)
    assert (status, printed) == (1, "")
    assert errors.splitlines()[-1] == f"cdam-fast evaluate: error: {reason} (--strict)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", "0"], "--limit: got 0, takes a whole number from 1"),
        (["--workers", "-1"], "--workers: got -1, takes None or a whole number from 0"),
        (["--protocol", "ours"], "--protocol: "),
        (["--base", "none"], "--base: got 'none'"),
        (["--window", "97"], "--window: got 97 pixels"),
        (["--short-side", "2056"], "--protocol: paper: long_side: got 2048 pixels, takes at least short_side, 2056"),
        (["--stride", "900"], "--stride: got 900 pixels"),
        (["--batch-size", "0"], "--batch-size: got 0"),
        (["--background", "high"], "--background: got 'high', takes entropy, none or a probability"),
        (["--amp", "--dtype", "bfloat16"], "--amp: got True for a model in torch.bfloat16"),
        (["--json", "/dev/null/x"], "--json: cannot write /dev/null/x"),
        (["--out", "/dev/null/x"], "--out: cannot write /dev/null/x"),
        (["--device", "cuda:99"], "--device: got 'cuda:99'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_bad_options(evaluate, options, message):
    status, printed, errors = evaluate(*options)
    assert (status, printed) == (2, "")
    assert errors.splitlines()[-1].startswith(f"cdam-fast evaluate: error: {message}"), errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pets", "--root", "."], "DATASET: got 'pets', takes one of voc21, "),
        (["custom", "--root", "."], "--classes: got None, takes the file of its classes with custom"),
        (["voc21", "--root", "nowhere"], "--root: nowhere is not there, takes a folder"),
        (["voc21", "--root", ".", "--classes", "a.txt"], "--classes: got a.txt, takes None with voc21"),
    ],
    ids=["name", "no classes", "no root", "classes too many"],
)
def test_bad_data_sets(evaluate, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, errors = evaluate(options=arguments)
    assert (status, errors.splitlines()[-1].startswith(f"cdam-fast evaluate: error: {message}")) == (2, True), errors


def test_without_torchmetrics(evaluate, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    status, _, errors = evaluate()
    assert status == 2
    expected = 'cdam-fast evaluate: error: torchmetrics is not installed; pip install "cdam_fast[evaluation]"'
    assert errors.splitlines()[-1] == expected


# --- which settings


def chosen(arguments, dataset="voc21", classes=None, background=0):
    from cdam_fast.commands.protocol_options import choose
    from cdam_fast.evaluation import Dataset

    names = classes or load_protocol("sclip").settings(dataset).class_names
    made = Dataset(dataset, tuple(str(name) for name in names), (), None, background)
    return choose(cli._parser().parse_args(["evaluate", dataset, "--root", ".", *arguments]), made)


def test_a_protocol_as_it_is_has_the_published_number():
    for arguments in ([], ["--base", "sclip"], ["--no-cdam"], ["--base", "gem", "--no-cdam"], ["--model", "ViT-B-32"]):
        made = chosen(arguments)
        base = arguments[arguments.index("--base") + 1] if "--base" in arguments else None
        model = "ViT-B-32" if "--model" in arguments else None
        settings = load_protocol("paper").settings("voc21", base, "--no-cdam" not in arguments, model=model)
        assert (made.different, made.published) == ([], settings.miou)
        assert (made.model, made.pretrained, made.base) == (settings.model, settings.pretrained, settings.base)
        assert made.options == settings.options
    assert chosen([]).published is not None


@pytest.mark.parametrize(
    ("arguments", "different"),
    [
        (["--model", "tiny"], "model tiny, short side 224, window 224, stride 112"),
        (["--pretrained", "openai"], "weights openai"),
        (["--base", "naclip"], "base naclip"),
        (["--stride", "112"], "stride 112"),
        (["--stride", "224"], ""),
        (["--limit", "10"], "the first 10 images"),
        (["--amp"], "amp"),
        (["--dtype", "bfloat16"], "dtype bfloat16"),
        (["--background", "none"], "background none"),
        (["--batch-size", "2", "--workers", "3", "--device", "cpu", "--strict"], ""),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_what_is_different_is_named_and_leaves_the_published_number_out(arguments, different):
    made = chosen(arguments)
    assert ", ".join(made.different) == different
    assert (made.published is None) == bool(different)


def test_an_own_file_of_a_protocol(tmp_path, evaluate, root):
    content = json.loads((load_file := _protocol_file("paper")).read_text(encoding="utf-8"))
    content["name"] = "mine"
    (tmp_path / "mine.json").write_bytes(json_text(content))
    assert load_file.exists()
    status, printed, _ = evaluate("--protocol", tmp_path / "mine.json", "--limit", 1)
    assert status == 0
    assert "protocol mine, but: model tiny" in printed


def _protocol_file(name):
    from cdam_fast.evaluation.protocol import FOLDER

    return FOLDER / f"{name}.json"


def test_a_data_set_of_ones_own_has_its_words_and_background(tmp_path):
    (tmp_path / "classes.txt").write_text("cat, kitten\nBackground\ndog\n", encoding="utf-8")
    given = ["--classes", str(tmp_path / "classes.txt")]
    made = chosen(given, "custom", ["cat", "Background", "dog"], 1)
    assert made.settings.class_names == [["cat", "kitten"], "Background", "dog"]
    assert (made.options["background"], made.options["background_class"]) == ("entropy", 1)
    without = chosen(given, "custom", ["cat", "Background", "dog"], None)
    assert (without.options["background"], without.options["background_class"]) == (None, None)
    for name in ("released", "sclip"):
        assert chosen([*given, "--protocol", name], "custom", ["cat", "Background", "dog"], None).settings.miou is None


def test_a_data_set_that_the_protocol_does_not_have(evaluate, tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages/2007_000033.jpg", "SegmentationClass/2007_000033.png", "ImageSets/Segmentation/val.txt"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("2007_000033\n")
    assert len(open_dataset("voc20", root).samples) == 1
    status, _, errors = evaluate(options=["voc20", "--root", str(root)])
    assert status == 2
    assert "error: DATASET: got 'voc20', the protocol paper takes one of voc21, " in errors


# --- ended in the middle


def started(given, out):
    return subprocess.Popen(
        [sys.executable, "-c", SLOWLY, *given, "--out", str(out)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_lines(out, count, running):
    path, begin = out / "images-0.jsonl", time.monotonic()
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert running.poll() is None, running.communicate()
        assert time.monotonic() - begin < 100
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGKILL, -signal.SIGKILL), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
    ids=["SIGKILL", "SIGINT"],
)
def test_a_run_that_is_ended_goes_on_to_the_same_matrix(evaluate, tmp_path, tiny, number, status):
    write_scenes(tmp_path / "many", 30, 8, side=96)
    root = tmp_path / "many"
    given = ["custom", "--root", str(root), "--classes", str(root / "classes.txt"), *tiny, "--workers", "1"]
    out = tmp_path / "out"
    running = started(given, out)
    try:
        wait_for_lines(out, 5, running)
        os.kill(running.pid, number)
        _, errors = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == status
    assert not (out / "result.json").exists()
    if number == signal.SIGINT:
        last = f"cdam-fast evaluate: what is done is kept in {out}; the same command goes on there"
        assert errors.splitlines()[-1] == last
        assert "Traceback" not in errors
    done = (out / "images-0.jsonl").read_bytes().count(b"\n")
    assert 5 <= done < 30
    assert evaluate("--out", out, options=given)[0] == 0
    assert evaluate("--json", tmp_path / "whole.json", options=given)[0] == 0
    kept, whole = (json.loads(path.read_text()) for path in (out / "result.json", tmp_path / "whole.json"))
    assert kept["confusion"] == whole["confusion"]
    assert kept["images"] == 30
