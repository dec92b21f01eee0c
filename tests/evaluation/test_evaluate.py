"""A segmenter over a data set: the matrix, failures, workers, what the result says."""

import json
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from small_evaluations import NAMES, make_segmenter, restated, write
from spawned import LONGEST, environment, finish, start

import cdam_fast
from cdam_fast.evaluation import ImageFailedError, evaluate, reading
from cdam_fast.evaluation.conditions import commit


@pytest.fixture(scope="module")
def made():
    return make_segmenter()


@pytest.fixture
def dataset(tmp_path):
    return write(tmp_path / "写真")


@pytest.mark.parametrize("workers", [None, 0, 1, 3])
def test_the_matrix_is_the_sum_over_images(made, dataset, workers):
    result = evaluate(made, dataset, workers=workers)
    expected = restated(made, dataset.samples, 4)
    assert result.confusion.dtype == torch.int64
    assert np.array_equal(result.confusion.numpy(), expected)
    assert (result.images, result.failed, result.done_before) == (7, [], 0)
    both, rows, columns = np.diag(expected), expected.sum(1), expected.sum(0)
    iou = both / (rows + columns - both)
    assert list(result.iou) == ["background", "cat", "dog", "sofa"]
    assert list(result.iou.values()) == pytest.approx(iou.tolist())
    assert result.miou == pytest.approx(iou.mean())


def test_random_numbers_of_the_caller_are_left_alone(made, dataset):
    before = torch.get_rng_state()
    evaluate(made, dataset, limit=2, workers=1)
    assert torch.equal(torch.get_rng_state(), before)


SETTINGS = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "grad": torch.enable_grad,
    "meta": lambda: torch.device("meta"),
    "inference_mode": torch.inference_mode,
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("setting", SETTINGS)
def test_what_the_caller_has_set_changes_nothing(made, dataset, setting, workers, tmp_path):
    if setting == "meta" and not hasattr(torch, "set_default_device"):
        pytest.skip("no default device before PyTorch 2")
    expected = evaluate(made, dataset, workers=0, limit=4).confusion
    with SETTINGS[setting]():
        first = evaluate(made, dataset, workers=workers, limit=2, out=tmp_path / "out")
        result = evaluate(made, dataset, workers=workers, limit=4, out=tmp_path / "out")
    assert (first.images, result.done_before, result.failed) == (2, 2, [])
    assert torch.equal(result.confusion, expected)


SCRIPT = """
import multiprocessing, sys
from pathlib import Path
from small_evaluations import make_segmenter, open_small
from cdam_fast.evaluation import evaluate

print("begins", flush=True)
multiprocessing.set_start_method(sys.argv[1], force=True)
result = evaluate(make_segmenter(), open_small(Path(sys.argv[2])), workers=2, limit=3)
print(result.images, result.failed, sys.modules["__main__"].__file__ == __file__)
"""


@pytest.mark.parametrize("method", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_a_script_without_a_guard(dataset, tmp_path, method):
    """On macOS and Windows, and with Python 3.14, a process is not forked and would run the script again."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("not on this system")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), method, str(dataset.samples[0].photo.parents[1])]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LONGEST, check=False)
    assert (done.returncode, done.stdout) == (0, "begins\n3 [] True\n"), done.stderr


@pytest.mark.parametrize(("limit", "images"), [(1, 1), (3, 3), (7, 7), (100, 7), (None, 7)])
def test_limit(made, dataset, limit, images):
    result = evaluate(made, dataset, limit=limit, workers=0)
    assert result.images == images
    assert np.array_equal(result.confusion.numpy(), restated(made, dataset.samples[:images], 4))


@pytest.mark.parametrize(
    ("limit", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("3", TypeError), (True, TypeError)]
)
def test_a_limit_that_is_none(made, dataset, limit, error):
    with pytest.raises(error, match=f"limit: got {limit!r}, takes None or a whole number from 1"):
        evaluate(made, dataset, limit=limit)


@pytest.mark.parametrize(
    ("workers", "error", "message"),
    [
        (-1, ValueError, "workers: got -1, takes None or a whole number from 0"),
        ("2", TypeError, "workers: got '2'"),
        (True, TypeError, "workers: got True"),
    ],
)
def test_workers_that_are_none(made, dataset, workers, error, message):
    with pytest.raises(error, match=message):
        evaluate(made, dataset, workers=workers)


def test_another_number_of_classes(dataset):
    with pytest.raises(ValueError, match="segmenter: has 3 classes, takes the 4 of custom"):
        evaluate(make_segmenter(NAMES[:3]), dataset)


def test_one_class(tmp_path):
    dataset = write(tmp_path / "one", count=2, names=["thing"])
    result = evaluate(make_segmenter(["thing"]), dataset, workers=0)
    counted = sum(int((np.asarray(Image.open(sample.mask)) != 255).sum()) for sample in dataset.samples)
    assert result.confusion.tolist() == [[counted]]
    assert (result.iou, result.miou) == ({"thing": 1.0}, 1.0)


@pytest.fixture
def broken(dataset):
    """Of seven images three that fail: a mask of another size, a photograph that is none, a mask that is missing."""
    Image.new("L", (5, 4)).save(dataset.samples[1].mask)
    dataset.samples[4].photo.write_bytes(b"nothing")
    dataset.samples[6].mask.unlink()
    return dataset


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_fail_are_named_and_the_others_count(made, broken, workers):
    heard = []
    result = evaluate(made, broken, workers=workers, on_image=lambda name, so_far: heard.append(name))
    assert [name for name, _ in result.failed] == ["写真1", "写真4", "写真6"]
    sizes, photograph, missing = (reason for _, reason in result.failed)
    assert sizes == "mask 写真1.png: 4x5 pixels, and its photograph has 64x64"
    assert photograph == "photograph 写真4.png: not an image that Pillow can read"
    assert missing == "mask 写真6.png: cannot be read: No such file or directory"
    assert result.images == 4
    assert sorted(heard) == [sample.name for sample in broken.samples]
    good = [sample for i, sample in enumerate(broken.samples) if i not in (1, 4, 6)]
    assert np.array_equal(result.confusion.numpy(), restated(made, good, 4))


def test_strict_ends_at_the_first(made, broken):
    with pytest.raises(ImageFailedError, match=r"写真1: mask 写真1\.png: 4x5 pixels"):
        evaluate(made, broken, strict=True, workers=0)


def test_an_image_that_fails_in_the_model(made, dataset, monkeypatch):
    def model(crops):
        if any(crop.shape[-1] == 32 and float(crop.sum()) == wrong for crop in crops):
            raise RuntimeError("the model fails")
        return own(crops)

    pixels = made.preparation(dataset.read(dataset.samples[0])[0])
    wrong = float(made.normalise(pixels.pixels)[:, :32, :32].sum())
    own = made._guarded
    monkeypatch.setattr(made, "_guarded", model)
    result = evaluate(made, dataset, workers=0)
    assert result.failed == [("写真0", "the model fails")]
    assert np.array_equal(result.confusion.numpy(), restated(made, dataset.samples[1:], 4))


@pytest.mark.parametrize("workers", [0, 1])
def test_all_images_fail(made, dataset, workers):
    for sample in dataset.samples:
        sample.photo.write_bytes(b"nothing")
    result = evaluate(made, dataset, workers=workers)
    assert (result.images, len(result.failed), result.miou, result.seconds) == (0, 7, None, 0)
    assert json.loads(json.dumps(result.as_json()))["iou"] == dict.fromkeys(["background", "cat", "dog", "sofa"])


DEADLY = """
import os, signal, sys
from pathlib import Path
from small_evaluations import make_segmenter, open_small
from cdam_fast.evaluation import Dataset, evaluate

class Deadly(Dataset):
    def read(self, sample):
        if sample.name == "写真2":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(sample)

opened = open_small(Path(sys.argv[1]))
deadly = Deadly(**{name: getattr(opened, name) for name in ("name", "classes", "samples", "meaning")})
try:
    evaluate(make_segmenter(), deadly, workers=1, out=sys.argv[2])
except RuntimeError as error:
    print(error)
"""


@pytest.mark.slow  # 5 s, in which PyTorch looks after its processes
def test_a_process_that_reads_and_dies(made, dataset, tmp_path):
    ((_, said, errors),) = finish(start(1, "-c", DEADLY, dataset.samples[0].photo.parents[1], tmp_path / "out"))
    assert said.startswith("workers: a process that reads images has ended: DataLoader worker"), errors
    result = evaluate(made, dataset, out=tmp_path / "out", workers=0)
    assert (result.images, result.failed) == (7, [])
    assert np.array_equal(result.confusion.numpy(), restated(made, dataset.samples, 4))


@pytest.mark.parametrize("refine", [False, True])
def test_what_goes_from_process_to_process_is_no_tensor(made, dataset, refine):
    """A tensor would take an open file and memory of /dev/shm, which some systems are short of."""
    read = reading._Reader(dataset, dataset.samples, made.preparation._replace(refine=refine))[0]
    assert [type(part) for part in (read.image.pixels, read.truth)] == [np.ndarray] * 2
    assert isinstance(read.image.image, np.ndarray if refine else type(None))


@pytest.mark.parametrize("long_side", [None, 64], ids=["windows of one size", "two below it"])
@pytest.mark.parametrize("batch_size", [1, 4, 8])  # of 2 and 3 the products of torch 1.13 round by the place
def test_logits_do_not_depend_on_what_shares_the_batch(dataset, batch_size, long_side):
    made = make_segmenter(batch_size=batch_size, long_side=long_side, scales=(1.0,))
    images = [dataset.read(sample)[0] for sample in dataset.samples]

    def logits(chosen):
        return [outcome.word_logits for outcome in made.outcomes(chosen, fill=True)]

    together = logits(images)
    for parts in ([images[:3], images[3:]], [images[::2], images[1::2]], [[image] for image in images]):
        apart = [one for part in parts for one in logits(part)]
        if len(parts) == 2 and len(parts[0]) == 4:  # every other one
            apart = [one for pair in zip(apart[:4], [*apart[4:], None]) for one in pair][:7]
        assert all(torch.equal(one, other) for one, other in zip(together, apart))


def test_what_the_result_says(made, dataset):
    protocol = {"name": "own"}
    result = evaluate(made, dataset, settings={"model": "small"}, protocol=protocol, published=0.5, workers=0)
    said = json.loads(json.dumps(result.as_json()))
    assert list(said) == [
        *("dataset", "protocol", "miou", "published_miou", "iou", "images", "failed", "seconds", "classes", "words"),
        *("confusion", "settings", "versions", "commit", "note"),
    ]
    assert (said["dataset"], said["protocol"], said["published_miou"]) == ("custom", protocol, 0.5)
    assert said["classes"] == ["background", "cat", "dog", "sofa"]
    assert said["words"] == [["background"], ["cat", "kitten"], ["dog"], ["sofa"]]
    settings = said["settings"]
    expected = {"model": "small", "base": "maskclip", "cdam": True, "order": "official", "scales": [0.5, 1.0]}
    expected |= {"window": 32, "stride": 16, "short_side": 32, "resize": "pillow", "amp": False, "dtype": "float32"}
    assert {name: settings[name] for name in expected} == expected
    assert len(settings["image_tower"]) == 32
    assert {"cdam_fast", "torch", "numpy", "pillow", "open_clip", "python"} == said["versions"].keys()
    assert said["versions"]["torch"] == str(torch.__version__)
    assert said["seconds"] > 0


def test_the_commit_is_that_of_the_checkout(monkeypatch, tmp_path):
    checkout = tmp_path / "own"
    package = checkout / "cdam_fast"
    package.mkdir(parents=True)
    (checkout / "pyproject.toml").touch()
    (package / "__init__.py").touch()
    monkeypatch.setattr(cdam_fast, "__file__", str(package / "__init__.py"))
    assert commit() is None

    def git(*arguments):
        given = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", *arguments]
        return subprocess.run(["git", "-C", str(checkout), *given], check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    named = git("rev-parse", "HEAD").strip()
    (checkout / "result.json").touch()
    assert commit() == {"hash": named, "clean": True}
    (package / "__init__.py").write_text("changed")
    assert commit() == {"hash": named, "clean": False}


def test_without_torchmetrics(made, dataset, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ModuleNotFoundError, match="torchmetrics"):
        evaluate(made, dataset)
