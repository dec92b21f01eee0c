"""`cdam-fast bench --roofline`, and the documentation's tables of it and of `--scaling`."""

import json
from pathlib import Path

import pytest

from cdam_fast import SCALES, cli, testing
from cdam_fast.measuring import roofline

ROOT = Path(__file__).parents[2]
NAMES = ("scaling-cpu-amd-epyc-2-cores.json", "roofline-cpu-amd-epyc-2-cores.json")


def test_a_tiny_roofline(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(roofline, "ROUNDS", 2)
    monkeypatch.setattr(roofline, "_LARGE", 1 << 20)
    path = tmp_path / "roofline.json"
    assert (
        cli.main(["bench", "--roofline", "--device", "cpu", "--grid", "8x10", "--classes", "90", "--json", str(path)])
        == 0
    )
    assert "on a GPU: not measured" in capsys.readouterr().out
    written = json.loads(path.read_text())
    stages = {row["stage"]: row for row in written["stages"]}
    assert list(stages) == ["distributions", "divergence", "resize", "attention"]
    for row in stages.values():
        assert row["share"] == pytest.approx(row["least"] / row["seconds"])
    # every scale's N x N map is read and written, and the sum over scales is read
    assert stages["attention"]["work"] == 7 * 3 * 4 * 80**2
    grids = [(int(8 * scale), int(10 * scale)) for scale in SCALES]
    assert stages["distributions"]["work"] == 4 * 90 * sum(80 + height * width for height, width in grids)
    assert stages["resize"]["work"] == 4 * sum((height * width) ** 2 + 80**2 for height, width in grids[:-1])
    assert written["product_flop_per_s"] > 0


def test_a_divergence_by_the_definition_has_no_product():
    similarity = testing.clip_like(70, 6, 6, batch=(1,), spread=1.0)
    parts, notes = roofline._parts(similarity)
    assert "definition" in notes["divergence"]
    assert any(part.least is None for part in parts if part.stage == "divergence")


def test_kernels_are_held_against_the_floor_of_the_quickest_way():
    floors = {"divergence": [(24e-6, "special"), (12e-6, "tensor")], "attention": [(4e-6, "issue"), (4e-6, "issue")]}
    rows = roofline.gpu_rows({"divergence_kernel": 30e-6, "attention_kernel": 5e-6}, floors)
    assert [(row.stage, row.seconds, row.share, row.note) for row in rows] == [
        ("distributions", None, None, ""),
        ("divergence", 30e-6, pytest.approx(0.4), "tensor"),
        ("attention", 5e-6, pytest.approx(0.8), "issue"),
    ]
    report = roofline.RooflineReport({"grid": [28, 28], "classes": 161, "device_name": "a GPU", "threads": 1}, rows)
    assert "not measured" in [str(cell) for cell in roofline.table(report).columns[1].cells]


# --- the tables of the documentation


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("exponents", 0, "axis"), "height", "exponents[0].axis is 'height'"),
        (("exponents", 0, "low"), "low", "exponents[0].low is 'low'"),
        (("base", "grid"), [9], "base has grid [9]"),
        (("rows", 0, "seconds"), None, "rows[0].seconds is 'None'"),
        (("exponents", 0, "high"), None, "exponents[0].high is 'None'"),
        (("exponents", 0, "sizes", 1), "49", "exponents[0].sizes holds '49'"),
        (("rows", 0, "seconds", 0), [], "rows[0].seconds holds '[]'"),
        (("rows", 0, "cpu_seconds", 0), None, "rows[0].cpu_seconds holds 'None'"),
        (("rows", 0, "batch"), 0, "rows[0] has grid"),
        (("device_name",), 3, "device_name is '3'"),
    ],
    ids=str,
)
def test_a_damaged_file_is_named(place, value, named, tmp_path, capsys):
    content = json.loads((ROOT / "benchmarks" / "results" / NAMES[0]).read_text())
    entry = content
    for key in place[:-1]:
        entry = entry[key]
    entry[place[-1]] = value
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert cli.main(["bench", "--from", str(tmp_path / "a.json")]) == 2
    assert f"a.json: is damaged: {named}" in capsys.readouterr().err


def test_the_documentation_holds_what_is_printed_for_the_committed_files(capsys):
    assert cli.main(["bench", "--from", *(str(ROOT / "benchmarks" / "results" / name) for name in NAMES)]) == 0
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    printed = capsys.readouterr().out.strip().split("\n\n")
    assert len(printed) >= 5
    for part in printed:
        assert f"\n\n{part}\n\n" in f"{page}\n"
