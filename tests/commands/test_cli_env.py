"""Devices, ``cdam-fast env``, and what is said about time."""

import sys
import types

import pytest
import torch

from cdam_fast import cli, testing
from cdam_fast.commands import devices, env, progress
from cdam_fast.measuring import durations
from cdam_fast.measuring.bench import BenchOptions
from cdam_fast.measuring.inputs import parse_class_lists

# --- devices


def test_auto_takes_the_first_device_that_works(monkeypatch):
    monkeypatch.setattr(devices, "is_there", lambda device: device.type in ("mps", "cpu"))
    assert devices.parse_device("auto") == torch.device("mps")
    monkeypatch.setattr(devices, "is_there", lambda device: device.type == "cpu")
    assert devices.parse_device("auto") == torch.device("cpu")


def test_a_device_that_lacks_an_operation_is_said_and_not_taken(monkeypatch, capsys):
    monkeypatch.setattr(torch, "mps", types.SimpleNamespace(is_available=lambda: True), raising=False)
    monkeypatch.setattr(torch.backends, "mps", types.SimpleNamespace(is_available=lambda: True), raising=False)

    def missing(*args, **options):
        raise NotImplementedError("aten::_upsample_bicubic2d_aa.out is not there")

    image = torch.ones(1, 3, 8, 8)
    monkeypatch.setattr(torch, "zeros", lambda *sizes, device: image)  # as if it could be made there
    monkeypatch.setattr(devices.functional, "interpolate", missing)
    assert not devices.is_there(torch.device("mps"))
    assert capsys.readouterr().err == (
        "device mps: there, and passed over: aten::_upsample_bicubic2d_aa.out is not there\n"
    )


def test_the_first_line_says_device_and_backend(arguments, capsys):
    cli.main(arguments)
    first = capsys.readouterr().err.splitlines()[0]
    device = devices.parse_device("auto")
    assert first.startswith(f"device {device} (")
    assert first.endswith(f"backend {'portable' if device.type == 'cpu' else 'triton'}")


# --- env


def test_env_prints_versions_devices_and_a_check(capsys):
    assert cli.main(["env"]) == 0
    printed = capsys.readouterr().out
    for word in ("cdam_fast", "python", "torch", "triton", "numpy", "open_clip", "Pillow", "system", torch.__version__):
        assert word in printed
    assert "cpu, portable: right, largest error" in printed
    assert "cpu: backend portable; not triton: " in printed


def test_env_works_without_optional_packages(monkeypatch, capsys):
    for name in ("triton", "open_clip", "rich", "matplotlib", "safetensors", "PIL"):
        for module in list(sys.modules):
            if module.split(".")[0] == name:
                monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, name, None)
    assert cli.main(["env"]) == 0
    assert capsys.readouterr().out.count("not installed") >= 6


def test_env_ends_in_1_where_a_backend_is_wrong_or_fails(monkeypatch, capsys):
    def wrong(similarity, backend):
        exact = testing.oracle(similarity).float()
        if backend == "portable":
            return exact + 1e-3
        raise RuntimeError("no such kernel image")

    monkeypatch.setattr(env, "cdam_attention", wrong)
    assert cli.main(["env"]) == 1
    printed = capsys.readouterr().out
    assert "cpu, portable: WRONG, largest error 1.0e-03" in printed
    assert "cpu, reference: FAILED, RuntimeError: no such kernel image" in printed


# --- time


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (7.4, "7 s"), (42, "40 s"), (88, "90 s"), (150, "2 min"), (5000, "1 h 23 min")]
)
def test_durations_as_one_says_them(seconds, said):
    assert progress.spoken(seconds) == said


def test_steps_say_what_is_gone_and_what_is_left(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.counted(4, "counting") as advance:
        for name in "abcd":
            now[0] += 60
            advance(name)
    with progress.estimated(200) as step:
        now[0] += 60
        step("first")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "[1/4] a (3 min left)", "[2/4] b (2 min left)", "[3/4] c (60 s left)", "[4/4] d",
        "takes about 3 min here", "[60 s of about 3 min] first",
    ]  # fmt: skip


def test_more_work_is_estimated_longer():
    def seconds(classes="VOC21", end_to_end=False, **options):
        lists = parse_class_lists(classes)
        return durations.of_bench(BenchOptions(lists, torch.device("cpu"), **options), end_to_end=end_to_end)

    short = seconds(grid=(8, 8))
    assert short < seconds(grid=(40, 40)) < seconds(grid=(40, 40), end_to_end=True)
    assert short < seconds("VOC21,Context60,COCO-Object", grid=(20, 20))
