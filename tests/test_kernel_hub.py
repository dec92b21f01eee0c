"""The kernels as source of a kernel of Hugging Face's hub: the layout, and the package where there is no cdam_fast."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import kernel_hub
import pytest
import torch
from cases import clip_rows, needs_kernels

from cdam_fast import cdam_attend, reference
from cdam_fast.testing import MAP_BUDGET, clip_like, largest_error, oracle

ROOT = Path(__file__).parents[1]
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


def command(*arguments):
    script = [sys.executable, str(ROOT / "benchmarks" / "kernel_hub.py"), *map(str, arguments)]
    return subprocess.run(script, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The source, and the module that kernel-builder adds."""
    path = tmp_path_factory.mktemp("hub") / "source"
    done = command(path, "--unique-id", "first", "--repo-id", "someone/cdam-attention")
    assert done.returncode == 0, done.stderr
    assert {Path(line) for line in done.stdout.splitlines()} == {file for file in path.rglob("*") if file.is_file()}
    return path


@pytest.fixture(scope="module")
def package(folder):
    return folder / "torch-ext" / "cdam_attention"


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


# --- The layout ---------------------------------------------------------------------------------------------------


def test_build_file(folder):
    toml = importlib.import_module("tomllib") if sys.version_info >= (3, 11) else pytest.importorskip("tomli")
    build = toml.loads((folder / "build.toml").read_text(encoding="utf-8"))
    general = build.pop("general")
    # kernel-builder refuses unknown keys, and a file without one of these
    assert set(general) == {"name", "version", "edition", "license", "backends", "hub"}
    assert general["name"] == "cdam-attention"
    assert re.fullmatch(r"[a-z][-a-z0-9]*[a-z0-9]", general["name"])
    assert (general["version"], general["edition"], general["license"]) == (0, 5, "mit")
    assert set(general["backends"]) <= {"cpu", "cuda", "metal", "rocm", "xpu"}
    assert general["hub"] == {"repo-id": "someone/cdam-attention"}
    assert build == {"torch-noarch": {}}


def test_folder_is_what_the_builder_takes(folder, package):
    assert {path.name for path in folder.iterdir()} == {"build.toml", "flake.nix", "CARD.md", "LICENSE", "torch-ext"}
    assert [path.name for path in (folder / "torch-ext").iterdir()] == ["cdam_attention"]
    for path in (ROOT / "kernels").glob("*.py"):
        assert (package / "kernels" / path.name).read_bytes() == path.read_bytes()


def test_sources_are_python_3_9_and_import_nothing_else(package):
    standard = {"__future__", "collections", "contextlib", "functools", "importlib", "math", "numbers", "re", "sys"}
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                depth = len(path.relative_to(package).parts)
                assert node.level <= depth, f"{path.name} imports from outside"
                names = [] if node.level else [node.module]
            for name in names:
                assert name.split(".")[0] in standard | {"typing", "torch", "triton"}, f"{path.name}: {name}"


def test_every_operator_is_in_the_namespace_of_the_build(package):
    """As kernel-builder's own check of decorators, and nothing registers in another way."""
    registered = 0
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("custom_op", "triton_op", "Library")):
                assert ast.unparse(node.args[0]).startswith("add_op_namespace_prefix("), path
                registered += 1
        assert "cdam_fast::" not in text
    assert registered == 3


def test_public_functions_are_documented(package):
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    functions = {node.name: ast.get_docstring(node) for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert set(functions) == {"cdam_attention", "cdam_attend", "pairwise_divergence"}
    for docstring in functions.values():
        assert all(word in docstring for word in ("Args:", "Returns:", "Raises:"))


def test_builder_makes_its_own_module_of_operators(tmp_path):
    done = command(tmp_path / "plain")
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("_ops.py"))
    assert "repo-id" not in (tmp_path / "plain" / "build.toml").read_text(encoding="utf-8")


# --- The command --------------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path):
    (tmp_path / "kept.txt").write_text("kept")
    done = command(tmp_path)
    assert done.returncode == 2
    assert f"FOLDER: got {tmp_path}, which is not empty" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--name", "CDAM"), "--name: got 'CDAM', takes"),
        (("--repo-id", "someone"), "--repo-id: got 'someone', takes OWNER/NAME"),
        (("--unique-id", "a-b"), "--unique-id: got 'a-b', takes"),
    ],
)
def test_options_are_refused_by_name(arguments, named, tmp_path):
    done = command(tmp_path / "new", *arguments)
    assert done.returncode == 2
    assert named in done.stderr
    assert not (tmp_path / "new").exists()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("kept")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        done = command(place)
        assert done.returncode == 2
        assert str(place) in done.stderr
        assert "Traceback" not in done.stderr


def test_help():
    done = command("--help")
    assert done.returncode == 0
    assert "--unique-id" in done.stdout


# --- The package --------------------------------------------------------------------------------------------------


@needs_kernels
def test_maps_are_right_without_cdam_fast(package, run):
    pytest.importorskip("triton", minversion="3.2")
    similarity, values = clip_like(17, 6, 7, batch=(2,)), torch.linspace(-1, 1, 2 * 42 * 3).reshape(2, 42, 3)
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
        assert largest_error(attended, cdam_attend(similarity.double(), values, scales=SCALES)) <= 42 * MAP_BUDGET
    divergence = reference.pairwise_divergence(p.double(), p[:4].double())
    assert largest_error(result["divergence"], divergence) <= MAP_BUDGET * float(divergence.max())


@needs_kernels
def test_two_builds_stand_side_by_side(package, run, tmp_path):
    pytest.importorskip("triton", minversion="3.2")
    second = tmp_path / "second" / "torch-ext" / "cdam_attention"
    assert command(tmp_path / "second", "--unique-id", "other").returncode == 0
    similarity = clip_like(5, 4, 4)
    code = f"""
packages = [load("cdam_first", {str(package)!r}), load("cdam_other", {str(second)!r})]
similarity = given["similarity"].to({DEVICE!r})
builtins.__import__ = imported  # dynamo reads it
result = {{"namespaces": [package.operators.ops.__name__ for package in packages], "maps": [], "attended": []}}
for package in packages:
    compiled = torch.compile(
        lambda x: package.cdam_attention(x * 1, scales={SCALES}) + 0, fullgraph=True, backend="aot_eager"
    )
    result["maps"].append(compiled(similarity))
    values = torch.eye(16, device={DEVICE!r})
    result["attended"].append(torch.vmap(lambda x: package.cdam_attend(x, values, scales={SCALES}))(similarity[None]))
    rows = torch.softmax(similarity.flatten(1).mT / 0.1, -1)
    rate = torch.compile(package.pairwise_divergence, fullgraph=True, backend="aot_eager")(rows)
    assert torch.equal(rate, package.pairwise_divergence(rows))
"""
    result = run(code, package, second, similarity=similarity)
    first, other = result["namespaces"]
    assert first != other
    exact = oracle(similarity, scales=SCALES)
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


@needs_kernels
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
    given["similarity"], numpy.array({SCALES}), numpy.float32(0.5), 1, "js", "paper", numpy.array([True, False])
)
result = list(options)
"""
    assert run(code, package, similarity=clip_like(5, 4, 4)) == [SCALES, 0.5, 1.0, "js", "paper", (True, False)]


# --- The definitions that are taken -------------------------------------------------------------------------------


def test_only_what_is_used_is_taken():
    files = kernel_hub.package_files()
    needed = {name for name in files if "/" not in name}
    assert needed == {
        "__init__.py",
        "operators.py",
        "arguments.py",
        "compat.py",
        "constants.py",
        "ops.py",
        "tracing.py",
    }
    defined = {node.name for node in ast.parse(files["compat.py"]).body if isinstance(node, ast.FunctionDef)}
    assert "without_autocast" in defined
    assert not defined & {"load_tensors", "operator", "functional_call"}


def test_every_name_in_the_package_is_bound(package):
    """Ruff's F821 would say the same: the definitions that were taken miss none."""
    builtin = set(dir(__builtins__)) if not isinstance(__builtins__, dict) else set(__builtins__)
    for path in package.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = list(ast.walk(tree))
        bound = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
        bound |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.ExceptHandler))}
        bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        for node in nodes:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        assert used <= bound | builtin, f"{path.name}: {used - bound - builtin}"
