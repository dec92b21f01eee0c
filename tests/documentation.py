"""The code blocks of the documentation, as a reader would copy them."""

import re
import sys
import types
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Block(NamedTuple):
    """One fenced block."""

    file: str
    line: int
    heading: str
    language: str
    code: str


def blocks(file):
    """Every fenced block of a Markdown file, in order."""
    found, heading, start, language, lines = [], "", 0, "", []
    for number, line in enumerate((ROOT / file).read_text(encoding="utf-8").splitlines(), 1):
        if start:
            if line.startswith("```"):
                found.append(Block(file, start, heading, language, "\n".join(lines) + "\n"))
                start = 0
            else:
                lines.append(line)
        elif line.startswith("```"):
            start, language, lines = number, line[3:].strip(), []
        elif re.match("#+ ", line):
            heading = line.lstrip("# ")
    assert not start, f"{file}:{start}: a block that does not end"
    return found


def recipe(heading, file="docs/recipes.md"):
    """The one Python block below a heading."""
    (found,) = [block for block in blocks(file) if block.heading == heading and block.language == "python"]
    return found


def execute(block, monkeypatch, modules=None, **names):
    """Run a block in a namespace of its own; modules: what it can import besides, as name -> {attribute: value}."""
    for name, attributes in (modules or {}).items():
        module = types.ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    namespace = dict(names)
    padding = "\n" * block.line  # tracebacks name the file's own lines
    exec(compile(padding + block.code, block.file, "exec"), namespace)
    return namespace
