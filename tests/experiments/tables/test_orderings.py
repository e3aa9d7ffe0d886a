"""Which of the paper's orderings hold: cases by hand."""

from __future__ import annotations

import dataclasses

import pytest

from experiments.tables import published
from experiments.tables.measures import MEASURES
from experiments.tables.orderings import (
    HOLDS,
    NOT_JUDGED,
    OPEN,
    REVERSED,
    Ordering,
    judged,
    published_orderings,
    sentence,
)
from experiments.tables.rows import TABLES, Row, Table

STORIES = range(12)
ROWS = (Row("good", familiar=True), Row("bad", familiar=True), Row("strange"))
TABLE = Table(
    9,
    "By hand",
    ROWS,
    "good",
    ("VDE Clarity", "Image Quality"),
    ("vde/clarity", "level/clarity"),
    {"good": (1.0, 0.9), "bad": (2.0, 0.8), "strange": (3.0, 0.8)},
)


def values(**means):
    """Values of rows by name, of 12 stories that all differ by the same."""

    def look(row, tuned, measure):
        mean = means.get(f"{row.name}{'_tuned' * tuned}")
        return None if mean is None else {s: mean + 0.001 * s for s in STORIES}

    return look


def test_the_papers_orderings_by_hand():
    """Less is better of VDE, more of quality; equal numbers order nothing."""
    found = {(o.first, o.second, o.column) for o in published_orderings(TABLE)}
    assert found == {
        ("good", "bad", "VDE Clarity"),
        ("good", "strange", "VDE Clarity"),
        ("bad", "strange", "VDE Clarity"),
        ("good", "bad", "Image Quality"),
        ("good", "strange", "Image Quality"),
    }


def test_verdicts():
    """The values are the same for both columns, so that one of them is the other way round."""
    orderings = judged(TABLE, values(good=1.0, bad=2.0, strange=3.0))
    verdicts = {(o.first, o.second, o.column): o.verdict for o in orderings}
    assert verdicts["good", "bad", "VDE Clarity"] == HOLDS
    assert verdicts["good", "bad", "Image Quality"] == REVERSED
    assert verdicts["good", "strange", "VDE Clarity"] == NOT_JUDGED  # never trained so
    text = sentence(orderings, 12)
    assert text == (
        "Of the paper's 5 orderings of two rows by a column, 1 holds here (good before bad by VDE Clarity); 1 is the "
        "other way round (good before bad by Image Quality); none cannot be told with 12 stories; 3 are not judged, "
        "since a row shows the model what its training never did and is not fine-tuned, or was not measured."
    )


def test_fine_tuned_rows_decide_where_both_are():
    look = values(good=1.0, bad=2.0, good_tuned=2.0, bad_tuned=1.0, strange_tuned=3.0)
    found = {(o.first, o.second): o for o in judged(TABLE, look) if o.column == "VDE Clarity"}
    assert found["good", "bad"].verdict == REVERSED and found["good", "bad"].tuned
    assert found["good", "strange"].verdict == HOLDS


def test_what_is_alike_cannot_be_told():
    orderings = judged(TABLE, values(good=1.0, bad=1.0))
    assert [o.verdict for o in orderings if o.second == "bad"] == [OPEN, OPEN]
    assert "none hold here; none are the other way round; 2 cannot be told" in sentence(
        orderings, 12
    )


def test_a_sentence_names_some_and_counts_the_rest():
    many = [Ordering(f"a{i}", "b", "VDE Clarity", "vde/clarity", HOLDS) for i in range(8)]
    text = sentence(many, 1)
    assert "8 hold here (a0 before b" in text and ", and 2 more)" in text and "1 story" in text
    assert sentence([], 3) == "The paper orders none of these rows."


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: str(table.number))
def test_tables_are_whole(table):
    """Each row of the paper is one of ours, has a number for each column, and the paper's best is its best."""
    names = [row.name for row in table.rows]
    assert len(set(names)) == len(names) and table.ours in table.published
    assert set(table.published) <= set(names)
    assert len(table.columns) == len(table.measures) and set(table.measures) <= set(MEASURES)
    assert all(len(numbers) == len(table.columns) for numbers in table.published.values())
    for row in table.rows:
        assert row.plan or row.why_not, row.name
        assert row.as_is or row.plan, row.name
    assert dataclasses.replace(table, rows=table.rows) == table


def test_the_papers_numbers_stand_where_they_should():
    """Some of them, read off the paper again."""
    vde = dict(zip(published.DRIFT, published.TABLE_5["Rolling KV"], strict=True))
    assert vde["VDE Motion"] == 0.0547
    skyreels = dict(
        zip(
            (*published.DRIFT, *published.QUALITY),
            published.TABLE_2["SkyReels-V2-DF"],
            strict=True,
        )
    )
    assert skyreels["VDE Clarity"] == 0.9365 and skyreels["Background Consistency"] == 0.9579
    moc = dict(zip(published.VBENCH, published.TABLE_3["MoC"], strict=True))
    assert moc["Dynamic Degree"] == 0.75 and moc["Background Consistency"] == 0.967
    assert published.TABLE_4["Cosine"] == published.TABLE_4["s=4"] == published.TABLE_6["Both"]
