"""What stands in for a newer torch than the installed one, tried on this one, and what is refused by name."""

import pickle
import re
import tarfile

import pytest
import torch
from cases import clip_rows, every_metric, needs_kernels
from torch import nn

import cdam_fast
from cdam_fast import compat, divergence, opaque, ops
from cdam_fast.models import dense_features
from cdam_fast.models.tower import Tower
from cdam_fast.testing import clip_like


@pytest.fixture
def oldest(monkeypatch):
    """The branches of the oldest torch, as far as they run on any."""
    monkeypatch.setattr(compat, "TORCH", (1, 13))
    monkeypatch.setattr(compat, "HAS_OPERATORS", False)


@every_metric
@pytest.mark.parametrize("other", [False, True], ids=["symmetric", "rectangular"])
def test_gradient_without_operators_is_the_operators(metric, other, oldest):
    p = clip_rows(7, 5, batch=(2,)).double().requires_grad_()
    q = clip_rows(4, 5, batch=(2,), seed=1).double().requires_grad_() if other else None
    inputs = (p,) if q is None else (p, q)
    weights = torch.randn(2, 7, 4 if other else 7, dtype=torch.float64)
    expected = torch.autograd.grad(cdam_fast.pairwise_divergence(p, q, metric=metric), inputs, weights)
    function = opaque.operator(
        "unused", "", divergence._compute, divergence._fake, divergence._setup_context, divergence._backward
    )
    result = function(p, q, metric, False)
    assert result.requires_grad
    for gradient, wanted in zip(torch.autograd.grad(result, inputs, weights, retain_graph=True), expected):
        torch.testing.assert_close(gradient, wanted)
    (first,) = torch.autograd.grad(result.sum(), p, create_graph=True)
    with pytest.raises(RuntimeError, match=r"^torch\.autograd of cdam_fast: got a second derivative"):
        torch.autograd.grad(first.sum(), p)


def test_a_step_without_a_gradient_is_the_function_itself(oldest):
    assert opaque.operator("unused", "", len, len) is len


@pytest.mark.parametrize("scale", [None, 1.0, 0.3], ids=str)
def test_attention_in_plain_torch(scale, oldest):
    queries, keys = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
    values = torch.randn(2, 3, 7, 4)
    rate = 8**-0.5 if scale is None else scale
    expected = (queries @ keys.transpose(-2, -1) * rate).softmax(-1) @ values
    result = compat.scaled_dot_product_attention(queries, keys, values, scale=scale)
    torch.testing.assert_close(result, expected)


def test_attention_of_this_torch_is_the_same():
    queries, keys, values = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 4)
    expected = (queries @ keys.transpose(-2, -1)).softmax(-1) @ values
    torch.testing.assert_close(compat.scaled_dot_product_attention(queries, keys, values, scale=1.0), expected)


@pytest.mark.parametrize("device_type", ["cpu", "cuda", "mps", "meta", "privateuseone"])
def test_autocast_is_off_or_not_there(device_type):
    with torch.autocast("cpu", dtype=torch.bfloat16), compat.without_autocast(device_type):
        inside = torch.ones(2, 2) @ torch.ones(2, 2)
    assert inside.dtype == (torch.float32 if device_type == "cpu" else torch.bfloat16)


def test_functional_call_takes_buffers():
    module = nn.BatchNorm1d(3).eval()
    state = {"running_mean": torch.full((3,), 2.0)}
    changed = compat.functional_call(module, state, input=torch.ones(1, 3))
    torch.testing.assert_close(changed, torch.full((1, 3), -1.0), atol=1e-4, rtol=0)


def test_out_of_memory_is_one_class():
    assert issubclass(torch.cuda.OutOfMemoryError, compat.OutOfMemoryError)
    assert issubclass(compat.OutOfMemoryError, RuntimeError)


def test_kernels_name_the_torch_that_they_take(oldest):
    similarity = clip_like(3, 4, 4)
    ops._refusal_of_device.cache_clear()
    message = f"backend: 'triton' got torch {compat.version()}, takes torch 2.6 or newer with Triton 3.2 or newer"
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        cdam_fast.cdam_attention(similarity, backend="triton")
    ops._refusal_of_device.cache_clear()


@needs_kernels
def test_kernels_name_the_triton_that_they_take(monkeypatch):
    pytest.importorskip("triton", minversion="3.2")
    monkeypatch.setattr(ops, "_triton_version", lambda: "3.1.0")
    ops._refusal_of_device.cache_clear()
    with pytest.raises(RuntimeError, match=r"^backend: 'triton' got Triton 3\.1\.0, takes 3\.2 or newer$"):
        cdam_fast.cdam_attention(clip_like(3, 4, 4), backend="triton")
    ops._refusal_of_device.cache_clear()


def test_tracing_names_the_torch_that_it_takes(oldest, monkeypatch):
    assert compat.is_compiling() is False
    monkeypatch.setattr(compat, "_is_tracing", lambda: True)
    with pytest.raises(RuntimeError, match=r"^torch\.compile and torch\.export of cdam_fast: got torch .*, takes 2\.6"):
        cdam_fast.cdam_attention(clip_like(3, 4, 4))


def test_torchscript_and_tar_files_are_no_tensors(tmp_path):
    """A whole TorchScript file, and a tar file whose first member holds nothing that is forbidden."""
    script, tar, storages = (tmp_path / name for name in ("script.pt", "tensors.tar", "storages"))
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(script))
    storages.write_bytes(pickle.dumps(0, protocol=2))
    with tarfile.open(tar, "w") as file:
        file.add(storages, "storages")
    for path in (script, tar):
        with pytest.raises((pickle.UnpicklingError, RuntimeError)):
            compat.load_tensors(path)


def test_jit_names_the_torch_that_it_takes(oldest):
    with pytest.raises(RuntimeError, match=r"^torch\.jit\.trace of cdam_fast: got torch .*, takes 2\.6 or newer$"):
        torch.jit.trace(cdam_fast.cdam_attention, clip_like(3, 4, 4))


def test_transforms_name_the_torch_that_they_take(oldest):
    if not hasattr(torch, "func"):
        pytest.skip("torch.func: torch 2.0")
    with pytest.raises(RuntimeError, match=r"^torch\.func of cdam_fast: got torch .*, takes 2\.6 or newer$"):
        torch.func.vmap(cdam_fast.cdam_attention)(clip_like(3, 4, 4, batch=(2,)))


def test_a_compiler_that_is_not_there_says_so_when_called(monkeypatch):
    def refuse(function):
        raise RuntimeError("Dynamo is not supported on this Python")

    monkeypatch.setattr(torch, "compile", refuse, raising=False)
    with pytest.raises(RuntimeError, match="this Python"):
        compat.compiled(len)([])
    monkeypatch.delattr(torch, "compile")
    with pytest.raises(RuntimeError, match=r"^torch\.compile: got torch .*, takes 2\.0 or newer"):
        compat.compiled(len)([])


def test_float16_on_a_cpu_is_refused_where_torch_has_no_such_arithmetic(oldest):
    from towers import small_model

    model = small_model(layers=1)
    with pytest.raises(ValueError, match=r"^dtype: got float16 on a CPU with torch .*, takes torch 2\.3 or newer"):
        Tower(model).to(torch.float16, None)
    with pytest.raises(ValueError, match=r"^model: got float16 on a CPU"):
        dense_features(model.half(), torch.zeros(1, 3, 32, 32))
    assert dense_features(model.bfloat16(), torch.zeros(1, 3, 32, 32)).isfinite().all()
