"""``benchmarks/evaluation_speed.py``: what it measures, and what was measured."""

import json
import time

import evaluation_speed
import numpy as np
import pytest
from small_evaluations import make_segmenter, restated, write

from cdam_fast.evaluation import evaluation


@pytest.mark.parametrize("workers", [0, 1])
def test_shares_are_of_the_whole(tmp_path, workers, monkeypatch):
    dataset, made = write(tmp_path / "data", count=3), make_segmenter()
    own = evaluation.confusion_of, evaluation.read_images
    model = made._guarded
    monkeypatch.setattr(made, "_guarded", lambda crops: (time.sleep(0.2), model(crops))[1])
    row = evaluation_speed.measure(made, dataset, workers)
    assert (evaluation.confusion_of, evaluation.read_images) == own
    assert row["images"] == 3
    assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-3)
    assert min(row["shares"].values()) >= 0
    assert row["shares"]["model"] * row["seconds"] > 0.19
    both = np.diag(matrix := restated(make_segmenter(), dataset.samples, 4))
    union = matrix.sum(0) + matrix.sum(1) - both
    assert row["miou"] == pytest.approx((both[union > 0] / union[union > 0]).mean())


def test_nine_tenths_of_the_time_are_the_models():
    rows = json.loads(evaluation_speed.RECORDED.read_text())["rows"]
    assert {(row["model"], row["images"]) for row in rows} == {("tiny", 1000), ("ViT-B-16, random weights", 24)}
    for row in rows:
        assert row["shares"]["model"] > 0.9
        assert row["shares"]["waiting for images"] < 0.03
