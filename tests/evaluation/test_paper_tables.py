"""The paper's numbers: what is printed of each table hangs together, but for the misprints that are named."""

import pytest

from cdam_fast.commands.tables import NUMBERS
from cdam_fast.evaluation.tables import AVERAGE, TABLES, paper_tables
from cdam_fast.evaluation.tables.comparison import STEPS
from cdam_fast.measuring.end_to_end import STEPS as TIMED_STEPS
from cdam_fast.measuring.end_to_end import paper_seconds

PAPER = paper_tables()
CLASS_LISTS = {"voc21": "VOC21", "context60": "Context60", "coco-object": "COCO-Object"}

WRONG_AVERAGES = {
    (11, "Kittler"),
    (17, "maskclip, class prediction"),
    (17, "maskclip, similarity"),
    (17, "clearclip, similarity"),
    (17, "gem, class prediction"),
    (17, "gem, similarity"),
}
WRONG_GAINS = {(1, "sclip + CDAM", "coco-object"), (2, "gem + CDAM", "cityscapes")}


def half_digit(table):
    """Half of the last printed digit."""
    return {"%": 0.05, "": 0.0005, "s": 0.0005}[table.unit] + 1e-9


def test_every_table_of_the_command_is_there():
    assert tuple(PAPER) == NUMBERS
    for table in PAPER.values():
        assert all(len(row) == len(table.columns) for row in table.rows.values()), table.number


def test_averages_are_those_of_their_rows():
    wrong = set()
    for number, table in PAPER.items():
        if table.columns[-1] == AVERAGE:
            for name, (*values, average) in table.rows.items():
                # the numbers were rounded, and so was their mean
                if abs(sum(values) / len(values) - average) > 2 * half_digit(table):
                    wrong.add((number, name))
    assert wrong == WRONG_AVERAGES


def test_gains_are_differences():
    wrong = set()
    for number, table in PAPER.items():
        for name, gains in table.gains.items():
            rows = zip(table.columns, table.rows[name.removesuffix(" + CDAM")], table.rows[name], gains)
            wrong |= {
                (number, name, column)
                for column, base, cdam, gain in rows
                if abs(cdam - base - gain) > 3 * half_digit(table)
            }
    assert wrong == WRONG_GAINS


def test_misprints_are_said():
    for number, row in WRONG_AVERAGES:
        assert row in " ".join(PAPER[number].misprints)
    for number, row, column in WRONG_GAINS:
        assert f"of {row.removesuffix(' + CDAM')} on {column}" in " ".join(PAPER[number].misprints)
    assert PAPER[16].rows["gem"] == PAPER[1].rows["gem"]  # of another model
    assert {number for number, table in PAPER.items() if table.misprints} == {1, 2, 11, 16, 17}


def test_harmonic_means_are_those_of_their_rows():
    for seen, unseen, both in PAPER[18].rows.values():
        assert 2 / (1 / seen + 1 / unseen) == pytest.approx(both, abs=0.1)


def test_tables_that_share_settings_share_numbers():
    """The whole of CDAM is in five tables, the bases alone in two."""
    whole = PAPER[1].rows["maskclip + CDAM"]
    assert whole == PAPER[13].rows["0.1"] == PAPER[14].rows["2.5"] == next(iter(PAPER[15].rows.values()))
    for base in ("maskclip", "sclip", "clearclip", "gem"):
        assert PAPER[1].rows[f"{base} + CDAM"] == PAPER[8].rows[f"{base} + CDAM, js"]
        assert PAPER[3].value("base", base) == PAPER[1].value(base, "voc21")
        assert PAPER[3].value("+ threshold", base) == PAPER[1].value(f"{base} + CDAM", "voc21")


@pytest.mark.parametrize("column", CLASS_LISTS)
def test_times_are_those_of_the_bench(column):
    for (base, step), seconds in paper_seconds(CLASS_LISTS[column]).items():
        if base == "maskclip":
            assert PAPER[6].value(step, column) == seconds
        if step in (TIMED_STEPS[0], TIMED_STEPS[-1]):
            assert PAPER[5].value(base if step == TIMED_STEPS[0] else f"{base} + CDAM", column) == seconds


def test_rows_that_are_measured_are_those_of_the_paper():
    for number, table in TABLES.items():
        assert [row.name for row in table.rows] == list(PAPER[number].rows)
    assert list(STEPS) == list(PAPER[3].rows) == list(PAPER[6].rows) == list(TIMED_STEPS)


def test_per_cent_are_fractions_of_one():
    assert PAPER[1].value("maskclip", "voc21") == 0.331
    assert PAPER[1].value("maskclip", "scenes") is None
    assert PAPER[1].value("no such row", "voc21") is None
    assert PAPER[11].value("Kapur", "context60") == -0.026
    assert PAPER[17].deviation("gem, similarity", "voc21") == 0.0089
    assert PAPER[17].deviation("gem, similarity", AVERAGE) is None
