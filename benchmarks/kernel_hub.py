"""The kernels as source of a kernel for Hugging Face's kernel hub: ``python benchmarks/kernel_hub.py FOLDER``.

The folder is what kernel-builder builds: a universal kernel of Triton and PyTorch. ``torch-ext/cdam_attention`` holds
benchmarks/hub_package, kernels/ as it is, and of cdam_fast those definitions that the two need. The layout is that of
kernel-builder 0.17, edition 5 of build.toml: https://huggingface.co/docs/kernels, "Write kernels" (project layout,
build.toml, torch-noarch, registering Torch operators) and "Kernel requirements" (Torch extension, Python requirements).
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "cdam_fast"
OWN = "hub_package"

BUILD = """\
[general]
name = "{name}"
version = 0  # the hub's number of what is not final
edition = 5
license = "mit"
backends = ["cuda", "rocm", "xpu"]
{hub}
[torch-noarch]
"""

FLAKE = """\
{
  description = "Class distribution-induced attention maps";
  inputs.kernel-builder.url = "github:huggingface/kernels";
  outputs =
    { self, kernel-builder, ... }:
    kernel-builder.lib.genKernelFlakeOutputs {
      inherit self;
      path = ./.;
    };
}
"""

CARD = """\
---
library_name: kernels
license: mit
---

# Class distribution-induced attention maps for CLIP

The attention map of Kang, Kim and Chun, *Class Distribution-induced Attention Map for Open-vocabulary Semantic
Segmentations* (ICLR 2025), over all scales in three Triton launches, and never N x N x C values. Forward only.

```python
from kernels import get_kernel

cdam = get_kernel("{repo}", version=0)
attention = cdam.cdam_attention(similarity)  # [..., C, h, w] on a GPU -> [..., h * w, h * w]
```

`cdam_attention`, `cdam_attend` and `pairwise_divergence` say in their docstrings what they take.
"""

OPS = '''\
"""The namespace of this build's operators, as kernel-builder writes it."""

import torch


def _backend():
    for name, version in (("cuda", torch.version.cuda), ("rocm", torch.version.hip)):
        if version is not None:
            return name
    return "cpu" if getattr(torch.version, "xpu", None) is None else "xpu"


_NAMESPACE = f"_{package}_{{_backend()}}_{unique_id}"

ops = getattr(torch.ops, _NAMESPACE)


def add_op_namespace_prefix(op_name: str) -> str:
    """Prefix the name of an operator with this build's namespace."""
    return f"{{_NAMESPACE}}::{{op_name}}"
'''


# --- The definitions that are needed ------------------------------------------------------------------------------


class Module:
    """A module of cdam_fast as its top-level statements, and which of them are needed."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text(encoding="utf-8")
        self.lines = self.text.splitlines()
        self.statements = ast.parse(self.text).body
        self.docstring = ast.get_docstring(ast.parse(self.text)) or ""
        self.needed: set[int] = set()
        self.imported: set[tuple[int, str]] = set()
        self.defined: dict[str, list[int]] = {}
        for index, statement in enumerate(self.statements):
            if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
                self.imported |= {(index, alias.name) for alias in statement.names}
            for name in names_of(statement):
                self.defined.setdefault(name, []).append(index)

    def source(self, origin: str) -> str:
        """The needed statements with the comments before them, and what they import, relative."""
        title = self.docstring.partition("\n")[0]
        parts = [f'"""{title}"""', "", f"# from {origin}"]
        group = None
        for index, statement in enumerate(self.statements):
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                aliases = [alias for alias in statement.names if (index, alias.name) in self.imported]
                if aliases:
                    line = ast.unparse(type(statement)(**{**vars(statement), "names": aliases}))
                    root = line.split()[1].split(".")[0]
                    following = root if root in ("__future__", "torch", PACKAGE) else "standard"
                    parts += [line] if following == group else ["", line]
                    group = following
            elif index in self.needed:
                begin, stop = self.statements[index - 1].end_lineno, statement.end_lineno
                if index + 1 < len(self.statements) and is_text(self.statements[index + 1]):
                    stop = self.statements[index + 1].end_lineno
                parts += self.lines[begin:stop]
        text = "\n".join(parts) + "\n"
        return re.sub(rf"\bfrom {PACKAGE}(\.\w+)? import", lambda found: f"from {found[1] or '.'} import", text)


def is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a string, which describes the one before it."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def names_of(statement: ast.stmt) -> Iterator[str]:
    """What a top-level statement binds."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        for alias in statement.names:
            yield (alias.asname or alias.name).split(".")[0]
    elif isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        yield statement.name
    elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
        for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))


class Needed:
    """Modules of cdam_fast, reduced to the definitions that were asked for and those that they use."""

    def __init__(self) -> None:
        self.modules: dict[str, Module] = {}

    def module(self, name: str) -> Module:
        """A module by its name below cdam_fast."""
        if name not in self.modules:
            self.modules[name] = Module(ROOT / PACKAGE / f"{name}.py")
        return self.modules[name]

    def add(self, module_name: str, name: str) -> None:
        """Need one definition of a module, and what it uses in turn."""
        module = self.module(module_name)
        for index in module.defined.get(name, ()):
            statement = module.statements[index]
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                self.add_import(module, index, name)
            elif index not in module.needed:
                module.needed.add(index)
                self.add_uses(module_name, statement)

    def add_import(self, module: Module, index: int, name: str) -> None:
        statement = module.statements[index]
        for alias in statement.names:
            if (alias.asname or alias.name).split(".")[0] == name:
                module.imported.add((index, alias.name))
                if isinstance(statement, ast.ImportFrom):
                    self.add_imported(statement.module or "", alias.name)

    def add_imported(self, module: str, name: str) -> None:
        """Need what an import of cdam_fast brings; kernels/ comes whole, and of a module what is used of it."""
        package, _, below = module.partition(".")
        if package == PACKAGE and below and below != "kernels":
            self.add(below, name)

    def add_uses(self, module_name: str, statement: ast.stmt) -> None:
        modules = {
            alias.asname or alias.name: alias.name
            for other in self.module(module_name).statements
            if isinstance(other, ast.ImportFrom) and other.module == PACKAGE
            for alias in other.names
        }
        for node in ast.walk(statement):
            if isinstance(node, ast.Name):
                self.add(module_name, node.id)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    self.add_imported(node.module or "", alias.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                self.add(modules[node.value.id], node.attr)


# --- The folder ---------------------------------------------------------------------------------------------------


def package_files() -> dict[str, str]:
    """Text of each file of the package, by its path in it."""
    own = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "benchmarks" / OWN).glob("*.py"))}
    needed = Needed()
    present = {*(name.partition(".")[0] for name in own), "_ops", None}
    for text in own.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.level and node.module not in present:
                for alias in node.names:
                    needed.add(str(node.module), alias.name)
    files = dict(own)
    for name, module in sorted(needed.modules.items()):
        files[f"{name}.py"] = module.source(f"{PACKAGE}/{name}.py")
    for path in sorted((ROOT / "kernels").glob("*.py")):
        files[f"kernels/{path.name}"] = path.read_text(encoding="utf-8")
    return files


def generate(folder: Path, name: str, repo: str | None = None, unique_id: str | None = None) -> list[Path]:
    """Write the source of the kernel into a folder that is empty or not there; the files written."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"FOLDER: got {folder}, which is not empty; takes a folder that is empty or not there")
    package = name.replace("-", "_")
    hub = "" if repo is None else f'\n[general.hub]\nrepo-id = "{repo}"\n'
    files = {
        "build.toml": BUILD.format(name=name, hub=hub),
        "flake.nix": FLAKE,
        "CARD.md": CARD.replace("{repo}", repo or f"OWNER/{name}"),
        "LICENSE": (ROOT / "LICENSE").read_text(encoding="utf-8"),
    }
    files |= {f"torch-ext/{package}/{path}": text for path, text in package_files().items()}
    if unique_id is not None:
        files[f"torch-ext/{package}/_ops.py"] = OPS.format(package=package, unique_id=unique_id)
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return [folder / path for path in files]


def matching(pattern: str, takes: str):
    """A parser of an argument that has to match a pattern."""

    def parse(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise argparse.ArgumentTypeError(f"got {value!r}, takes {takes}")
        return value

    return parse


def main() -> None:
    """Write the folder and print what was written."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where to write; empty, or not there")
    parser.add_argument(
        "--name",
        default="cdam-attention",
        type=matching(r"[a-z][-a-z0-9]*[a-z0-9]", "small letters, digits and dashes, a letter first"),
        help="of the kernel (default: %(default)s)",
    )
    parser.add_argument(
        "--repo-id",
        metavar="OWNER/NAME",
        type=matching(r"[\w.-]+/[\w.-]+", "OWNER/NAME"),
        help="repository of the hub that kernel-builder uploads to (default: none)",
    )
    parser.add_argument(
        "--unique-id",
        metavar="ID",
        type=matching(r"[a-z0-9_]+", "small letters, digits and underscores"),
        help="also write _ops.py, which kernel-builder otherwise does, so that the package can be imported as it is",
    )
    options = parser.parse_args()
    try:
        written = generate(options.folder, options.name, options.repo_id, options.unique_id)
    except OSError as error:
        parser.error(str(error))
    for path in written:
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
