"""`cdam-fast bench --scaling`: exponents, what is left out, the float64 rows, and a tiny run."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from cdam_fast import SCALES, cli, testing
from cdam_fast.measuring import exponents, scaling, scaling_plan
from cdam_fast.measuring.exact_rows import exact_rows, some_rows
from cdam_fast.measuring.measure import COMPILED, EAGER
from cdam_fast.measuring.scaling_plan import Point, ScalingOptions

CPU = torch.device("cpu")
TINY = [
    *("bench", "--scaling", "grid=9,10x12", "classes=5,6,12", "scales=1,2,3,7", "batch=1,2"),
    *("--grid", "9", "--classes", "6", "--device", "cpu", "--runs", "3", "--seconds", "30", "--compile", "none"),
]


# --- the exponent


def test_an_exact_power_law_has_its_exponent_and_no_interval():
    sizes = [14, 20, 28, 40, 56]
    found = exponents.fit_exponent(sizes, [3e-4 * size**2.5 for size in sizes])
    assert found.exponent == pytest.approx(2.5)
    assert found.low == pytest.approx(2.5, abs=1e-9)
    assert found.high == pytest.approx(2.5, abs=1e-9)
    assert found.sizes == (14, 20, 28, 40, 56)


def test_the_interval_by_hand():
    """Logarithms 0, 1, 2 with values 0, 1, 3: slope 3/2, residuals 1/6, -1/3, 1/6, so 1/6 / 1 / 2 and t of 1."""
    found = exponents.fit_exponent([1, math.e, math.e**2], [1, math.e, math.e**3])
    assert found.exponent == pytest.approx(1.5)
    assert found.high - found.exponent == pytest.approx(12.706 * math.sqrt(1 / 12), rel=1e-4)
    assert found.exponent - found.low == pytest.approx(12.706 * math.sqrt(1 / 12), rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_exponent_and_interval_are_scipys(seed):
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(seed)
    sizes = np.unique(random.integers(2, 5000, 4 + 3 * seed))
    values = 0.01 * sizes**1.3 * np.exp(0.2 * random.standard_normal(len(sizes)))
    line = stats.linregress(np.log(sizes), np.log(values))
    half = stats.t.ppf(0.975, len(sizes) - 2) * line.stderr
    found = exponents.fit_exponent(sizes.tolist(), values.tolist())
    assert found.exponent == pytest.approx(line.slope)
    assert (found.low, found.high) == pytest.approx((line.slope - half, line.slope + half), rel=1e-4)


def test_students_quantiles():
    assert exponents.student_quantile(1) == pytest.approx(12.706, rel=1e-4)  # of printed tables
    assert exponents.student_quantile(8) == pytest.approx(2.306, rel=1e-4)
    assert exponents.student_quantile(30) == pytest.approx(2.042, rel=2e-4)
    assert exponents.student_quantile(10**6) == pytest.approx(1.95996, rel=1e-5)
    stats = pytest.importorskip("scipy.stats")
    for degrees in (*range(1, 40), 100):
        assert exponents.student_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-4)
    with pytest.raises(ValueError, match="degrees: got 0"):
        exponents.student_quantile(0)


def test_points_near_the_floor_are_left_out():
    """Time 3 + size^2 with a floor of 3: from size 3 on it is three times the floor, and the exponent is nearly 2."""
    sizes = [1, 2, 3, 10, 20, 40]
    values = [3 + size**2 for size in sizes]
    found = exponents.fit_axis(sizes, values, floor=3)
    assert found.sizes == (3, 10, 20, 40)
    assert found.exponent == pytest.approx(np.polyfit(np.log(sizes[2:]), np.log(values[2:]), 1)[0])
    assert exponents.fit_axis(sizes, values).sizes == (1, 2, 3, 10, 20, 40)
    assert exponents.fit_axis(sizes, values, floor=150) == "1 of 6 points over the floor"
    assert exponents.fit_axis([1, 2], [1, 2]) == "2 of 2 points"


def test_what_is_there_at_size_zero():
    assert exponents.at_size_zero([40, 20, 80], [14, 11, 90]) == pytest.approx(8)  # 3 for every 20
    assert exponents.at_size_zero([1, 2], [1, 3]) == 0
    assert exponents.at_size_zero([1], [1]) == 0


@pytest.mark.parametrize(
    ("sizes", "values"), [([1, 2], [1, 2]), ([1, 2, 3], [1, 2]), ([2, 2, 2], [1, 2, 3]), ([1, 2, 3], [1, 0, 3])]
)
def test_what_has_no_exponent_is_refused(sizes, values):
    with pytest.raises(ValueError, match="sizes: got"):
        exponents.fit_exponent(sizes, values)


# --- float64 rows


@pytest.mark.parametrize("scales", [SCALES, (0.5,), (1.0,), SCALES[-2:]], ids=str)
def test_rows_are_the_oracles(scales):
    similarity = testing.clip_like(11, 9, 13, batch=(2,), seed=3)
    rows = some_rows(9 * 13, 10)
    assert rows[0] == 0
    assert rows[-1] == 116
    exact = testing.oracle(similarity, scales=scales)[:, rows]
    assert float((exact_rows(similarity, rows, scales=scales) - exact).abs().max()) < 1e-12


def test_flat_rows_are_the_oracles():
    similarity = testing.degenerate("two regions", 7, 8, 9, seed=1)[None]
    rows = torch.arange(72)
    assert torch.allclose(exact_rows(similarity, rows), testing.oracle(similarity), atol=1e-12)


def test_few_patches_give_few_rows():
    assert some_rows(1, 8).tolist() == [0]
    assert {0, 2} <= set(some_rows(3, 8).tolist()) <= {0, 1, 2}


# --- the plan


def test_pair_classes_are_counted():
    # 28 at the largest two scales: 24 x 24 and 28 x 28
    assert Point((28, 28), 10, 2, 3).pair_classes == 3 * 10 * (24**4 + 28**4)
    assert Point((8, 6), 2, 1, 1).pair_classes == 2 * 48**2


def test_more_seconds_allow_more_and_nothing_is_lost(monkeypatch):
    monkeypatch.setattr(scaling_plan, "eager_unit", lambda: 1e-8)
    monkeypatch.setattr(scaling_plan, "available_memory", lambda device: 1e10)
    plans = [
        scaling_plan.make_plan(ScalingOptions(CPU, seconds=seconds, compile="largest")) for seconds in (20, 200, 1e9)
    ]
    counts = [sum(len(names) for _, names in plan.points) for plan in plans]
    assert 0 < counts[0] < counts[1] < counts[2]
    for plan in plans:
        assert counts[2] + len(plans[2].left_out) == sum(len(names) for _, names in plan.points) + len(plan.left_out)
        assert plan.points[0][0] == Point()
    assert plans[0].seconds <= 20
    assert all("GB" in why for why in plans[2].left_out.values())
    assert plans[2].left_out[Point((96, 96)), EAGER] == "needs about 164 GB"
    compiled = [point for point, names in plans[2].points if COMPILED in names]
    assert sorted(point.grid for point in compiled) == [(14, 14), (20, 20), (28, 28)]


# --- a run


def test_a_tiny_run(tmp_path, capsys):
    path, plot = tmp_path / "scaling.json", tmp_path / "scaling.png"
    assert cli.main([*TINY, "--json", str(path), "--plot", str(plot)]) == 0
    captured = capsys.readouterr()
    assert "Triton: not measured, no GPU" in captured.out
    assert "takes about" in captured.err
    written = json.loads(path.read_text())
    assert written["interrupted"] is False
    assert written["base"] == {"grid": [9, 9], "classes": 6, "scales": 7, "batch": 1}
    points = {(tuple(row["grid"]), row["classes"], row["scales"], row["batch"]) for row in written["rows"]}
    base = ((9, 9), 6, 7, 1)
    assert points == {
        base, ((8, 8), 6, 7, 1), ((10, 12), 6, 7, 1), ((9, 9), 5, 7, 1), ((9, 9), 12, 7, 1),
        *(((9, 9), 6, scales, 1) for scales in (1, 2, 3)), ((9, 9), 6, 7, 2),
    }  # fmt: skip
    assert len(written["rows"]) == 2 * len(points)
    for row in written["rows"]:
        assert row["status"] == "ok"
        assert row["checked"] == "map"
        assert len(row["seconds"]) >= 2
        assert len(row["yardstick"]) == 9
        assert row["memory_bytes"] >= 4 * row["batch"] * (row["grid"][0] * row["grid"][1]) ** 2
    fits = {(fit["axis"], fit["backend"], fit["quantity"]): fit for fit in written["exponents"]}
    assert fits["scales", "eager", "time"]["sizes"] == [1, 2, 3, 7]
    assert fits["batch", "eager", "time"]["exponent"] is None  # of two points
    for fit in fits.values():
        assert fit["exponent"] is None or fit["low"] <= fit["exponent"] <= fit["high"]
    with Image.open(plot) as drawn:
        assert drawn.format == "PNG"


def test_rows_are_checked_where_the_map_is_too_large(monkeypatch, tmp_path):
    monkeypatch.setattr(scaling, "WHOLE_MAP", 0)
    path = tmp_path / "scaling.json"
    assert cli.main([*TINY, "--json", str(path)]) == 0
    checked = {(row["batch"], row["checked"]) for row in json.loads(path.read_text())["rows"]}
    assert {batch for batch, _ in checked} == {1, 2}
    assert all("rows" in word and ("of 2 images" in word) == (batch == 2) for batch, word in checked)


@pytest.mark.parametrize("whole", [0, 10**8], ids=["rows", "map"])
def test_a_wrong_map_has_no_time(whole, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(scaling, "WHOLE_MAP", whole)
    right = scaling.cdam_attention
    monkeypatch.setattr(scaling, "cdam_attention", lambda *inputs, **options: right(*inputs, **options).mT.contiguous())
    path = tmp_path / "scaling.json"
    assert cli.main([*TINY, "--json", str(path)]) == 1
    rows = [row for row in json.loads(path.read_text())["rows"] if row["backend"] == "portable"]
    assert {(row["status"], len(row["seconds"])) for row in rows} == {("wrong", 0)}
    assert "portable, wrong: " in capsys.readouterr().out


def test_an_interrupt_keeps_what_is_done(monkeypatch, tmp_path):
    first, calls = scaling.time_round, []

    def interrupt(*inputs):
        calls.append(1)
        if len(calls) > 8:
            raise KeyboardInterrupt
        first(*inputs)

    monkeypatch.setattr(scaling, "time_round", interrupt)
    path = tmp_path / "scaling.json"
    assert cli.main([*TINY, "--json", str(path)]) == 130
    written = json.loads(path.read_text())
    assert written["interrupted"] is True
    rows = [row for row in written["rows"] if row["seconds"]]
    assert len(rows) == 4
    assert all(row["p50_ms"] > 0 for row in rows)


def test_an_interrupt_before_the_first_point(monkeypatch, tmp_path):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(scaling_plan, "make_plan", interrupt)
    path, plot = tmp_path / "scaling.json", tmp_path / "scaling.png"
    assert cli.main([*TINY, "--json", str(path), "--plot", str(plot)]) == 130
    written = json.loads(path.read_text())
    assert (written["interrupted"], written["rows"]) == (True, [])
    assert plot.stat().st_size > 0


def test_time_that_is_over_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(scaling.time, "monotonic", iter(range(0, 10**6, 20)).__next__)
    path = tmp_path / "scaling.json"
    assert cli.main([*TINY, "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [row["status"] for row in rows].count("ok") == 2
    assert {row["note"] for row in rows if row["status"] != "ok"} == {"the 30 s were over"}
    assert "the 30 s were over" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--scaling", "height"], "--scaling: got 'height', takes each of grid, classes, scales, batch once"),
        (["--scaling", "grid", "grid=14"], "--scaling: got 'grid=14', takes each of"),
        (["--scaling", "grid=14,14"], "--scaling: got 'grid=14,14', takes each size once"),
        (["--scaling", "grid=3"], "--scaling: got 'grid=3', takes N or HxW from 4 to 256"),
        (["--scaling", "classes=0"], "--scaling: got 'classes=0', takes whole numbers from 1"),
        (["--scaling", "scales=8"], "--scaling: got 'scales=8', takes whole numbers from 1 to 7"),
        (["--scaling", "batch="], "--scaling: got 'batch=', takes whole numbers from 1"),
        (["--scaling", "--classes", "VOC21"], "--classes: got 'VOC21', takes one whole number from 1 to 100000"),
        (["--scaling", "--batch", "0"], "--batch: got 0, takes a whole number from 1"),
        (["--scaling", "--runs", "0"], "--runs: got 0, takes a whole number from 1"),
        (["--scaling", "--seconds", "0"], "--seconds: got 0, takes a positive number"),
        (["--scaling", "--seconds", "nan"], "--seconds: got nan, takes a positive number"),
        (["--scaling", "--json", "missing_folder/a.json"], "--json: cannot write missing_folder"),
        (["--scaling", "--image", "a.png"], "--image: takes no --scaling as well"),
        (["--scaling", "--end-to-end"], "--end-to-end: takes no --scaling as well"),
        (["--scaling", "--compare", "a", "b"], "--scaling: takes no --compare as well"),
        (["--seconds", "3"], "--seconds: goes with --scaling only"),
        (["--roofline", "--batch", "2"], "--batch: takes no --roofline as well"),
        (["--roofline", "--classes", "20,40"], "--classes: got '20,40', takes one whole number"),
        (["--roofline", "--grid", "2"], "--grid: got '2'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_options_are_refused_by_name(arguments, named, capsys):
    assert cli.main(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith(f"cdam-fast bench: error: {named}")
