"""Staged stories: who is away for how long, what the last caption gives away, and what the numbers can be."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.loading.bundle import find_weights
from data_pipelines.storyworld import PLACES, chunk_frames, mentions, truth
from data_pipelines.storyworld.staged import PARAPHRASES, WORDINGS, Staging, staged_story

STAGINGS = (Staging(2, 2, 1), Staging(2, 3, 2), Staging(12, 8, 4), Staging(14, 3, 8), Staging(40))


@pytest.mark.parametrize("staging", STAGINGS, ids=str)
def test_who_returns_is_out_of_view_for_the_gap_and_alone_at_the_end(staging):
    for seed in (0, 1):
        story = staged_story(seed, staging)
        facts = truth(story, range(0, 1 + 32 * story.n_chunks, 2), height=64, width=64)
        boxes = facts.boxes[:, 1]
        touches = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 2] > 0) & (boxes[:, 0] < 64)
        chunk = np.maximum(0, np.arange(0, 1 + 32 * story.n_chunks, 2) - 1) // 32 + 1
        assert sorted(set(chunk[touches])) == [3, 4, 5 + staging.gap]
        late = np.isin(2 * np.arange(len(chunk)), chunk_frames(staging.returns)[16:])
        assert facts.visible[late, 1].all() and facts.visible[late].sum(1).max() == 1
        home = PLACES.index(story.places[min(1, staging.places - 1)].kind)
        assert (facts.place[late] == home).all()
        if staging.places > 1:  # the camera pans away from it in the first chunk of the gap
            away = (chunk > 5) & (chunk < staging.returns)
            assert not facts.places_visible[away, home].any()
            assert not facts.places_visible[chunk < 3, home].any()


@pytest.mark.parametrize("staging", STAGINGS, ids=str)
def test_everybody_and_every_place_is_shown_before_the_return(staging):
    story = staged_story(3, staging)
    before = story.chunks[:-1]
    assert story.n_chunks == staging.returns == staging.gap + 5
    assert {s for c in before for s in c.subjects} == set(range(staging.subjects))
    assert {c.place for c in before} == set(range(staging.places))
    assert len({s.colour for s in story.subjects}) == staging.subjects


def test_one_seed_has_one_cast_and_odd_seeds_two_of_a_species():
    for seed in range(6):
        small, large = (staged_story(seed, s) for s in (Staging(2, 2, 1), Staging(12, 8, 6)))
        assert small.subjects == large.subjects[:2] and small.places == large.places[:1]
        assert {c.weather for c in (*small.chunks, *large.chunks)} == {small.chunks[0].weather}
        species = [s.species for s in large.subjects]
        assert (species[0] == species[1]) == bool(seed % 2)
        assert len(set(species)) == 8 - seed % 2


def test_wordings_say_what_they_promise():
    vocabulary = set((find_weights("mini", None) / "vocabulary.txt").read_text().split())
    for seed in range(8):
        for places in (1, 2):
            stories = {w: staged_story(seed, Staging(2, 2, places), w) for w in WORDINGS}
            _, subject = stories["name"].subjects
            place = stories["name"].places[places - 1]
            for wording, story in stories.items():
                assert story.captions[:-1] == stories["name"].captions[:-1]
                assert story.captions[-1].endswith(" (24s - 27s).")
                said = mentions(story.captions[-1])
                named = wording != "description"
                assert (subject.name in said["names"]) == named
                assert (place.toponym in said["toponyms"]) == named
                assert (subject.species in said["species"]) != named
                assert (subject.colour in said["colours"]) != named
                assert (place.kind in said["places"]) != named
                words = story.captions[-1].split(" (")[0].lower().replace(",", "").split()
                assert set(words) <= vocabulary, words
    assert len(PARAPHRASES) > 1


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"gap": 1}, "a gap of 2 to 1000, not 1"),
        ({"subjects": 9}, "2 to 8 subjects, not 9"),
        ({"places": 0}, "1 to 8 places, not 0"),
        ({"gap": 6, "subjects": 6}, "too short for 6 subjects and 2 places; it must be 8 or more"),
    ],
)
def test_stagings_that_cannot_be(numbers, message):
    with pytest.raises(UserError, match=message):
        Staging(**numbers)


def test_other_wordings_are_refused():
    with pytest.raises(UserError, match="can be name, description, paraphrase"):
        staged_story(0, Staging(), "riddle")
    assert dataclasses.astuple(Staging()) == (12, 3, 2)
