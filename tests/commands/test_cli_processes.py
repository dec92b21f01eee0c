"""``cdam-fast evaluate`` and ``segment`` on several processes: each image once, the same sum, the end of one."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from spawned import LONGEST, SLOWLY, environment, finish, start

from cdam_fast import cli
from cdam_fast.evaluation.scenes import write_scenes

RUN = ["-m", "cdam_fast", "evaluate"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 40, 9, side=96)
    return folder


@pytest.fixture
def given(root, tiny):
    classes = ["--classes", str(root / "classes.txt"), "--background", "0.5"]
    return ["custom", "--root", str(root), *classes, *tiny, "--workers", "0"]


@pytest.fixture
def alone(given, tmp_path, capsys):
    """The result of one process."""

    def run(*arguments):
        path = tmp_path / "alone.json"
        assert cli.main(["evaluate", *given, *map(str, arguments), "--json", str(path)]) in (0, 1)
        capsys.readouterr()
        return json.loads(path.read_text())

    return run


def names_done(out):
    rows = [row for path in out.glob("images-*.jsonl") for row in path.read_text().split("\n")[:-1]]  # whole lines
    return [json.loads(row)["image"] for row in rows]


@pytest.mark.parametrize(
    ("count", "limit"),
    [(3, 7), pytest.param(3, 1, marks=pytest.mark.slow)],
    ids=["7 by 3", "1 by 3"],
)
def test_processes_equal_one(given, alone, tmp_path, count, limit):
    out = tmp_path / "out"
    expected = alone("--limit", limit)  # leaves the words' features in the cache
    ends = finish(start(count, *RUN, *given, "--limit", limit, "--out", out, "--json", tmp_path / "all.json"))
    assert [status for status, _, _ in ends] == [0] * count, ends
    assert [bool(printed) for _, printed, _ in ends] == [True] + [False] * (count - 1)
    assert sorted(names_done(out)) == [f"{i:05}" for i in range(limit)]
    result = json.loads((tmp_path / "all.json").read_text())
    assert result["confusion"] == expected["confusion"]
    assert (result["images"], result["miou"], result["failed"]) == (limit, expected["miou"], [])
    assert json.loads((out / "result.json").read_text()) == result


@pytest.mark.slow
def test_one_that_is_killed_ends_the_run_which_goes_on(given, alone, tmp_path):
    out = tmp_path / "out"
    running = start(2, "-c", SLOWLY, *given, "--out", out)
    begin = time.monotonic()
    while len(list(out.glob("images-1.jsonl"))) == 0 or len(names_done(out)) < 3:
        assert all(process.poll() is None for process in running)
        assert time.monotonic() - begin < LONGEST
        time.sleep(0.05)
    os.kill(running[1].pid, signal.SIGKILL)
    (first, printed, errors), (killed, _, _) = finish(running)
    assert (first, killed, printed) == (1, -signal.SIGKILL, "")
    said = errors.splitlines()[-2:]
    assert said[0] == f"cdam-fast evaluate: what is done is kept in {out}; the same command goes on there"
    assert said[1] == "cdam-fast evaluate: error: process 0 of 2: process 1 has ended"
    done = len(set(names_done(out)))
    assert 3 <= done < 40
    ends = finish(start(3, *RUN, *given, "--out", out))
    assert [status for status, _, _ in ends] == [0, 0, 0], ends
    assert sorted(names_done(out)) == [f"{i:05}" for i in range(40)]
    assert json.loads((out / "result.json").read_text())["confusion"] == alone()["confusion"]


@pytest.mark.slow
def test_failed_images_end_all_with_1_after_the_result(tmp_path, given):
    write_scenes(tmp_path / "broken", 5, 10, side=96)
    (tmp_path / "broken/masks/00003.png").write_bytes(b"nothing")
    arguments = [*given, "--root", tmp_path / "broken", "--json", tmp_path / "result.json"]
    ends = finish(start(2, *RUN, *arguments))
    assert [status for status, _, _ in ends] == [1, 1], ends
    assert "4 images, 1 failed" in ends[0][1]
    assert ends[0][2].splitlines()[-1].startswith("failed: 00003: mask 00003.png: cannot be read")
    assert json.loads((tmp_path / "result.json").read_text())["images"] == 4
    ends = finish(start(2, *RUN, *arguments, "--strict"))
    assert [status for status, _, _ in ends] == [1, 1], ends
    assert "error: 00003: mask 00003.png" in ends[1][2]


@pytest.mark.slow
def test_processes_that_see_other_images_say_so(given, root, tmp_path):
    write_scenes(tmp_path / "other", 5, 10, side=96)
    script = (
        "import os, sys; from cdam_fast.cli import main; "
        "other = ['--root', sys.argv[1]] if os.environ['RANK'] == '1' else []; "
        "sys.exit(main(['evaluate', *sys.argv[2:], *other]))"
    )
    ends = finish(start(2, "-c", script, tmp_path / "other", *given))
    assert sorted({status for status, _, _ in ends}) in ([1, 2], [2]), ends
    assert any(re.search("error: process [01] has images ", errors) for _, _, errors in ends), ends  # who is quicker


def torchrun(count, *arguments):
    module = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return subprocess.run(
        [*module, "-m", "cdam_fast", *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )


@pytest.mark.slow
def test_torchrun(given, alone, tmp_path):
    done = torchrun(2, "evaluate", *given, "--limit", 5, "--json", tmp_path / "all.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mean") == 1
    assert json.loads((tmp_path / "all.json").read_text())["confusion"] == alone("--limit", 5)["confusion"]


@pytest.mark.slow
def test_torchrun_of_segment(root, tiny, tmp_path):
    photos = [root / "images" / f"{i:05}.png" for i in range(5)]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    options = ["--classes", "background,circle,star", "--background", "0.5", *tiny, "--out", tmp_path / "out"]
    done = torchrun(2, "segment", *photos, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"5 written to {tmp_path / 'out'}, 0 done before, 0 failed\n"
    assert len(list((tmp_path / "out").glob("*_labels.png"))) == 5
    done = torchrun(2, "segment", *photos, bad, *options)
    assert done.returncode == 1
    assert done.stdout == f"0 written to {tmp_path / 'out'}, 5 done before, 1 failed\n"
    assert re.search(r"^failed: .*bad\.png: not an image that Pillow can read$", done.stderr, re.MULTILINE)
