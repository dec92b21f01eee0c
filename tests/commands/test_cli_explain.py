"""``cdam-fast kernels --explain``."""

import json
import os
import subprocess
import sys

import pytest
import torch

import cdam_fast
from cdam_fast import cli, ops
from cdam_fast.testing import clip_like

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

needs_kernels = pytest.mark.skipif(ops.refusal(torch.zeros(1, device=DEVICE)) is not None, reason="no kernels here")
interpreted = pytest.mark.skipif(DEVICE != "cpu", reason="compiled kernels cannot be watched")


@needs_kernels
def test_command_prints_what_the_function_says(tmp_path, capsys):
    path = tmp_path / "explained.json"
    arguments = ["--classes", "41,5", "--grid", "6x7", "--spread", "0.06", "--target", "sm_90, sm_86"]
    assert cli.main(["kernels", "--explain", *arguments, "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    found = json.loads(path.read_text())["explanations"]
    assert [(each["classes"], each["target"]) for each in found] == [
        (f"C={classes}", target) for classes in (5, 41) for target in ("sm_90", "sm_86")
    ]
    expected = cdam_fast.explain(clip_like(41, 6, 7, spread=0.06).to(DEVICE), target="sm_86")
    assert str(expected) in printed
    assert found[-1].items() >= json.loads(json.dumps(expected.as_dict())).items()


@needs_kernels
@interpreted
def test_command_interprets_the_kernels_where_there_is_no_gpu():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "cdam_fast", "kernels", "--explain", "--grid", "4", "--classes", "17"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "triton: kernels of sm_90" in done.stdout
    assert "is interpreted" in done.stderr


@pytest.mark.slow
def test_command_takes_a_photograph(capsys):
    from cdam_fast.measuring.inputs import PHOTOGRAPH

    arguments = ["--image", str(PHOTOGRAPH), "--grid", "4", "--classes", "17"]
    assert cli.main(["kernels", "--explain", *arguments]) == 0
    assert "C=17, photograph.jpg, weights: random" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid", "8"], "--grid: takes --explain as well"),
        (["--device", "cpu"], "--device: takes --explain as well"),
        (["--explain", "--pretrained", "x"], "--pretrained: takes an --image as well"),
        (["--explain", "--image", "x.jpg", "--spread", "1"], "--spread: takes no --image as well"),
        (["--explain", "--image", "missing.jpg"], "--image: missing.jpg"),
        (["--explain", "--spread", "nan"], "--spread: got nan, takes a finite number from 0"),
        (["--explain", "--target", "sm_90,sm90"], "--target: got 'sm90', takes the name of a GPU"),
        (["--explain", "--grid", "2"], "--grid: got '2'"),
        (["--explain", "--classes", "Pascal"], "--classes: got 'Pascal'"),
        (["--explain", "--json", "missing_folder/x.json"], "--json: cannot write"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_2(arguments, message, capsys):
    assert cli.main(["kernels", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"cdam-fast kernels: error: {message}")
    assert captured.err.count("\n") == 1
