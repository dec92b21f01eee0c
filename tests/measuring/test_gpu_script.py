"""`benchmarks/gpu.py` without a GPU: every line of its steps, and what becomes of those that fail or are cut short."""

import json
import time

import pytest
import torch
from cases import needs_kernels

from cdam_fast import cli

pytest.importorskip("triton", minversion="3.2")

pytestmark = [
    needs_kernels,
    pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU: no kernel is interpreted in this process"),
]

if not torch.cuda.is_available():  # else what a dry run replaces must stay unimported, too
    import gpu
    import gpu_maps
    import gpu_steps


@pytest.fixture
def path(tmp_path):
    return tmp_path / "gpu.json"


@pytest.fixture
def dry(path):
    """A dry run: its exit status, and the steps in its file."""

    def dry(*arguments):
        status = gpu.main(["--dry-run", "--json", str(path), *arguments])
        return status, json.loads(path.read_text())["steps"]

    return dry


@pytest.fixture
def steps(monkeypatch):
    """Other steps in place of the script's; and those that were begun."""
    begun = []

    def replace(**works):
        begun.clear()

        def begin(run, name):
            begun.append(name)
            return works[name](run)

        named = {name: lambda run, name=name: begin(run, name) for name in works}
        monkeypatch.setattr(gpu_steps, "steps_of", lambda compile_too: iter(named.items()))
        return begun

    return replace


@pytest.mark.slow
def test_every_step_runs_and_none_runs_again(dry, path, capsys):
    status, found = dry()
    assert status == 0
    assert list(found) == [name for name, _ in gpu_steps.steps_of("all")]
    assert {step["status"] for step in found.values()} == {"done"}
    assert all(isinstance(step["result"], dict) for step in found.values())
    for name, step in found.items():
        if name.startswith("latency"):
            rows = step["result"]["backends"]
            assert list(rows) == ["eager", "torch.compile", "portable", "triton", "triton, graphed"]
            assert {row["status"] for row in rows.values()} == {"ok"}
            assert all(row["device_us"]["samples"] >= 1 for row in rows.values())
    results = {name: step["result"] for name, step in found.items()}
    assert results["errors"]["over"] == []
    assert results["tests"]["skipped"] == results["tests"]["tests"] > 0
    assert {trial["status"] for trial in results["tune"]["trials"]} == {"ok"}
    assert len(results["floors"]["floors_us"]) > 10
    before = path.read_bytes()
    capsys.readouterr()
    assert dry()[0] == 0
    assert path.read_bytes() == before
    assert capsys.readouterr().out == ""
    content = json.loads(before)
    del content["steps"]["host"]
    path.write_text(json.dumps(content))
    assert set(dry()[1]) == set(found)
    assert capsys.readouterr().out.startswith("[1/1] host: done")
    check_the_table(path, before, capsys)


def check_the_table(path, content, capsys):
    """`cdam-fast bench --from` refuses the file, and knows its format."""
    assert cli.main(["bench", "--from", str(path)]) == 2
    assert "is of a dry run" in capsys.readouterr().err
    content = json.loads(content) | {"dry_run": False}
    for name, step in content["steps"].items():
        if name.startswith("latency"):
            grid, batch = name.split()[2], name.split()[4]
            step["result"] |= {"grid": [int(side) for side in grid.split("x")], "batch": int(batch)}
    path.write_text(json.dumps(content))
    assert cli.main(["bench", "--from", str(path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n| no GPU: stand-in") == 36
    assert "not measured" not in printed


def test_the_most_telling_steps_come_first_and_the_longest_last():
    names = [name for name, _ in gpu_steps.steps_of("all")]
    assert names[:10] == [
        "environment",
        "errors",
        "latency COCO-Object 28x28 batch 1",
        "stages",
        "host",
        "latency COCO-Object 28x28 batch 8",
        "ceilings",
        "tests",
        "counters",
        "floors",
    ]
    last = [name.endswith("batch 64") for name in names]
    assert last == sorted(last)
    latencies = [name for name in names if name.startswith("latency")]
    assert len(latencies) == len(set(latencies)) == 36
    assert gpu_maps.LONGEST_STEP <= 480


def test_the_dry_run_counts_the_loops_as_they_are_written(dry, path, monkeypatch):
    """A loop over a constant of the kernels' module, which was not known where loops are counted, is found out."""
    from cdam_fast.ahead import floors

    assert dry("--steps", "floors")[0] == 0

    def without_constants(loop, names):
        return eval(loop.range.removeprefix("tl."), {"__builtins__": {}, "range": range}, dict(names))

    monkeypatch.setattr(floors, "loop_range", without_constants)
    path.unlink()
    status, found = dry("--steps", "floors")
    assert status == 1
    assert found["floors"]["status"].startswith("failed: NameError: name 'CLASSES_OF_A_SUM' is not defined (")


def test_a_step_that_fails_is_said_and_tried_again_and_stops_no_other(dry, steps, capsys):
    def fails(run):
        raise NameError("name 'STEP' is not defined")

    begun = steps(first=lambda run: 1, broken=fails, last=lambda run: {"a": 2})
    status, found = dry()
    assert status == 1
    assert found["broken"]["status"].startswith(
        "failed: NameError: name 'STEP' is not defined (test_gpu_script.py line"
    )
    assert found["last"]["result"] == {"a": 2}
    assert "[2/3] broken: failed: NameError" in capsys.readouterr().out
    assert dry()[0] == 1
    assert begun == ["first", "broken", "last", "broken"]


def test_an_interrupt_keeps_the_steps_that_are_done(dry, steps, capsys):
    def interrupt(run):
        raise KeyboardInterrupt

    steps(first=lambda run: 1, second=interrupt, third=lambda run: 3)
    status, found = dry()
    assert status == 130
    assert {name: step["result"] for name, step in found.items()} == {"first": 1}
    assert "interrupted in second" in capsys.readouterr().out
    begun = steps(first=lambda run: 1, second=lambda run: 2, third=lambda run: 3)
    assert dry()[0] == 0
    assert begun == ["second", "third"]


def test_a_backend_that_fails_or_is_wrong_is_a_row_without_a_time(dry, monkeypatch):
    """And an input that fails is an error of infinity among the others."""

    class CompilerError(Exception):
        pass

    def attention(similarity, backend, **options):
        if backend == "triton":
            raise CompilerError("no registers left")
        return torch.zeros(similarity.shape[0], 16, 16) if similarity.dim() == 4 else torch.zeros(16, 16)

    monkeypatch.setattr(gpu_maps, "cdam_attention", attention)
    monkeypatch.setattr(gpu_maps, "graphed", lambda similarity, **options: lambda images: torch.zeros(1, 16, 16))
    status, found = dry("--compile", "none", "--steps", "errors,latency COCO-Object 28x28 batch 1")
    assert status == 0
    rows = found["latency COCO-Object 28x28 batch 1"]["result"]["backends"]
    assert rows["triton"]["status"] == "failed: CompilerError: no registers left"
    for name in ("portable", "triton, graphed"):
        assert rows[name]["status"].startswith("wrong: over 3e-05")
    assert [name for name, row in rows.items() if "device_us" in row] == ["eager"]
    errors = found["errors"]["result"]
    assert len(errors["over"]) == len(errors["rows"]) > 1
    assert {row["triton failed"] for row in errors["rows"]} == {"CompilerError: no registers left"}


def test_a_step_ends_when_its_time_is_over(dry, steps, monkeypatch):
    """Though it takes the errors of a backend for that backend's."""

    def slow(run):
        try:
            time.sleep(30)
        except Exception:
            time.sleep(30)

    monkeypatch.setattr(gpu_maps, "LONGEST_STEP", 1)
    steps(slow=slow, last=lambda run: 1)
    status, found = dry()
    assert status == 1
    assert found["slow"]["status"].startswith("failed: TooLongError: took over 1 s")
    assert found["last"]["status"] == "done"


def test_no_step_begins_when_the_minutes_are_over(dry, steps, capsys):
    begun = steps(first=lambda run: time.sleep(0.02), second=lambda run: 2)
    assert dry("--minutes", "0.0001")[0] == 0
    assert begun == ["first"]
    assert "minutes are over: 1 steps left" in capsys.readouterr().out


MACHINE = {"name": "another", "torch": torch.__version__, "cuda": torch.version.cuda, "triton": "3.0"}


@pytest.mark.parametrize(
    ("content", "arguments", "named"),
    [
        ("{", (), "which is no file of this script: JSONDecodeError"),
        ("[1]", (), "which is no file of this script"),
        ('{"steps": {}}', (), "which is no file of this script: KeyError: 'dry_run'"),
        ('{"dry_run": true, "steps": {"host": 3}}', (), "which is no file of this script"),
        ('{"dry_run": false, "steps": {}}', (), "which is of a run without --dry-run"),
        (
            json.dumps({"dry_run": True, "steps": {"environment": {"status": "done", "result": MACHINE}}}),
            (),
            "which is of name another, here is no GPU",
        ),
        (None, ("--steps", "latence"), "--steps: got 'latence', takes beginnings of environment, errors, latency"),
        (None, ("--minutes", "0"), "--minutes: got 0, takes a positive number"),
        (None, ("--json", "nowhere/a.json"), "--json: got nowhere/a.json, whose folder is not there"),
    ],
)
def test_bad_arguments_are_refused_by_name(content, arguments, named, path, capsys):
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--dry-run", "--json", str(path), *arguments])
    assert stopped.value.code == 2
    assert named in capsys.readouterr().err
    assert (path.read_text() if content is not None else None) == content


def test_without_a_gpu_it_takes_a_dry_run(path, capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--json", str(path)])
    assert "no GPU; --dry-run goes through the steps without one" in capsys.readouterr().err


def test_what_ncu_prints_is_counted_by_kernel():
    printed = """==PROF== Connected
"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","attention_kernel","gpu__time_duration.sum","us","5.2"
"0","attention_kernel","launch__registers_per_thread","register/thread","128"
"1","divergence_kernel","gpu__time_duration.sum","us","12.9"
"""
    assert gpu_steps.counted(printed) == {
        "attention_kernel": {
            "gpu__time_duration.sum": "5.2 us",
            "launch__registers_per_thread": "128 register/thread",
        },
        "divergence_kernel": {"gpu__time_duration.sum": "12.9 us"},
    }
    assert gpu_steps.counted("==ERROR== no permission") == {}
