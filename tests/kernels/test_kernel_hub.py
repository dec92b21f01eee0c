"""The kernels as source of a kernel of Hugging Face's hub: the layout, and the command that writes it."""

import ast
import importlib
import re
import sys

import kernel_hub
import pytest
from hub_source import ROOT, command, written


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return written(tmp_path_factory.mktemp("hub") / "source")


@pytest.fixture(scope="module")
def package(folder):
    return folder / "torch-ext" / "cdam_attention"


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
