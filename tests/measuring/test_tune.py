"""The trials of `cdam-fast tune`, interpreted; there is nothing to time without a GPU."""

import pytest
import torch

pytest.importorskip("triton", minversion="3.2")

from cdam_fast import cli
from cdam_fast.kernels import configurations
from cdam_fast.measuring import tune
from cdam_fast.testing import MAP_BUDGET, clip_like


@pytest.mark.slow
def test_trials_are_checked_and_leave_nothing_behind(monkeypatch):
    monkeypatch.setattr(
        tune,
        "CANDIDATES",
        {"distributions": [{"BLOCK_CLASSES": 16}], "divergence": [{"ROWS": 8, "COLUMNS": 4}, {"BLOCK": 3}]},
    )
    before = configurations.divergence("cpu", "js")
    report = tune.TuneReport({"device_name": "interpreter"})
    tune.run_tune(clip_like(5, 5, 6, batch=(1,)), report, lambda step: None)
    assert [trial.status for trial in report.trials] == ["ok", "ok", "ok", "failed"]
    assert all(trial.error <= MAP_BUDGET for trial in report.trials[:3])
    assert configurations.divergence("cpu", "js") == before
    assert "as shipped" in "".join(str(cell) for cell in tune.table(report).columns[1].cells)


def test_candidates_change_options_that_exist():
    shipped = {
        "distributions": configurations.distributions("sm_90", "js"),
        "divergence": configurations.divergence("sm_90", "js"),
        "attention": configurations.attention("sm_90", (28, 28)),
    }
    for stage, candidates in tune.CANDIDATES.items():
        for changes in candidates:
            assert set(changes) <= set(shipped[stage]) | {"num_stages"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_cpu_is_refused(capsys):
    assert cli.main(["tune", "--device", "cpu"]) == 2
    assert "takes a GPU" in capsys.readouterr().err
    assert cli.main(["tune"]) == 2
