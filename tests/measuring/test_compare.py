"""`cdam-fast bench --compare`: made-up files with rows that got slower, noise and drift, and files that are refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from cdam_fast import cli
from cdam_fast.measuring import compare

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def noisy(seconds, count=15, noise=0.05, seed=0, drift=(1.0, 1.0, 1.0)):
    """Times about so many seconds, whose thirds lie a factor apart."""
    random = np.random.default_rng(seed)
    values = seconds * np.exp(noise * random.standard_normal(count))
    for part, factor in zip(np.array_split(np.arange(count), 3), drift):
        values[part] *= factor
    return values.tolist()


def row(backend, seconds, status="ok", error=2e-6, class_list="VOC21", **more):
    return {"class_list": class_list, "classes": 101, "backend": backend, "status": status, "error": error,
            "seconds": seconds, **more}  # fmt: skip


def bench(*rows, **environment):
    return {"device": "cpu", "device_name": "a CPU", "threads": 2, "torch": "2.0.0", "grid": [28, 28], "batch": 1,
            **environment, "rows": list(rows)}  # fmt: skip


@pytest.fixture
def compared(tmp_path, capsys):
    """Exit status and what is printed for two such contents."""

    def compared(before, after):
        paths = []
        for name, content in (("a.json", before), ("b.json", after)):
            (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
            paths.append(str(tmp_path / name))
        status = cli.main(["bench", "--compare", *paths])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return compared


def changes_of(tmp_path):
    found = compare.compare(str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    return {change.key[-1] if change.key[-1] else change.key[-2]: change for change in found.changes}


def test_what_got_slower_and_faster_is_found_and_noise_is_not(compared, tmp_path):
    before = bench(
        row("eager", noisy(1.0, seed=1)),
        row("portable", noisy(0.02, seed=2)),
        row("triton", noisy(0.01, seed=3)),
        row("torch.compile", noisy(0.1, seed=4)),
    )
    after = bench(
        row("eager", noisy(1.0, seed=5)),
        row("portable", noisy(0.03, seed=6)),
        row("triton", noisy(0.005, seed=7)),
        row("torch.compile", noisy(0.1, seed=8)),
    )
    status, printed = compared(before, after)
    assert status == 1
    assert "SLOWER" in printed
    assert "1 slower, 1 faster, 1 as before" in printed
    changes = changes_of(tmp_path)
    assert [changes[name].verdict for name in ("eager", "portable", "triton", "torch.compile")] == [
        "the yardstick", "slower", "faster", "as before"
    ]  # fmt: skip
    portable = changes["portable"]
    medians = [np.median(part["rows"][i]["seconds"]) for part in (before, after) for i in (1, 0)]
    assert portable.ratio == pytest.approx(medians[2] / medians[3] / (medians[0] / medians[1]))
    assert portable.low < portable.ratio < portable.high
    assert portable.low < 1.5 < portable.high


def test_a_slower_day_of_the_machine_falls_out(compared, tmp_path):
    before = bench(row("eager", noisy(1.0, seed=1)), row("portable", noisy(0.02, seed=2)))
    after = bench(row("eager", noisy(2.0, seed=3)), row("portable", noisy(0.04, seed=4)))
    status, printed = compared(before, after)
    assert (status, "0 slower, 0 faster, 1 as before" in printed) == (0, True)
    assert changes_of(tmp_path)["portable"].drift == pytest.approx(2, rel=0.1)


def test_the_product_is_the_yardstick_where_both_have_one(compared, tmp_path):
    def made(eager, portable, product, seed):
        yardstick = {"yardstick": noisy(product, 9, seed=seed)}
        return bench(
            row("eager", noisy(eager, seed=seed + 1), **yardstick),
            row("portable", noisy(portable, seed=seed + 2), **yardstick),
        )

    status, _ = compared(made(1.0, 0.02, 0.01, 10), made(1.6, 0.02, 0.01, 20))
    changes = changes_of(tmp_path)
    assert status == 1
    assert {name: (change.verdict, change.yardstick) for name, change in changes.items()} == {
        "eager": ("slower", "product"),
        "portable": ("as before", "product"),
    }


def test_rounds_that_differ_widen_the_interval(compared, tmp_path):
    """A third more in a run whose rounds lie a factor of two apart is noise, and is none in a quiet run."""
    for drift, verdict in (((1.0, 1.4, 2.0), "as before"), ((1.0, 1.0, 1.0), "slower")):
        before = bench(row("portable", noisy(0.02, seed=1, noise=0.01, drift=drift)))
        after = bench(row("portable", noisy(0.027, seed=2, noise=0.01, drift=drift)))
        compared(before, after)
        assert changes_of(tmp_path)["portable"].verdict == verdict


def test_drift_that_row_and_yardstick_share_within_a_run_does_not_widen_it(compared, tmp_path):
    drift = (1.0, 1.4, 2.0)
    contents = [
        bench(
            row(
                "portable",
                noisy(seconds, seed=seed, noise=0.01, drift=drift),
                yardstick=noisy(0.01, 9, seed=seed + 1, noise=0.01, drift=drift),
            )
        )
        for seconds, seed in ((0.02, 1), (0.027, 3))
    ]
    assert compared(*contents)[0] == 1
    assert changes_of(tmp_path)["portable"].low > 1.2


def test_the_same_code_is_seldom_called_slower(compared, tmp_path):
    """Of 40 rows that did not change, at 95 % for all together, in two runs each."""
    for seed in range(3):
        contents = [
            bench(
                *(row("portable", noisy(0.02, seed=1000 * seed + 100 * run + i), class_list=str(i)) for i in range(40))
            )
            for run in range(2)
        ]
        status, printed = compared(*contents)
        assert (status, "40 as before" in printed) == (0, True)


def test_rows_of_one_file_and_other_versions_are_said(compared):
    status, printed = compared(
        bench(row("eager", noisy(1.0)), row("portable", noisy(0.1)), interrupted=True),
        bench(row("eager", noisy(1.0)), row("triton", noisy(0.1)), torch="2.1.0"),
    )
    assert status == 0
    assert "only in" in printed
    assert "a.json: VOC21, C = 101 portable" in printed
    assert "b.json: VOC21, C = 101 triton" in printed
    assert "torch: 2.0.0, then 2.1.0" in printed
    assert "a.json: interrupted" in printed


def test_too_few_calls_are_not_judged(compared, tmp_path):
    status, printed = compared(bench(row("portable", [1.0, 1.0])), bench(row("portable", [9.0, 9.0])))
    assert status == 0
    assert "0 slower, 0 faster, 0 as before, 1 not compared" in printed
    change = changes_of(tmp_path)["portable"]
    assert (change.verdict, change.ratio, change.low) == ("too few calls", 9.0, None)


@pytest.mark.parametrize(
    ("second", "verdict", "status"),
    [
        (row("portable", [], status="failed", error=None), "failed now", 1),
        (row("portable", noisy(0.1), error=4e-5), "wrong now", 1),
        (row("portable", [], status="does not fit", error=None), "ok, then does not fit", 0),
    ],
    ids=["failed", "wrong", "does not fit"],
)
def test_a_row_that_is_right_no_more(second, verdict, status, compared, tmp_path):
    assert compared(bench(row("portable", noisy(0.1))), bench(second))[0] == status
    assert changes_of(tmp_path)["portable"].verdict == verdict


def test_end_to_end_files(compared, tmp_path):
    def made(base, whole):
        names = ("class_list", "base", "step", "map", "status", "error", "seconds")
        rows = [
            dict(zip(names, ("VOC21", "sclip", "base", "", "ok", None, noisy(base, seed=1)))),
            dict(zip(names, ("VOC21", "sclip", "+ threshold", "cdam_fast", "ok", 1e-7, noisy(whole, seed=2)))),
        ]
        return bench(*rows)

    assert compared(made(1.0, 1.1), made(2.0, 2.2))[0] == 0
    assert {name: change.verdict for name, change in changes_of(tmp_path).items()} == {
        "base": "the yardstick", "cdam_fast": "as before"
    }  # fmt: skip
    assert compared(made(1.0, 1.1), made(1.0, 1.5))[0] == 1


def test_scaling_files(compared, tmp_path):
    def made(seconds):
        sizes = {"grid": [14, 20], "scales": 1, "batch": 2, "checked": "map"}
        return {"device_name": "a CPU", "rows": [row("portable", noisy(seconds, seed=1), **sizes)]}

    assert compared(made(0.1), made(0.2))[0] == 1
    (change,) = changes_of(tmp_path).values()
    assert change.key == ("14x20, C = 101, 1 scale, batch 2", "portable")
    assert change.yardstick == ""


def test_what_is_measured_here_can_be_compared(tmp_path, capsys):
    paths = [tmp_path / f"{number}.json" for number in range(2)]
    for path in paths:
        arguments = [
            "bench",
            "--scaling",
            "batch=1,2",
            "--device",
            "cpu",
            "--grid",
            "9",
            "--classes",
            "20",
            "--compile",
            "none",
        ]
        assert cli.main([*arguments, "--runs", "3", "--seconds", "30", "--json", str(path)]) == 0
    assert cli.main(["bench", "--compare", *map(str, paths)]) in (0, 1)
    assert "8x8, C = 20, 7 scales, batch 1" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cpu-amd-epyc-2-cores.json", "cpu-amd-epyc-2-cores-end-to-end.json"])
def test_a_file_with_itself(name, capsys):
    assert cli.main(["bench", "--compare", *[str(RESULTS / name)] * 2]) == 0
    assert "0 slower, 0 faster" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        (bench(row("portable", [1.0])), bench(row("portable", [1.0]), device_name="a GPU"), "device_name: "),
        (bench(row("portable", [1.0])), bench(row("portable", [1.0]), threads=4), "threads: "),
        (bench(row("portable", [1.0])), bench(row("portable", [1.0]), grid=[37, 37]), "grid: "),
        (bench(row("portable", [1.0])), bench(row("portable", [1.0]), weights="others"), "weights: "),
        (bench(row("portable", [1.0])), bench(row("portable", [1.0], class_list="Context60")), "have no row in common"),
        (
            bench(row("portable", [1.0])),
            bench(row("portable", [1.0], grid=[8, 8], scales=7, batch=1, checked="map")),
            "is of bench, ",
        ),
        (bench(row("portable", [1.0])), "{", "b.json: is no JSON"),
        (bench(row("portable", [1.0])), "[]", "b.json: is of no format that is known"),
        (bench(row("portable", [1.0])), bench(), "b.json: has no row: nothing was measured"),
        (bench(row("portable", [1.0], error=None)), bench(), "a.json: is damaged: rows[0].error is missing"),
        (bench({"call": "host"}), bench(), "a.json: is of no format that is known"),
        (bench(row("portable", [0.0])), bench(), "a.json: is damaged: rows[0].seconds holds '0.0'"),
        (bench(row("portable", "fast")), bench(), "a.json: is damaged: rows[0].seconds is 'fast', takes list"),
        (bench(row("portable", [1]), row("portable", [1])), bench(), "a.json: is damaged: rows[1] is of VOC21"),
        (bench(row("portable", [1.0], status=3)), bench(), "a.json: is damaged: rows[0].status is '3', takes str"),
        (
            bench(row("portable", [1.0], grid=[8, 0], scales=7, batch=1, checked="map")),
            bench(),
            "a.json: is damaged: rows[0] has grid [8, 0]",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) and len(value) > 2 else "",
)
def test_files_that_are_refused(before, after, named, compared):
    status, printed = compared(before, after)
    (line,) = printed.splitlines()
    assert status == 2
    assert line.startswith("cdam-fast bench: error: --compare: ")
    assert named in line


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert cli.main(["bench", "--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 2
    assert "--compare: " in (line := capsys.readouterr().err)
    assert "a.json: cannot be read: it is not there" in line


def test_other_options_are_refused(capsys):
    assert cli.main(["bench", "--json", "c.json", "--compare", "a.json", "b.json"]) == 2
    assert "--json: takes no --compare as well" in capsys.readouterr().err
