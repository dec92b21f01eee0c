"""The Space's three files, as a host reads them."""

import importlib.util
import re
import runpy
from pathlib import Path

import pytest

from cdam_fast.demo.session import Session

FOLDER = Path(__file__).parents[2] / "docs" / "space"


def header():
    _, block, _ = (FOLDER / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return dict(line.split(": ", 1) for line in block.splitlines())


def test_app_starts_nothing_when_it_is_imported(monkeypatch):
    asked = []
    monkeypatch.setattr(Session, "load", lambda *arguments: asked.append(arguments))
    app = runpy.run_path(str(FOLDER / "app.py"), run_name="app")
    assert asked == []
    app["load"]()
    assert asked == [("ViT-B-16", "laion2b_s34b_b88k")]


def test_app_serves_every_address_on_the_hosts_port(monkeypatch):
    served = []
    monkeypatch.setattr(Session, "load", lambda *arguments: "model")
    monkeypatch.setattr("cdam_fast.demo.server.serve", lambda *arguments: served.append(arguments))
    runpy.run_path(str(FOLDER / "app.py"), run_name="__main__")
    assert served == [("model", "0.0.0.0", 7860, 20_000_000, print)]


def test_header_names_what_is_there():
    found = header()
    assert found["sdk"] == "gradio"
    assert (FOLDER / found["app_file"]).is_file()
    assert int(found["sdk_version"].split(".")[0]) >= 6
    assert len(found["short_description"]) <= 60
    assert re.fullmatch('"3\\.1[0-3]"', found["python_version"])


def test_requirements_are_the_package_with_its_page():
    lines = (FOLDER / "requirements.txt").read_text(encoding="utf-8").split("\n")
    assert "cdam_fast[demo]" in lines


@pytest.mark.skipif(importlib.util.find_spec("yaml") is None, reason="no yaml")
def test_header_is_yaml():
    import yaml

    block = (FOLDER / "README.md").read_text(encoding="utf-8").split("---\n", 2)[1]
    assert set(yaml.safe_load(block)) == set(header())
