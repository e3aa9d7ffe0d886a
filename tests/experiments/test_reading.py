"""Pictures for eyes: what is asked, how sheets are laid out, how answers are counted."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.presets import get_preset
from data_pipelines.storyworld.captions import mentions
from experiments.evaluation import pictures, sheets
from experiments.evaluation.judge import HEADS


def test_what_is_asked_shows_one_subject_that_its_caption_describes():
    tested = SimpleNamespace(model=get_preset("mini"))
    found = [item for i in range(6) if (item := pictures.asked(i, tested)) is not None]
    assert len(found) >= 4
    for item, named in zip(found, pictures.answers(found), strict=True):
        told = mentions(item.caption)
        assert told["species"] == {named["species"]} and told["colours"] == {named["colour"]}
        assert item.pixels.shape == (64, 64, 3)
    again = pictures.asked(0, tested)
    assert again is not None and again.caption == found[0].caption


def test_pictures_are_judged_by_their_truth():
    class Echo:
        """Says species 0, colour 1 and place 2 of everything."""

        def verdict(self, frames, subject, place):
            assert frames.shape == (2, 1, 8, 8, 3) and subject.all() and place.all()
            return {head: np.full(2, i) for i, head in enumerate(HEADS)}

    items = [
        pictures.Asked(
            "", np.zeros((8, 8, 3), np.uint8), dict(species=0, colour=c, place=2), c == 1
        )
        for c in (1, 3)
    ]
    records = pictures.judge_pictures(Echo(), items, np.zeros((2, 8, 8, 3), np.uint8))
    assert records == [
        {"right": {"species": True, "colour": True, "place": True}, "unseen": True},
        {"right": {"species": True, "colour": False, "place": True}, "unseen": False},
    ]


def test_sheets_hold_every_picture_once_and_enlarged():
    frames = np.zeros((18, 8, 8, 3), np.uint8)
    frames[17] = (255, 0, 0)
    pages = sheets.sheets(frames)
    assert len(pages) == 2
    red = (np.asarray(pages[1]) == (255, 0, 0)).all(-1)
    assert red.sum() == (8 * sheets.SCALE) ** 2


KEY = [{"species": "fox", "colour": "red"}, {"species": "owl", "colour": "blue"}]


def test_answers_are_counted_and_silence_is_wrong():
    result = sheets.count_answers(KEY, "number,species,colour\n1,Fox, red\n2,owl,cannot tell\n")
    assert [result[head]["rate"] for head in ("species", "colour", "both")] == [1.0, 0.5, 0.5]
    assert sheets.count_answers(KEY, "2,fox,blue")["species"]["rate"] == 0.0
    assert sheets.count_answers(KEY, "")["both"] == {"rate": 0.0, "n": 2} | {
        bound: sheets.count_answers(KEY, "")["both"][bound] for bound in ("low", "high")
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3,fox,red", "from 1 to 2"),
        ("1,fox", "number,species,colour"),
        ("1,cat,red", "'cat' is none of"),
    ],
)
def test_what_is_no_answer_is_refused(line, message):
    with pytest.raises(UserError, match=message):
        sheets.count_answers(KEY, line)
