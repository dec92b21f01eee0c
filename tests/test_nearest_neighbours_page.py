"""The blocks of docs/nearest-neighbours.md, one after the other in one namespace, as a reader runs them."""

import importlib.util
import re

import documentation
import pytest

from cdam_fast import isometry

PAGE = "docs/nearest-neighbours.md"


def test_blocks_run_in_a_row():
    pytest.importorskip("sklearn", minversion="1.3")
    namespace = {}
    for block in documentation.blocks(PAGE):
        assert block.language == "python"
        if "import faiss" in block.code and importlib.util.find_spec("faiss") is None:
            continue  # not in the dev extra
        exec(compile("\n" * block.line + block.code, PAGE, "exec"), namespace)
    assert namespace["points"].shape == (2_000, 120)
    assert len(set(namespace["labels"].tolist())) == 8


def test_features_of_a_class_are_as_printed():
    text = (documentation.ROOT / PAGE).read_text(encoding="utf-8")
    rtols, counts = (
        re.search(rf"^\| {name} \|(.*)\|$", text, re.MULTILINE)[1].split("|")
        for name in ("`rtol`", "features of a class")
    )
    for rtol, count in zip(rtols, counts):
        assert isometry.choose_spectrum(float(rtol.split()[0])).features == int(count)
