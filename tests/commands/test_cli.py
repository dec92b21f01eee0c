"""The command line: what it prints and writes, and one line and exit 2 for what a person can mend."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cdam_fast import cli, testing
from cdam_fast.measuring import bench, inputs, measure, report
from cdam_fast.models import BASES
from cdam_fast.prompts import AUGMENTED_TEXT_PROMPTS, VOC21

QUICK = ["bench", "--grid", "6", "--classes", "20", "--compile", "none", "--runs", "2"]


@pytest.fixture
def photograph(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def test_bench_prints_the_table_and_writes_json_and_plot(tmp_path, photograph, capsys):
    json_path, plot_path = tmp_path / "bench.json", tmp_path / "bench.png"
    arguments = [*QUICK, "--batch", "2", "--image", photograph, "--json", str(json_path), "--plot", str(plot_path)]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "portable" in printed
    assert "random, seed 0" in printed
    written = json.loads(json_path.read_text())
    assert written["photograph"] == "photo.png"
    assert written["batch"] == 2
    rows = {row["backend"]: row for row in written["rows"]}
    assert set(rows) == {"eager", "portable"}
    assert rows["portable"]["error"] <= testing.MAP_BUDGET
    for row in rows.values():
        assert row["status"] == "ok"
        assert row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"]
        assert row["memory_bytes"] >= 2 * 36 * 36 * 4
    assert rows["portable"]["over_eager"] == pytest.approx(rows["eager"]["p50_ms"] / rows["portable"]["p50_ms"])
    with Image.open(plot_path) as plot:
        assert plot.format == "PNG"


class Evil:
    def __reduce__(self):
        return (print, ("pickled code ran",))


def test_weights_of_the_bench_run_no_pickled_code(tmp_path, photograph, capsys):
    torch.save({"weights": Evil()}, tmp_path / "a.pt")
    assert cli.main([*QUICK, "--image", photograph, "--pretrained", str(tmp_path / "a.pt")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "would run pickled code to load, and is refused" in captured.err


def test_a_wrong_backend_is_shown_and_not_timed(monkeypatch, photograph, capsys):
    monkeypatch.setattr(bench, "cdam_attention", lambda similarity, backend: torch.zeros(1, 36, 36))
    assert cli.main([*QUICK, "--image", photograph]) == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if "WRONG" in line)
    assert "portable" in line


def test_a_backend_that_fails_is_a_row_and_not_the_end(monkeypatch, photograph, capsys):
    def broken(similarity, backend):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(bench, "cdam_attention", broken)
    assert cli.main([*QUICK, "--image", photograph]) == 0
    printed = capsys.readouterr().out
    assert "FAILED" in printed
    assert "no compiler here" in printed


def test_eager_that_does_not_fit_is_said_and_the_rest_runs(monkeypatch, photograph, capsys):
    monkeypatch.setattr(bench, "available_memory", lambda device: 1000.0)
    assert cli.main([*QUICK, "--image", photograph]) == 0
    assert "does not fit" in capsys.readouterr().out.lower()


def test_an_interrupt_keeps_what_is_done(monkeypatch, photograph, tmp_path):
    first_rounds = bench._time_round

    def interrupt(row, call, turn, options):
        if turn == 1:
            raise KeyboardInterrupt
        first_rounds(row, call, turn, options)

    monkeypatch.setattr(bench, "_time_round", interrupt)
    path = tmp_path / "bench.json"
    assert cli.main([*QUICK, "--image", photograph, "--json", str(path)]) == 130
    written = json.loads(path.read_text())
    assert written["interrupted"] is True
    for row in written["rows"]:
        assert row["status"] == "ok"
        assert row["runs"] == len(row["seconds"]) > 0
        assert row["p50_ms"] > 0


def test_a_file_without_permission_is_said_before_the_work(monkeypatch, photograph, tmp_path, capsys):
    path = tmp_path / "bench.json"
    path.write_text("old")
    monkeypatch.setattr(report.os, "access", lambda *args: False)
    assert cli.main([*QUICK, "--image", photograph, "--json", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"cdam-fast bench: error: --json: cannot write {path}: Permission denied\n"
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--image", "missing.jpg"], "--image: missing.jpg: cannot be read: No such file"),
        (["--image", __file__], "not an image that Pillow can read"),
        (["--image", str(Path(__file__).parent)], "cannot be read: it is a folder"),
        (["--pretrained", "nothing_like_it"], "laion2b_s34b_b88k"),
        (["--pretrained", __file__], "--pretrained: "),
        (["--json", "missing_folder/out.json"], "--json: cannot write missing_folder"),
        (["--json", str(Path(__file__).parent)], "--json: cannot write"),
        (["--plot", "missing_folder/out.png"], "--plot: cannot write"),
        (["--plot", "out.xyz"], "--plot: got out.xyz, takes a name that ends in one of "),
        (["--classes", "VOC22"], "--classes: got 'VOC22', takes VOC21, Context60, COCO-Object"),
        (["--classes", "VOC21,voc21"], "takes each list once"),
        (["--classes", ","], "--classes"),
        (["--classes", "0"], "--classes"),
        (["--grid", "2"], "--grid"),
        (["--grid", "8x8x8"], "--grid"),
        (["--batch", "0"], "--batch"),
        (["--batch", "many"], "--batch"),
        (["--runs", "0"], "--runs"),
        (["--compile", "some"], "--compile"),
        (["--device", "cuda:99"], "--device"),
        (["--device", "toaster"], "--device"),
        (["--unknown"], "--unknown"),
    ],
    ids=lambda value: "-".join(Path(word).name for word in value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_exit_2(arguments, named, capsys):
    try:
        status = cli.main([*QUICK, *arguments])
    except SystemExit as stopped:
        status = stopped.code
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if "error:" in line]
    assert status == 2
    assert captured.out == ""
    assert len(errors) == 1
    assert named in errors[0]
    assert "Traceback" not in captured.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
def test_no_space_for_json(photograph, capsys):
    assert cli.main([*QUICK, "--image", photograph, "--json", "/dev/full"]) == 2
    captured = capsys.readouterr()
    assert "portable" in captured.out
    assert "--json: cannot write /dev/full: No space left on device" in captured.err


def test_an_older_json_survives_a_failed_write(tmp_path, monkeypatch):
    path = tmp_path / "bench.json"
    path.write_text("old")
    measured = bench.Report({"date": "2026-01-01"})
    monkeypatch.setattr(Path, "replace", lambda *args: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(report.UsageError, match="--json"):
        report.write_json(measured.as_json(), str(path))
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["bench.json"]


def test_module_runs_as_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "cdam_fast", "bench", "--grid", "no"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("cdam-fast bench: error: --grid")
    assert done.stderr.count("\n") == 1


def test_class_lists_end_with_the_augmented_prompts():
    (entry,) = inputs.parse_class_lists("voc21")
    assert entry.words == VOC21 + AUGMENTED_TEXT_PROMPTS
    (many,) = inputs.parse_class_lists("284")
    assert len(set(many.words)) == 284


def test_peak_memory_counts_what_is_live_at_once():
    def call():
        first = torch.ones(1000, 1000)
        second = first + 1
        del first
        return second * 2

    peak, _, result = measure.peak_memory(call, torch.device("cpu"))
    assert result.shape == (1000, 1000)
    assert peak == pytest.approx(8e6, rel=0.01)


@pytest.mark.slow
def test_end_to_end_prints_every_base_and_what_cdam_adds(tmp_path, photograph, capsys):
    json_path = tmp_path / "end.json"
    arguments = ["bench", "--end-to-end", "--grid", "6", "--classes", "VOC21", "--compile", "none", "--runs", "1"]
    assert cli.main([*arguments, "--image", photograph, "--json", str(json_path)]) == 0
    assert "over base" in capsys.readouterr().out
    rows = json.loads(json_path.read_text())["rows"]
    assert {row["base"] for row in rows} == set(BASES)
    alone = {row["base"]: row for row in rows if row["step"] == "base"}
    for row in rows:
        assert row["status"] == "ok"
        if row["step"] != "base":
            assert row["error"] <= 1e-5
            assert row["over_base"] == pytest.approx(row["p50_ms"] / alone[row["base"]]["p50_ms"] - 1)
    whole = next(row for row in rows if row["base"] == "gem" and row["step"] == "+ threshold")
    assert whole["paper_ms"] == pytest.approx(52)  # Table 5
    assert whole["paper_over_base"] == pytest.approx(1.0)


@pytest.mark.slow
def test_a_wrong_map_is_shown_and_not_timed_end_to_end(monkeypatch, photograph, capsys):
    from cdam_fast.measuring import end_to_end

    monkeypatch.setattr(end_to_end, "cdam_attend", lambda similarity, values, **options: values * 2)
    arguments = ["bench", "--end-to-end", "--grid", "6", "--classes", "20", "--compile", "none", "--runs", "1"]
    assert cli.main([*arguments, "--image", photograph]) == 1
    assert "not timed" in capsys.readouterr().out


def test_end_to_end_draws_nothing(tmp_path, capsys):
    assert cli.main(["bench", "--end-to-end", "--plot", str(tmp_path / "a.png")]) == 2
    assert "--plot" in capsys.readouterr().err
