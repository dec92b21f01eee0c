"""What the Triton backend refuses, by name."""

import pytest
import torch
from triton_calls import DEVICE, triton

import cdam_fast
from cdam_fast import ops
from cdam_fast.testing import clip_like

pytest.importorskip("triton", minversion="3.2")


def test_float64_is_refused():
    with pytest.raises(RuntimeError, match=r"^backend: 'triton' got torch.float64 input, takes float16"):
        triton(clip_like(3, 4, 4).double())


def test_more_patches_than_a_row_holds_are_refused():
    with pytest.raises(RuntimeError, match=r"^backend: 'triton' got a map of 8193 patches, takes 8192 at most"):
        triton(torch.zeros(1, 1, 8193), scales=(1.0,))


def test_map_that_does_not_fit_is_refused_before_any_launch(monkeypatch):
    from cdam_fast.kernels import launch

    monkeypatch.setattr(launch, "_distributions", None)
    similarity = torch.zeros(1, 1, 80, 100, device=DEVICE).expand(1 << 22, 1, 80, 100)
    with pytest.raises(torch.OutOfMemoryError, match=r"^similarity: got 4194304 maps .*GiB.*cdam_attend"):
        triton(similarity, scales=(1.0,))


def refusal_of(device):
    ops._refusal_of_device.cache_clear()
    try:
        return ops._refusal_of_device(torch.device(device))
    finally:
        ops._refusal_of_device.cache_clear()


def test_old_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.version, "hip", None)
    assert refusal_of("cuda") == "got a GPU of compute capability 7.0, takes 7.5 or newer"


def test_old_triton_is_refused(monkeypatch):
    monkeypatch.setattr(ops, "_triton_version", lambda: "3.1.0+git")
    assert refusal_of("cuda") == "got Triton 3.1.0+git, takes 3.2 or newer"


def test_missing_triton_is_refused(monkeypatch):
    monkeypatch.setattr(ops.importlib.util, "find_spec", lambda name: None)
    assert refusal_of("cuda") == "Triton is not installed; takes triton 3.2 or newer"


def test_cpu_tensors_without_the_interpreter_are_refused(monkeypatch):
    monkeypatch.setattr(ops, "_interpreted", lambda: False)
    assert "got CPU tensors, takes GPU tensors" in refusal_of("cpu")


def test_other_devices_are_refused():
    with pytest.raises(RuntimeError, match=r"^backend: 'triton' got meta tensors, takes CUDA, ROCm or XPU tensors"):
        cdam_fast.cdam_attention(torch.zeros(2, 4, 4, device="meta"), backend="triton")


def test_auto_on_the_cpu_is_portable(monkeypatch):
    monkeypatch.setattr(ops, "cdam_attention", None)
    cdam_fast.cdam_attention(clip_like(3, 4, 4))
