"""What is none of what `evaluate` and its like take: an error that begins with the argument's name."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from small_evaluations import make_segmenter, write

from cdam_fast.evaluation import Sample, evaluate, load_protocol, mean_iou, open_dataset
from cdam_fast.evaluation.scenes import write_scenes

NO_TEXTS = (None, 5, b"a", float("nan"), [], np.int64(3), (name for name in "ab"), object())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write(tmp_path_factory.mktemp("wrong") / "data", count=1)


def refused(call, argument, errors=(TypeError, ValueError)):
    with pytest.raises(errors, match=rf"^{re.escape(argument)}: ") as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", NO_TEXTS, ids=lambda value: type(value).__name__)
def test_what_is_no_path_and_no_name(dataset, tmp_path, value):
    root = dataset.samples[0].photo.parents[1]
    refused(lambda: open_dataset("voc21", value), "root", TypeError)
    refused(lambda: open_dataset(value, root), "name")
    refused(lambda: load_protocol(value), "protocol")
    refused(lambda: load_protocol("paper").settings(value), "dataset")
    refused(lambda: write_scenes(value, 1, 0), "root", TypeError)
    refused(lambda: mean_iou(value), "confusion", TypeError)
    refused(lambda: evaluate(value, dataset), "segmenter", TypeError)
    refused(lambda: evaluate(make_segmenter(), value), "dataset", TypeError)
    if value is not None:
        refused(lambda: open_dataset("custom", root, classes=value), "classes", TypeError)
        refused(lambda: evaluate(make_segmenter(), dataset, out=value), "out", TypeError)


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("settings", (5, "x", [("a", 1)], {"a": float("nan")}, {"a": Path("x")}, {"a": object()})),
        ("protocol", (5, "paper", load_protocol("paper"), {"a": Path("x")}, {"a": float("inf")})),
        ("published", ("x", float("nan"), -0.1, 50, True)),
        ("strict", (None, "yes", 1)),
        ("processes", (None, 2)),
        ("on_image", (None, "x")),
        ("out", ("", "a\0b")),
    ],
)
def test_options_of_evaluate(dataset, tmp_path, monkeypatch, argument, values):
    monkeypatch.chdir(tmp_path)
    for value in values:
        refused(lambda: evaluate(make_segmenter(), dataset, workers=0, **{argument: value}), argument)  # noqa: B023
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy(dataset, tmp_path):
    options = {"settings": {"a": np.float32(0.5)}, "protocol": {"b": np.arange(2)}, "published": np.float64(0.5)}
    result = evaluate(make_segmenter(), dataset, workers=0, strict=np.bool_(True), out=str(tmp_path / "out"), **options)
    read = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert (read["settings"]["a"], read["protocol"], read["published_miou"]) == (0.5, {"b": [0, 1]}, 0.5)
    assert read["confusion"] == result.confusion.tolist()


@pytest.mark.parametrize(
    "change",
    [
        {"samples": None},
        {"samples": (1, 2)},
        {"samples": iter(())},
        {"samples": (Sample("a", "a.png", Path("a.png")),)},
        {"samples": (Sample("a", Path("a.png"), Path("b.png")),) * 2},
        {"classes": "abcd"},
        {"classes": ("a", "b", "b", "c")},
        {"classes": (1, 2, 3, 4)},
        {"meaning": [0, 1, 2, 3]},
        {"meaning": torch.zeros(4, dtype=torch.int16)},
        {"meaning": np.arange(5, dtype=np.int16)},
        {"meaning": np.zeros((2, 2), dtype=np.int16)},
    ],
    ids=lambda change: "-".join(f"{name}-{type(value).__name__}" for name, value in change.items()),
)
def test_a_data_set_of_ones_own(dataset, change):
    refused(lambda: evaluate(make_segmenter(), dataclasses.replace(dataset, **change), workers=0), "dataset")


@pytest.mark.parametrize("classes", ["abc", 5, [1, 2], {"a": 1}, iter("ab")])
def test_names_of_classes(classes):
    refused(lambda: load_protocol("paper").settings("ade20k", classes=classes), "classes", TypeError)


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True, None])
@pytest.mark.parametrize("argument", ["count", "side"])
def test_scenes(tmp_path, argument, value):
    refused(lambda: write_scenes(tmp_path, **{"count": 1, "seed": 0, argument: value}), argument)


def test_a_matrix_of_another_shape():
    refused(lambda: mean_iou(torch.ones(2, 3)), "confusion", ValueError)
