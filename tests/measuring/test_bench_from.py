"""`cdam-fast bench --from`: the documentation's tables from result files, and files that are refused."""

import copy
import json
from pathlib import Path

import pytest

from cdam_fast import cli

ROOT = Path(__file__).parents[2]
RESULTS = sorted(map(str, (ROOT / "benchmarks" / "results").glob("cpu-*.json")))


@pytest.fixture
def printed(tmp_path, capsys):
    """What the command prints for such contents, or such text, as a list of lines; or its one line of error."""

    def printed(*contents):
        files = []
        for number, content in enumerate(contents):
            path = tmp_path / f"{number}.json"
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
            files.append(str(path))
        status = cli.main(["bench", "--from", *files])
        captured = capsys.readouterr()
        if status == 0:
            assert captured.err == ""
            return captured.out.splitlines()
        (line,) = captured.err.splitlines()
        assert (status, captured.out) == (2, "")
        return line

    return printed


def rows_of(lines):
    """The cells of each row below the headings."""
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line[:2] == "| "][1:]


def backend(name, ms, error=2e-6, status="ok", memory=12_000_000):
    found = {"status": status, "p50_ms": ms, "error": error, "memory_bytes": memory}
    return {"class_list": "VOC21", "classes": 101, "backend": name, **found}


BENCH = {
    "torch": "2.0.0+cpu",
    "device": "cpu",
    "device_name": "a | CPU",
    "threads": 2,
    "grid": [28, 28],
    "batch": 1,
    "rows": [backend("eager", 400.0, error=5e-5), backend("portable", 20.0)],
}


def timed(us, error=2e-6, queued=True):
    return {
        "status": "ok",
        "error": error,
        "memory_bytes": 3_000_000,
        "device_us": {"median": us},
        "queued_before_the_first": queued,
    }


def done(result):
    return {"status": "done", "result": result}


BACKENDS = {
    "eager": timed(8000.0, error=9e-5),
    "torch.compile": timed(1600.0),
    "portable": timed(800.0, queued=False),
    "triton": timed(400.0),
    "triton, graphed": {"status": "failed: RuntimeError: no graph"},
}
SCRIPT = {
    "dry_run": False,
    "planned": ["environment", "errors", "latency VOC21 28x28 batch 8", "latency VOC21 28x28 batch 64", "stages"],
    "steps": {
        "environment": done({"name": "a GPU", "torch": "2.0.0", "triton": "3.0"}),
        "errors": done({"rows": [{"case": "first", "triton": 1e-6}, {"case": "second", "triton": 2.5e-6}]}),
        "latency VOC21 28x28 batch 8": done({"classes": 101, "grid": [28, 28], "batch": 8, "backends": BACKENDS}),
        "latency Context60 28x28 batch 1": {"status": "failed: TooLongError: took over 480 s"},
    },
}


def changed(content, *place, value):
    """A copy with another value at a place, or without it."""
    result = copy.deepcopy(content)
    entry = result
    for key in place[:-1]:
        entry = entry[key]
    if value is None:
        del entry[place[-1]]
    else:
        entry[place[-1]] = value
    return result


def test_the_documentation_holds_what_is_printed_for_the_committed_files(capsys):
    assert len(RESULTS) == 4
    assert cli.main(["bench", "--from", *reversed(RESULTS)]) == 0
    page = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    tables = capsys.readouterr().out.strip().split("\n\n")
    assert len(tables) == 2
    for table in tables:
        assert f"\n\n{table}\n\n" in page


def test_a_cpu_and_what_is_absent(printed):
    (row,) = rows_of(printed(BENCH))
    assert row == [
        "a \\| CPU, 2 threads, PyTorch 2.0.0",
        "VOC21, C = 101, 28x28",
        "1",
        "400",
        "not measured",
        "**20.0**",
        "20x",
        "not measured",
        "12 / not measured / 12",
        "5.0e-5 / not measured / 2.0e-6",
    ]


def test_a_gpu(printed):
    lines = printed(SCRIPT)
    (row,) = rows_of(lines)
    assert row[:3] == ["a GPU, PyTorch 2.0.0, Triton 3.0", "VOC21, C = 101, 28x28", "8"]
    assert row[3:10] == ["1.0", "0.200", "**0.100**\\*", "**0.050**", "failed", "20x", "4.0x"]
    assert row[10] == "3 / 3 / 3 / 3 / not measured"
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|")
    text = "\n".join(lines)
    assert "\\* The GPU waited for the host in between." in text
    assert "largest error of the kernels over 2 inputs 2.5e-6 (second)." in text
    assert (
        "not measured: VOC21 28x28 batch 64; Context60 28x28 batch 1 (failed: TooLongError: took over 480 s)." in text
    )


def test_a_gpu_by_the_bench(printed):
    names = ("eager", "torch.compile", "torch.compile max-autotune", "portable", "triton", "triton, CUDA graph")
    rows = [backend(name, 60.0 / number) for number, name in enumerate(names, 1)]
    (row,) = rows_of(printed({**BENCH, "device": "cuda:0", "rows": rows}))
    assert row[3:9] == ["60.0", "30.0", "20.0", "**15.0**", "**12.0**", "**10.0**"]
    assert row[9:12] == ["5.0x", "2.5x", "1.7x"]


@pytest.mark.parametrize("error", [4e-5, float("nan"), float("inf")])
def test_no_time_of_what_is_wrong_whatever_the_file_calls_it(printed, error):
    (row,) = rows_of(printed(changed(BENCH, "rows", 1, "error", value=error)))
    assert row[5:8] == ["wrong", "not measured", "not measured"]
    assert "20.0" not in " ".join(row)
    place = ("steps", "latency VOC21 28x28 batch 8", "result", "backends", "triton", "error")
    (row,) = rows_of(printed(changed(SCRIPT, *place, value=error)))
    assert row[6] == "wrong"
    assert row[8:10] == ["not measured", "not measured"]


def test_a_status_of_wrong_is_believed(printed):
    rows = [BENCH["rows"][0], {**backend("portable", 20.0), "status": "wrong"}]
    (row,) = rows_of(printed({**BENCH, "rows": rows}))
    assert row[5] == "wrong"


def test_wrong_inputs_of_the_errors_and_none(printed):
    place = ("steps", "errors", "result", "rows", 1, "triton")
    assert "the kernels are wrong on 1 of 2 inputs: second." in "\n".join(printed(changed(SCRIPT, *place, value=0.1)))
    assert "errors of many inputs: not measured." in "\n".join(printed(changed(SCRIPT, "steps", "errors", value=None)))


def test_rows_are_in_the_same_order_for_any_order_of_the_files(printed):
    larger = changed(BENCH, "grid", value=[37, 37])
    assert printed(BENCH, larger, SCRIPT) == printed(SCRIPT, larger, BENCH)


def test_two_files_that_hold_the_same(printed):
    line = printed(BENCH, BENCH)
    assert "1.json: holds what " in line
    assert "VOC21, C = 101, 28x28, batch 1" in line


FIRST = "latency VOC21 28x28 batch 8"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (changed(SCRIPT, "dry_run", value=True), "is of a dry run, whose numbers are of stand-ins"),
        ("{", "is no JSON: "),
        ("\x00", "is no JSON: "),
        ("[" * 100_000, "is no JSON: "),
        ("[]", "is of no format that is known; takes what cdam-fast bench --json"),
        ({"environment": {}, "rows": []}, "is of no format that is known"),
        ({**BENCH, "rows": [{"call": "cdam_attention"}]}, "is of no format that is known"),
        (changed(BENCH, "torch", value=None), "is damaged: torch is missing"),
        (changed(BENCH, "grid", value=[28]), "is damaged: it has grid [28] and batch 1"),
        (changed(BENCH, "batch", value=True), "is damaged: batch is 'True', takes int"),
        (
            changed(BENCH, "rows", 1, "p50_ms", value=-1.0),
            "is damaged: rows[1].p50_ms is -1.0, takes a positive number",
        ),
        (changed(BENCH, "rows", 1, "p50_ms", value="fast"), "is damaged: rows[1].p50_ms is 'fast', takes int or float"),
        (changed(BENCH, "rows", 1, "error", value=None), "is damaged: rows[1].error is missing"),
        (changed(BENCH, "rows", 1, "backend", value="eager"), "is damaged: rows[1].backend is 'eager'"),
        (changed(SCRIPT, "steps", "environment", value=None), "has no result of the step environment"),
        (changed(SCRIPT, "steps", "errors", value=3), "is damaged: errors.status is missing"),
        (changed(SCRIPT, "planned", value=3), "is damaged: planned is '3', takes list"),
        (changed(SCRIPT, "steps", FIRST, "result", "batch", value=4), f"{FIRST} is of 28x28 patches and batch 4"),
        (changed(SCRIPT, "steps", FIRST, "result", "backends", "triton", value=4), "triton.status is missing"),
        (changed(SCRIPT, "steps", FIRST, "result", "backends", "magic", value={}), "backends has 'magic'"),
    ],
)
def test_files_that_are_refused(printed, content, named):
    line = printed(content)
    assert line.startswith("cdam-fast bench: error: --from: ")
    assert "0.json: " in line
    assert named in line


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--runs", "30"], "--runs: takes no --from as well"),
        (["--device", "auto"], "--device: takes no --from as well"),
        (["--classes", "VOC21"], "--classes: takes no --from"),
        (["--grid", "28"], "--grid: takes no --from"),
        (["--batch", "1"], "--batch: takes no --from"),
        (["--compile", "all"], "--compile: takes no --from"),
        (["--image", "a.png"], "--image: takes no --from"),
        (["--end-to-end"], "--end-to-end: takes no --from"),
        (["--host"], "--host: takes no --from"),
        (["--json", "a.json"], "--json: takes no --from"),
        (["--plot", "a.png"], "--plot: takes no --from"),
    ],
)
def test_options_of_a_measurement_are_refused(arguments, named, capsys):
    assert cli.main(["bench", *arguments, "--from", *RESULTS]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"cdam-fast bench: error: {named}")


@pytest.mark.parametrize("kind", ["missing.json", "folder"])
def test_a_file_that_is_none(kind, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    assert cli.main(["bench", "--from", str(tmp_path / kind)]) == 2
    assert f"{kind}: cannot be read: " in capsys.readouterr().err
