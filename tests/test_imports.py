"""What `import cdam_fast` brings in, and the direction of the package's imports."""

import ast
import functools
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cdam_fast

PACKAGE = Path(cdam_fast.__file__).parent
ROOT = PACKAGE.parent
HEAVY = ("triton", "open_clip", "skimage", "matplotlib", "rich", "gradio")

# from the bottom up; an import goes to a lower layer, within a package also sideways
LAYERS = (
    {"compat", "constants", "errors", "prompts"},
    {"arguments", "files", "tracing", "watch"},
    {"opaque", "processes"},
    {"embedding", "kernels"},
    {"jensen_shannon"},
    {"divergence"},
    {"reference", "portable"},
    {"ops"},
    {"attention", "background", "isometry", "models"},
    {"graphs", "paths"},
    {"segmentation"},
    {""},  # cdam_fast itself
    {"sklearn", "testing"},
    {"ahead", "demo", "evaluation", "measuring"},
    {"commands"},
    {"cli"},
    {"__main__"},
)


FOLDERS = ("ahead", "commands", "demo", "evaluation", "kernels", "measuring", "models", "segmentation")


def run_python(code):
    """Standard output of a new interpreter that sees no GPU."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(statement):
    return set(run_python(f"import sys\n{statement}\nprint(*sys.modules)").split())


def test_import_brings_in_torch_and_nothing_heavy():
    added = loaded_by("import cdam_fast") - loaded_by("import torch, torch.nn.functional, numpy")
    assert "cdam_fast.portable" in added
    assert not {name for name in added if name.split(".")[0] in HEAVY}
    outside = ("kernels", "measuring", "ahead", "demo", "evaluation", "commands", "cli")
    assert not {name for name in added if name.startswith(tuple(f"cdam_fast.{part}" for part in outside))}


def test_works_where_nothing_heavy_can_be_imported():
    code = f"""
import sys
sys.modules.update(dict.fromkeys({HEAVY}))
import torch, cdam_fast
attention = cdam_fast.cdam_attention(torch.rand(5, 4, 4))
cdam_fast.cdam_attend(torch.rand(5, 4, 4), torch.rand(16, 3))
print(*attention.shape)
"""
    assert run_python(code).split() == ["16", "16"]


def test_import_changes_no_setting_of_torch():
    state = "print(torch.get_default_dtype(), torch.get_float32_matmul_precision(), torch.get_num_threads())"
    assert run_python(f"import torch\n{state}") == run_python(f"import torch, cdam_fast\n{state}")


def test_kernels_are_the_folder_kernels():
    kernels = importlib.import_module("cdam_fast.kernels")
    assert Path(kernels.__file__).parent == ROOT / "kernels"


def test_everything_public_is_there():
    assert [name for name in cdam_fast.__all__ if not hasattr(cdam_fast, name)] == []
    assert len(set(cdam_fast.__all__)) == len(cdam_fast.__all__)


# --- the import graph, imports inside functions included


@functools.cache
def module_files():
    """Every module of the package by its name below cdam_fast ("" is the package), with its file."""
    files = {}
    for folder, prefix in ((PACKAGE, ()), (ROOT / "kernels", ("kernels",))):
        for path in folder.rglob("*.py"):
            parts = prefix + path.relative_to(folder).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def imported_names(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # kernels/ can be published by itself, so it never names the package around it
            assert (node.level == 1) == (path.parent.name == "kernels" and node.module in (None, *kernel_names()))
            package = ".".join(filter(None, ("cdam_fast.kernels" if node.level else None, node.module)))
            yield from (f"{package}.{alias.name}" for alias in node.names)


def kernel_names():
    return [path.stem for path in (ROOT / "kernels").glob("*.py")]


@functools.cache
def arrows():
    """The package's modules that each module imports; a name that is no module comes from the package above it."""
    files = module_files()
    graph = {}
    for module, path in files.items():
        graph[module] = set()
        for name in imported_names(path):
            if name.split(".")[0] == "cdam_fast":
                parts = name.split(".")[1:]
                while ".".join(parts) not in files:
                    parts.pop()
                graph[module].add(".".join(parts))
    return graph


def layer(module):
    return next(i for i, names in enumerate(LAYERS) if module.split(".")[0] in names)


def reached_from(module):
    seen, waiting = set(), [module]
    while waiting:
        new = arrows()[waiting.pop()] - seen
        seen |= new
        waiting.extend(new)
    return seen


def test_graph_is_read_from_the_sources():
    assert {"divergence", "constants", "arguments"} <= arrows()["portable"]
    assert "embedding" in arrows()["jensen_shannon"]
    assert {"reference", "portable"} <= arrows()["attention"]
    assert "commands.segment" in arrows()["cli"]


@pytest.mark.parametrize("module", sorted(module_files()), ids=lambda module: module or "cdam_fast")
def test_imports_go_down(module):
    inside = module.split(".")[0]
    for imported in arrows()[module]:
        sideways = inside in FOLDERS and imported.split(".")[0] == inside
        assert sideways or layer(imported) < layer(module), f"{module} imports {imported or 'cdam_fast'}"


@pytest.mark.parametrize("module", sorted(module_files()), ids=lambda module: module or "cdam_fast")
def test_no_module_reaches_itself(module):
    assert module not in reached_from(module)


@pytest.mark.parametrize(
    "module", ["portable", "divergence", "jensen_shannon", "embedding", "kernels", "arguments", "constants"]
)
def test_nothing_fast_reaches_the_reference(module):
    assert "reference" not in reached_from(module)


def test_backends_never_reach_each_other():
    backends = {"reference", "portable", "kernels"}  # gradients of the kernels are the portable ones: ops knows both
    for backend in backends:
        assert not {name.split(".")[0] for name in reached_from(backend)} & (backends - {backend})


def test_reference_is_imported_by_the_public_functions_and_by_checks_only():
    importers = {module for module, imported in arrows().items() if "reference" in imported}
    assert importers <= {"", "attention", "testing"} | {name for name in arrows() if name.startswith("measuring.")}


def test_command_line_is_at_the_top():
    assert {module for module, imported in arrows().items() if "cli" in imported} <= {"__main__"}


def test_triton_is_imported_by_kernels_and_their_inspection_only():
    for module, path in module_files().items():
        if not module.startswith(("kernels", "ahead.", "measuring.host")):
            assert "triton" not in {name.split(".")[0] for name in imported_names(path)}, module


def test_kernels_need_triton_and_torch_only():
    standard = {"__future__", "collections", "contextlib", "functools", "typing"}
    for path in (ROOT / "kernels").glob("*.py"):
        assert {name.split(".")[0] for name in imported_names(path)} <= standard | {"triton", "torch", "cdam_fast"}
