"""What an evaluation keeps, and how one that was ended goes on."""

import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from small_evaluations import NAMES, make_segmenter, open_small, restated, write
from spawned import environment

from cdam_fast.evaluation import Sample, evaluate
from cdam_fast.evaluation.kept import Kept, Row


@pytest.fixture(scope="module")
def made():
    return make_segmenter()


@pytest.fixture
def dataset(tmp_path):
    return write(tmp_path / "data")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "結果"


@pytest.fixture
def run(made, dataset, out):
    def run(segmenter=made, **options):
        heard = []
        result = evaluate(
            segmenter, dataset, **({"out": out, "workers": 0, "on_image": lambda name, _: heard.append(name)} | options)
        )
        return result, [int(name[-1]) for name in heard]

    return run


def lines(out, name="images-0.jsonl"):
    return [json.loads(line) for line in (out / name).read_bytes().splitlines()]


def test_each_image_is_kept(run, out, dataset, made):
    result, heard = run()
    assert heard == list(range(7))
    assert sorted(path.name for path in out.iterdir()) == ["images-0.jsonl", "result.json", "settings.json"]
    for row, sample in zip(lines(out), dataset.samples):
        assert row["image"] == sample.name
        stat = sample.mask.stat()
        assert row["mask"] == [stat.st_size, stat.st_mtime_ns]
        assert row["photo"] == [sample.photo.stat().st_size, sample.photo.stat().st_mtime_ns]
        assert row["seconds"] > 0
        matrix = np.zeros((4, 4), dtype=int)
        for truth, label, count in row["counts"]:
            assert count > 0
            matrix[truth, label] = count
        assert np.array_equal(matrix, restated(made, [sample], 4))
    assert json.loads((out / "result.json").read_text()) == json.loads(json.dumps(result.as_json()))


def test_a_limit_goes_on_with_the_others(run, out):
    assert run(limit=3)[1] == [0, 1, 2]
    result, heard = run()
    assert heard == [3, 4, 5, 6]
    assert (result.done_before, result.images) == (3, 7)
    whole = run(out=None)[0]
    assert result.confusion.equal(whole.confusion)
    shorter, heard = run(limit=2)
    assert (heard, shorter.images) == ([], 2)
    assert shorter.confusion.equal(run(out=None, limit=2)[0].confusion)
    assert run(limit=50)[1] == []


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("ending", [KeyboardInterrupt, RuntimeError])
def test_one_that_was_ended_goes_on(run, out, ending, workers):
    def end(name, so_far):
        if so_far.images == 3:
            raise ending

    with pytest.raises(ending):
        run(on_image=end, workers=workers)
    assert len(lines(out)) == 3
    assert not (out / "result.json").exists()
    result, heard = run()
    assert heard == [3, 4, 5, 6]
    assert result.confusion.equal(run(out=None)[0].confusion)


@pytest.mark.parametrize("cut", [1, 2, 40, None], ids=["line end", "a byte more", "half", "all of it"])
@pytest.mark.parametrize("name", ["images-0.jsonl", "images-5.jsonl"], ids=["own", "another process's"])
def test_what_is_left_of_a_line_is_dropped(run, out, cut, name):
    run(limit=3)
    path = out / "images-0.jsonl"
    content = path.read_bytes()
    last = len(content) - content[:-1].rfind(b"\n") - 1
    path.write_bytes(content[: -min(cut or last, last)])
    path.rename(out / name)
    result, heard = run()
    assert heard == [2, 3, 4, 5, 6]
    assert result.confusion.equal(run(out=None)[0].confusion)
    assert run()[1] == []
    whole = [line for line in (out / "images-0.jsonl").read_bytes().splitlines() if line.endswith(b"}")]
    assert {f"写真{number}" for number in heard} <= {json.loads(line)["image"] for line in whole}


HOLD = """
import sys, time
from pathlib import Path
from cdam_fast.evaluation.kept import Kept
kept = Kept(Path(sys.argv[1]), {"a": 1}, first=True)
print("holds", flush=True)
time.sleep(100)
"""


@pytest.mark.skipif(os.name == "nt", reason="no such locks")
def test_a_folder_in_which_another_run_works(out):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], env=environment(), stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"holds\n"
        with pytest.raises(ValueError, match=re.escape(f"out: another run works in {out}; takes a folder of its own")):
            Kept(out, {"a": 1}, first=True)
        Kept(out, {"a": 1}, first=False).close()  # the other processes of that run
    finally:
        other.kill()
        other.communicate()
    Kept(out, {"a": 1}, first=True).close()
    Kept(out, {"a": 1}, first=True).close()


def test_two_that_write_at_once_lose_nothing(out):
    samples = [Sample(f"{'x' * number}", out, out) for number in range(1, 30)]
    one, other = (Kept(out, {}, first=True) for _ in range(2))  # as where the system has no locks
    for number, sample in enumerate(samples):
        identity = [[sample.photo.stat().st_size, sample.photo.stat().st_mtime_ns]] * 2
        (one, other)[number % 2].add(Row(sample.name, identity, torch.full((2, 2), 7**number % 1000), 0.1), 0)
    one.close()
    other.close()
    names = [json.loads(line)["image"] for line in (out / "images-0.jsonl").read_bytes().splitlines()]
    assert names == [sample.name for sample in samples]


def test_a_disk_that_takes_a_line_in_parts(out):
    class Parts:
        content = b""

        def write(self, line):
            self.content += line[:5]
            return len(line[:5])

        def close(self):
            pass

    kept = Kept(out, {}, first=True)
    kept._file = Parts()
    kept.add(Row("a", None, torch.eye(2, dtype=torch.int64), 0.1), 0)
    row = json.loads(kept._file.content)
    assert (row["image"], row["counts"]) == ("a", [[0, 0, 1], [1, 1, 1]])
    kept.close()


def test_a_folder_without_a_name(run):
    with pytest.raises(ValueError, match="out: got an empty name, takes a folder"):
        run(out="")


@pytest.mark.parametrize("rubbish", [b"\0\0\0\0\n", b"[]\n", b'{"image": "x"}\n', b"\xff\n", b"\n"])
def test_lines_that_are_none_are_passed_over(run, out, rubbish):
    run(limit=2)
    path = out / "images-0.jsonl"
    path.write_bytes(rubbish + path.read_bytes() + rubbish)
    assert run()[1] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("change", [{"counts": None}, {"counts": [[9, 0, 5]]}, {"image": []}, {"seconds": "a"}])
def test_a_line_in_which_somebody_wrote_is_passed_over(run, out, change):
    run(limit=1)
    line = json.loads((out / "images-0.jsonl").read_bytes()) | change
    (out / "images-0.jsonl").write_text(json.dumps(line) + "\n")
    assert run(limit=1)[1] == [0]


@pytest.mark.parametrize("part", ["photo", "mask"])
def test_a_file_that_has_changed_is_taken_again(run, dataset, part):
    run()
    path = getattr(dataset.samples[2], part)
    with Image.open(path) as image:
        changed = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    changed.save(path)
    os.utime(path, ns=(time.time_ns(), time.time_ns() + 1_000_000_000))
    result, heard = run()
    assert heard == [2]
    assert result.images == 7
    assert result.confusion.equal(run(out=None)[0].confusion)


def test_images_that_failed_are_tried_again(run, dataset, out):
    mask = dataset.samples[5].mask
    content = mask.read_bytes()
    mask.write_bytes(b"nothing")
    result, _ = run()
    assert [name for name, _ in result.failed] == ["写真5"]
    assert len(json.loads((out / "result.json").read_text())["failed"]) == 1
    result, heard = run()
    assert (heard, len(result.failed)) == ([5], 1)
    mask.write_bytes(content)
    result, heard = run()
    assert (heard, result.failed, result.images) == ([5], [], 7)
    assert result.confusion.equal(run(out=None)[0].confusion)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "sclip"}, 'base "maskclip", not "sclip"'),
        ({"stride": 8}, "stride 16, not 8"),
        ({"order": "paper"}, 'order "official", not "paper"'),
        ({"cdam": False}, "cdam true, not false"),
        ({"batch_size": 2}, "batch_size 4, not 2"),
        ({"names": ["background", "cat", "dog", "sofa"]}, "words "),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_other_settings_are_refused_by_name(run, out, options, message):
    run(limit=1)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ValueError, match=re.escape(f"out: {out} has results with {message}")):
        run(make_segmenter(**options))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_other_weights_names_and_versions_are_refused(run, made, monkeypatch):
    run(limit=1, settings={"model": "a"})
    with pytest.raises(ValueError, match='model "a", not "b"'):
        run(settings={"model": "b"})
    monkeypatch.setattr("cdam_fast.evaluation.conditions.versions", lambda: {"torch": "9"})
    with pytest.raises(ValueError, match=r'versions\.torch "\d.*", not "9"'):
        run(settings={"model": "a"})
    monkeypatch.undo()
    other = make_segmenter()
    other.tower.visual.proj.data[0, 0] += 1
    with pytest.raises(ValueError, match="image_tower "):
        run(other, settings={"model": "a"})


def test_another_data_set_is_refused(run, made, tmp_path, out):
    run(limit=1)
    other = write(tmp_path / "other", names=["background", "cat", "dog", "bench"])
    with pytest.raises(ValueError, match=r"out: .* has results with classes "):
        evaluate(make_segmenter(["background", "cat", "dog", "bench"]), other, out=out)


def test_the_same_data_set_elsewhere_goes_on(run, made, tmp_path, out, dataset):
    run(limit=4)
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = open_small(tmp_path / "moved")
    assert evaluate(made, moved, out=out, workers=0).done_before == 4


@pytest.mark.parametrize(
    "content",
    [
        {"notes.txt": b"mine"},
        *({"settings.json": one} for one in (b"{}", b"\xff", b'{"format": "cdam_fast evaluation 1"}')),
    ],
)
def test_a_folder_with_something_else_is_refused(run, out, content):
    out.mkdir()
    for name, text in content.items():
        (out / name).write_bytes(text)
    with pytest.raises(ValueError, match=r"out: .* takes a folder of its own"):
        run()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == content


def test_hidden_files_are_nothing_else(run, out):
    out.mkdir()
    (out / ".cdam-fast-1234").write_bytes(b"left by one that was ended")
    assert run(limit=1)[0].images == 1


@pytest.mark.parametrize("name", ["file/inside", "file", "a\0b"], ids=["below a file", "a file", "no name"])
def test_a_folder_that_cannot_be_written(run, tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="out: cannot write "):
        run(out=tmp_path / name)


def test_the_names_of_classes_may_be_synonyms(made, dataset):
    assert [word if isinstance(word, str) else word[0] for word in NAMES] == list(dataset.classes)
