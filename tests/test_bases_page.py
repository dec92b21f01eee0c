"""The page about base methods: its blocks run one after the other, as a reader would copy them."""

import pytest
from documentation import ROOT, blocks

from cdam_fast import Base
from cdam_fast.models import BASES

PAGE = "docs/bases.md"
pytestmark = pytest.mark.filterwarnings("ignore:threshold:UserWarning")


def test_the_blocks_run(capsys):
    namespace = {}
    for block in blocks(PAGE):
        exec(compile("\n" * block.line + block.code, PAGE, "exec"), namespace)
    assert capsys.readouterr().out.startswith("base 'forgetful', attend: got shape (1, ")
    assert namespace["result"].labels.shape == (120, 160)
    tower, pixels = namespace["segmenter"].tower, namespace["pixels"]
    shorter = Base("shorter", namespace["attend"], False, False, run=namespace["shorter"]).prepare(tower, pixels)
    assert shorter.residual.shape[1] == shorter.grid[0] * shorter.grid[1]


def test_the_custom_base_is_of_ten_lines_at_most():
    first = next(block for block in blocks(PAGE) if block.heading == "A base of your own")
    assert len([line for line in first.code.splitlines() if line.strip()]) <= 10


def test_every_base_is_in_the_table():
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for name in BASES)
