"""Jobs measured once, kept and gone on with; averages; the report's text."""

import json

import pytest

from cdam_fast.evaluation.tables import (
    AVERAGE,
    Job,
    Outcome,
    Plan,
    Planned,
    Value,
    fill,
    jobs_of,
    measure,
    write_tables,
)
from cdam_fast.evaluation.tables.run import CELLS


def job(name, measure, files=""):
    return Job(name, f"title of {name}", measure, files=files)


def found(number, images=3, **options):
    return lambda folder: {"miou": Value(number, images, **options)}


def refused(folder):
    raise AssertionError("measured again")


DATA_SETS = ("voc21", "context60", "coco-object")


def table_13(jobs, row="0.1"):
    """One row; None is a data set that is not there."""
    return Plan(13, tuple(Planned(row, name, one) for name, one in zip(DATA_SETS, jobs)), ("A note.",))


def cells_of(table):
    return {cell.column: cell for cell in table.cells}


def test_cells_with_one_setting_are_one_job():
    same = job("same", found(0.5))
    plans = [table_13([same, same, None]), table_13([job("same", refused), job("other", found(0.1)), None], "0.2")]
    assert [one.name for one in jobs_of(plans)] == ["same", "other"]
    assert jobs_of(plans)[0] is same


def test_average_where_all_are_measured(tmp_path):
    jobs = [job(str(number), found(number)) for number in (0.2, 0.3, 0.7)]
    outcomes = {}
    measure(jobs, tmp_path, None, outcomes)
    cells = cells_of(fill(table_13(jobs), outcomes))
    assert cells[AVERAGE].ours == pytest.approx(0.4)
    assert (cells[AVERAGE].paper, cells[AVERAGE].images, cells[AVERAGE].status) == (0.402, 9, "measured")
    assert (cells["voc21"].ours, cells["voc21"].paper) == (0.2, 0.559)
    without = cells_of(fill(table_13([*jobs[:2], None]), outcomes))
    assert (without[AVERAGE].ours, without[AVERAGE].status) == (None, "no data")
    assert (without["coco-object"].ours, without["coco-object"].paper) == (None, 0.343)


def test_scenes_are_not_in_the_average(tmp_path):
    jobs = [job(str(number), found(number)) for number in (0.2, 0.3, 0.7)]
    plan = table_13(jobs)
    plan = Plan(13, (*plan.cells, Planned("0.1", "scenes", job("scenes", found(1.0)))))
    outcomes = {}
    measure(jobs_of([plan]), tmp_path, None, outcomes)
    cells = cells_of(fill(plan, outcomes))
    assert cells[AVERAGE].ours == pytest.approx(0.4)
    assert (cells["scenes"].ours, cells["scenes"].paper) == (1.0, None)


def test_a_job_that_fails_ends_no_other(tmp_path):
    def fail(folder):
        raise ValueError("no such weights\nand more")

    def miss(folder):
        raise ModuleNotFoundError("No module named 'skimage'", name="skimage")

    jobs = [job("bad", fail), job("good", found(0.4)), job("none", found(None, 1)), job("missing", miss)]
    outcomes, heard = {}, []
    measure(jobs, tmp_path, None, outcomes, lambda one, outcome: heard.append((one.name, outcome.reason)))
    assert heard[:3] == [("bad", "no such weights"), ("good", None), ("none", None)]
    assert heard[3] == ("missing", 'skimage is not installed; pip install "cdam_fast[evaluation]"')
    cells = cells_of(fill(table_13(jobs), outcomes))
    assert [cells[name].status for name in DATA_SETS] == ["failed: no such weights", "measured", "no data"]


def test_second_run_measures_nothing(tmp_path):
    first, second = {}, {}
    value = Value(1 / 3, 7, 0.25)
    measure([job("one", lambda folder: {"miou": value})], tmp_path, 7, first)
    measure([job("one", refused)], tmp_path, 7, second)
    assert first == second == {"one": Outcome({"miou": value})}


@pytest.mark.parametrize("what", ["limit", "files", "failed", "damaged"])
def test_what_is_not_whole_is_measured_again(tmp_path, what):
    measure([job("one", found(0.1, failed=2 if what == "failed" else 0))], tmp_path, 7, {})
    if what == "damaged":
        (tmp_path / CELLS / "one.json").write_text('{"values": {"miou": {"num')
    outcomes = {}
    files = "others" if what == "files" else ""
    measure([job("one", found(0.2), files)], tmp_path, None if what == "limit" else 7, outcomes)
    assert outcomes["one"].values["miou"].number == 0.2


def test_an_interrupt_keeps_what_is_done(tmp_path):
    def interrupt(folder):
        raise KeyboardInterrupt

    jobs = [job("one", found(0.1)), job("two", interrupt), job("three", found(0.3))]
    outcomes = {}
    with pytest.raises(KeyboardInterrupt):
        measure(jobs, tmp_path, None, outcomes)
    cells = cells_of(fill(table_13(jobs), outcomes))
    assert [cells[name].status for name in DATA_SETS] == ["measured", "no data", "no data"]


def test_text_of_the_report(tmp_path):
    deviating = Plan(17, (Planned("maskclip, similarity", "voc21", job("x", found(0.7, deviation=0.0123)), "miou"),))
    jobs = [job("good", found(0.4321)), job("bad", refused), None]
    outcomes = {}
    measure([*jobs[:2], *jobs_of([deviating])], tmp_path, None, outcomes)
    table = table_13(jobs)
    table = Plan(13, (*table.cells, Planned("0.1", "scenes", jobs[0])), table.notes)
    seventeen = Plan(17, (*deviating.cells, *(Planned("maskclip, similarity", name) for name in DATA_SETS[1:])))
    write_tables([fill(table, outcomes), fill(seventeen, outcomes)], tmp_path, ["A head."], {"model": "m"})
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# The paper's tables\n\nA head.\n\n## Table 13. ")
    assert "| 0.1 | 43.2 / 55.9 | failed / 30.5 | no data / 34.3 | no data / 40.2 | 43.2 |\n" in text
    assert "\n\nA note.\n\nImages: 3.\n\nFailed: measured again.\n\n## Table 17. " in text
    assert "| maskclip, similarity | 70.0 ± 1.23 / 70.9 ± 0.44 | no data / 73.1 ± 0.34 |" in text
    assert "\n\nIn the paper: printed averages that are not" in text
    read = json.loads((tmp_path / "table-13.json").read_text(encoding="utf-8"))
    assert read["settings"] == {"model": "m"}
    assert read["unit"] == "fraction of 1"
    assert read["cells"][0] == {
        **{"row": "0.1", "column": "voc21", "ours": 0.4321, "paper": 0.559},
        **{"images": 3, "status": "measured"},
    }
    assert read["cells"][1]["status"] == "failed: measured again"


def test_a_deviation_of_nothing_is_one(tmp_path):
    outcomes = {}
    measure([one := job("x", found(0.7, deviation=0.0))], tmp_path, None, outcomes)
    plan = Plan(17, (Planned("maskclip, similarity", "voc21", one), Planned("maskclip, similarity", "context60")))
    cells = [cell.as_json() for cell in fill(plan, outcomes).cells]
    assert [cell.get("deviation") for cell in cells] == [0.0, None, None]


def test_failed_images_are_said(tmp_path):
    plan = table_13([job("one", found(0.5, failed=2, reason="a: mask a.png: is none")), None, None])
    outcomes = {}
    measure(jobs_of([plan]), tmp_path, None, outcomes)
    write_tables([fill(plan, outcomes)], tmp_path, [], {})
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Images failed and are in none of these numbers" in text
    assert "The first: a: mask a.png: is none." in text
    cell = json.loads((tmp_path / "table-13.json").read_text(encoding="utf-8"))["cells"][0]
    assert (cell["failed"], cell["reason"]) == (2, "a: mask a.png: is none")
