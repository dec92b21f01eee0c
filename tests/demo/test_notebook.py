"""The notebook of the docs: every cell but the installation runs, in order; nothing is stored in it."""

import importlib.util
import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


def cells():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def is_install(cell):
    return "install" in cell["metadata"].get("tags", [])


def test_cells_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for number, cell in enumerate(cells()):
        if cell["cell_type"] == "code" and not is_install(cell):
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "SCLIP with CDAM {" in printed
    assert float(printed.split("largest difference: ")[1].split()[0]) < 1e-4  # the map's own tests are stricter
    assert list(tmp_path.iterdir()) == []


def test_the_first_cell_of_code_installs_and_no_other_has_a_magic():
    first, *others = (cell for cell in cells() if cell["cell_type"] == "code")
    assert is_install(first)
    assert first["source"] == ["%pip install -q cdam_fast"]
    for cell in others:
        compile("".join(cell["source"]), "cell", "exec")


def test_nothing_is_stored():
    for cell in cells():
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


@pytest.mark.skipif(importlib.util.find_spec("nbformat") is None, reason="no nbformat")
def test_format():
    import nbformat

    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))
