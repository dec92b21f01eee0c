"""The package of the kernel hub where there is no cdam_fast: right maps, two builds at once, refusals by name."""

import os
import subprocess
import sys

import pytest
import torch
from cases import clip_rows, needs_kernels
from hub_source import written

from cdam_fast import cdam_attend, reference
from cdam_fast.testing import MAP_BUDGET, clip_like, largest_error, oracle

pytestmark = needs_kernels  # the package takes no torch that is older, and is imported in each test

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SCALES = (0.5, 1.0)

# as kernels.get_kernel does: under a name of the build's own, from a path that sys.path does not have
LOADER = """
import builtins, importlib.util, sys

FOLDERS = tuple(sys.argv[1].split(":"))
sys.modules["cdam_fast"] = None
imported = builtins.__import__

def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__file__") or ""
    if importer.startswith(FOLDERS) and level == 0 and name.split(".")[0] == "numpy":
        raise ImportError(f"{importer} imports {name}")
    return imported(name, globals, locals, fromlist, level)

builtins.__import__ = guarded

def load(name, folder):
    spec = importlib.util.spec_from_file_location(name, f"{folder}/__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module

import torch
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return written(tmp_path_factory.mktemp("hub") / "source") / "torch-ext" / "cdam_attention"


@pytest.fixture
def run(tmp_path):
    """Runs code where cdam_fast cannot be imported; the tensors go there and back as files."""

    def run(code, *packages, **tensors):
        torch.save(tensors, tmp_path / "given.pt")
        given = f"given = torch.load({str(tmp_path / 'given.pt')!r})\n"
        kept = f"\ntorch.save(result, {str(tmp_path / 'result.pt')!r})\n"
        folders = ":".join(map(str, packages))
        script = f"{LOADER}{given}{code}{kept}"
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [sys.executable, "-c", script, folders],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return torch.load(tmp_path / "result.pt")

    return run


def test_maps_are_right_without_cdam_fast(package, run):
    pytest.importorskip("triton", minversion="3.2")
    similarity, values = clip_like(17, 3, 4, batch=(2,)), torch.linspace(-1, 1, 2 * 12 * 3).reshape(2, 12, 3)
    p = clip_rows(9, 17)
    code = f"""
cdam = load("other_name", {str(package)!r})
similarity = given["similarity"].to({DEVICE!r})
result = {{
    "map": cdam.cdam_attention(similarity, scales={SCALES}),
    "paper": cdam.cdam_attention(similarity, scales={SCALES}, order="paper", metric="kl", minmax=(True, False)),
    "attended": cdam.cdam_attend(similarity, given["values"].to({DEVICE!r}), scales={SCALES}),
    "divergence": cdam.pairwise_divergence(given["p"].to({DEVICE!r}), given["p"][:4].to({DEVICE!r})),
    "autocast": None,
}}
with torch.autocast({DEVICE!r}, dtype=torch.bfloat16):
    result["autocast"] = cdam.cdam_attend(similarity, given["values"].to({DEVICE!r}), scales={SCALES})
assert not [name for name, module in sys.modules.items() if name.startswith("cdam_fast") and module is not None]
"""
    result = run(code, package, similarity=similarity, values=values, p=p)
    exact = oracle(similarity, scales=SCALES)
    assert largest_error(result["map"], exact) <= MAP_BUDGET
    paper = oracle(similarity, scales=SCALES, order="paper", metric="kl", minmax=(True, False))
    assert largest_error(result["paper"], paper) <= MAP_BUDGET
    for attended in (result["attended"], result["autocast"]):
        assert largest_error(attended, cdam_attend(similarity.double(), values, scales=SCALES)) <= 12 * MAP_BUDGET
    divergence = reference.pairwise_divergence(p.double(), p[:4].double())
    assert largest_error(result["divergence"], divergence) <= MAP_BUDGET * float(divergence.max())


@pytest.mark.slow
def test_two_builds_stand_side_by_side(package, run, tmp_path):
    pytest.importorskip("triton", minversion="3.2")
    second = written(tmp_path / "second", "other") / "torch-ext" / "cdam_attention"
    similarity = clip_like(5, 2, 3)
    code = f"""
packages = [load("cdam_first", {str(package)!r}), load("cdam_other", {str(second)!r})]
similarity = given["similarity"].to({DEVICE!r})
builtins.__import__ = imported  # dynamo reads it
result = {{"namespaces": [package.operators.ops.__name__ for package in packages], "maps": [], "attended": []}}
for package in packages:
    compiled = torch.compile(
        lambda x: package.cdam_attention(x * 1, scales=(1.0,)) + 0, fullgraph=True, backend="aot_eager"
    )
    result["maps"].append(compiled(similarity))
    values = torch.eye(6, device={DEVICE!r})
    result["attended"].append(torch.vmap(lambda x: package.cdam_attend(x, values, scales=(1.0,)))(similarity[None]))
    rows = torch.softmax(similarity.flatten(1).mT / 0.1, -1)
    rate = torch.compile(package.pairwise_divergence, fullgraph=True, backend="aot_eager")(rows)
    assert torch.equal(rate, package.pairwise_divergence(rows))
"""
    result = run(code, package, second, similarity=similarity)
    first, other = result["namespaces"]
    assert first != other
    exact = oracle(similarity, scales=(1.0,))
    for attention in (*result["maps"], *(attended[0] for attended in result["attended"])):
        assert largest_error(attention, exact) <= MAP_BUDGET


REFUSED = {
    "cdam.cdam_attention(given['similarity'].numpy())": (TypeError, "similarity: got ndarray"),
    "cdam.cdam_attention(similarity.long())": (TypeError, "similarity: got dtype torch.int64, takes float16"),
    "cdam.cdam_attention(similarity.double())": (TypeError, "similarity: got dtype torch.float64, takes float16"),
    "cdam.cdam_attention(similarity[0])": (ValueError, "similarity: got shape (4, 4)"),
    "cdam.cdam_attention(similarity, scales=(0.1,))": (ValueError, "scales[0]: got 0.1"),
    "cdam.cdam_attention(similarity, scales='1')": (TypeError, "scales: got str"),
    "cdam.cdam_attention(similarity, temperature=0)": (ValueError, "temperature: got 0"),
    "cdam.cdam_attention(similarity, attention_temperature='1')": (TypeError, "attention_temperature: got str"),
    "cdam.cdam_attention(similarity, metric='l2')": (ValueError, "metric: got 'l2'"),
    "cdam.cdam_attention(similarity, order='other')": (ValueError, "order: got 'other'"),
    "cdam.cdam_attention(similarity, minmax=True)": (TypeError, "minmax: got True"),
    "cdam.cdam_attention(similarity, out_dtype=torch.int8)": (TypeError, "out_dtype: got torch.int8"),
    "cdam.cdam_attention(similarity[:, :1, :1].expand(5, 1, 8193), scales=(1,))": (ValueError, "similarity: got a map"),
    "cdam.cdam_attention(similarity.to('meta'))": (RuntimeError, "similarity: got meta tensors"),
    "cdam.cdam_attention(similarity.clone().requires_grad_())": (ValueError, "similarity: got a tensor that requires"),
    "dual(cdam.cdam_attention, similarity)": (ValueError, "similarity: got a tensor that requires"),
    "dual(lambda q: cdam.pairwise_divergence(similarity[0], q), similarity[1])": (ValueError, "q: got a tensor"),
    "torch.func.jvp(cdam.cdam_attention, (similarity,), (similarity,))": (ValueError, "similarity: got a tensor that"),
    "torch.func.grad(lambda x: cdam.cdam_attention(x).sum())(similarity)": (ValueError, "similarity: got a tensor"),
    "cdam.cdam_attend(similarity, similarity)": (ValueError, "values: got 4 rows"),
    "cdam.cdam_attend(similarity, torch.ones(16, 2, requires_grad=True).to(similarity))": (ValueError, "values: got a"),
    "cdam.pairwise_divergence(similarity[0].double())": (TypeError, "p: got dtype torch.float64"),
    "cdam.pairwise_divergence(similarity[0], similarity[0, :, :2])": (ValueError, "q: got 2 classes"),
    "cdam.pairwise_divergence(similarity[0], metric='l2')": (ValueError, "metric: got 'l2'"),
}


def test_bad_calls_are_refused_by_name(package, run):
    pytest.importorskip("triton", minversion="3.2")
    code = f"""
cdam = load("other_name", {str(package)!r})
similarity = given["similarity"].to({DEVICE!r})

def dual(call, tensor):
    with torch.autograd.forward_ad.dual_level():
        call(torch.autograd.forward_ad.make_dual(tensor, tensor))

result = []
for call in {list(REFUSED)!r}:
    try:
        eval(call)
        result.append(("nothing", ""))
    except Exception as error:
        result.append((type(error).__name__, str(error)))
"""
    for (kind, named), raised, call in zip(
        REFUSED.values(), run(code, package, similarity=clip_like(5, 4, 4)), REFUSED
    ):
        assert raised[0] == kind.__name__, (call, raised)
        assert raised[1].startswith(named), (call, raised)


def test_numpy_numbers_are_taken(package, run):
    code = f"""
import numpy
arguments = load("other_name", {str(package)!r}).arguments
options = arguments.check_options(
    given["similarity"],
    arguments.MapOptions(
        numpy.array({SCALES}), numpy.float32(0.5), 1, "js", "paper", numpy.array([True, False])
    ),
)
result = list(options)
"""
    assert run(code, package, similarity=clip_like(5, 4, 4)) == [SCALES, 0.5, 1.0, "js", "paper", (True, False)]
