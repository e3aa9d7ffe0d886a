"""Scripts and captions of stories: the statistics that the memory experiments rest on."""

from __future__ import annotations

import re

import numpy as np
import pytest

from data_pipelines.storyworld import (
    COLOURS,
    HELD_OUT_COMBOS,
    NAMES,
    PLACES,
    SPECIES,
    TOPONYMS,
    WEATHERS,
    chunk_frames,
    make_story,
    mentions,
    num_frames,
    return_cases,
    truth,
    wordings,
)
from data_pipelines.storyworld.captions import standalone
from data_pipelines.storyworld.wordings import (
    ACTION_PHRASES,
    PLACE_PHRASES,
    TEMPLATES,
    WEATHER_PHRASES,
)

FPS = 4
N_STORIES = 20


@pytest.fixture(scope="module")
def stories():
    return [make_story(seed) for seed in range(N_STORIES)]


@pytest.fixture(scope="module")
def facts(stories):
    return [truth(story, fps=FPS) for story in stories]


@pytest.fixture(scope="module")
def cases(stories):
    return [return_cases(story, fps=2) for story in stories]


def test_vocabulary_is_large_enough_and_words_do_not_collide():
    assert len(SPECIES) >= 8 and len(COLOURS) >= 8 and len(PLACES) >= 8 and len(WEATHERS) >= 6
    assert len(NAMES) >= 24 and len(TOPONYMS) >= 16
    words = [*NAMES, *" ".join(TOPONYMS).split(), *SPECIES, *COLOURS, *PLACES, *WEATHERS]
    assert len({w.lower() for w in words}) == len(words)


def test_held_out_combos_are_a_latin_square():
    assert {s for s, _ in HELD_OUT_COMBOS} == set(SPECIES)
    assert {c for _, c in HELD_OUT_COMBOS} == set(COLOURS)
    assert len(HELD_OUT_COMBOS) == 8


def test_stories_are_functions_of_their_seed():
    assert make_story(3) == make_story(3)
    assert make_story(3) != make_story(4)
    assert make_story(3).captions != make_story(3, "heldout").captions


def test_train_never_uses_a_held_out_combo_and_heldout_flags_them(stories):
    assert not any(any(s.unseen_combos) for s in stories)
    flags = [f for seed in range(60) for f in make_story(seed, "heldout").unseen_combos]
    assert 0.04 < np.mean(flags) < 0.25


def test_chunk_one_shows_exactly_one_described_subject(stories, facts):
    for story, fact in zip(stories, facts, strict=True):
        opening = slice(0, 1 + 4 * FPS)
        assert fact.visible[opening, 0].all()
        assert not fact.boxes[opening, 1:].any()
        assert (fact.places_visible[opening].sum(1) == 1).all()
        mentioned, hero, where = mentions(story.captions[0]), story.subjects[0], story.places[0]
        assert mentioned["names"] == {hero.name} and mentioned["species"] == {hero.species}
        assert mentioned["colours"] == {hero.colour} and mentioned["toponyms"] == {where.toponym}
        assert mentioned["places"] == {where.kind} and mentioned["weathers"] == {
            story.chunks[0].weather
        }


def test_standalone_captions_tell_all_that_a_chunk_shows(stories):
    rng = np.random.default_rng(0)
    for story in stories:
        for index, chunk in enumerate(story.chunks):
            mentioned = mentions(standalone(rng, story, index, light=index % 2 == 0))
            cast, where = [story.subjects[s] for s in chunk.subjects], story.places[chunk.place]
            assert mentioned["names"] == {s.name for s in cast}
            assert mentioned["species"] == {s.species for s in cast}
            assert mentioned["colours"] == {s.colour for s in cast}
            assert mentioned["toponyms"] == {where.toponym} and mentioned["places"] == {where.kind}
            assert mentioned["weathers"] == ({chunk.weather} if index % 2 == 0 else set())


def test_second_subject_leaves_and_returns_alone(stories, cases):
    for story, result in zip(stories, cases, strict=True):
        mine = [c for c in result if c.kind == "subject" and c.index == 1]
        assert mine, story.seed
        case = mine[0]
        assert 2 <= case.first_seen_chunk <= 5
        assert case.chunk - case.last_seen_chunk - 1 >= 5


def test_distractors_and_place_returns_are_as_frequent_as_promised(stories, facts, cases):
    double = [
        any(o.species == s.subjects[1].species for o in s.subjects[:1] + s.subjects[2:])
        for s in stories
    ]
    assert 0.3 < np.mean(double) < 0.7
    for story, same, result in zip(stories, double, cases, strict=True):
        assert len({s.colour for s in story.subjects}) == len(story.subjects)
        for case in result:
            if case.kind == "subject" and case.index == 1:
                assert case.same_species_distractor == same
    elsewhere = [any(c.kind == "place" for c in result) for result in cases]
    assert np.mean(elsewhere) >= 0.4
    anywhere = []
    for fact in facts:
        seen = np.array(
            [fact.places_visible[list(chunk_frames(c, FPS))].any(0) for c in range(1, 16)]
        )
        gaps = [
            len(g)
            for p in seen.T
            for g in re.findall(r"(?<=1)0+(?=1)", "".join("01"[int(v)] for v in p))
        ]
        anywhere.append(max(gaps, default=0) >= 5)
    assert np.mean(anywhere) >= 0.5


def test_most_chunks_show_one_subject(stories):
    shown = [len(c.subjects) for s in stories for c in s.chunks]
    assert np.mean(np.array(shown) == 1) > 0.6
    assert {0, 1, 2} <= set(shown) and max(shown) == 2


def test_script_and_ground_truth_agree_on_who_is_seen(stories, facts):
    for story, fact in zip(stories, facts, strict=True):
        for c, chunk in enumerate(story.chunks):
            frames = list(chunk_frames(c + 1, FPS))
            seen = np.flatnonzero(fact.visible[frames].any(0))
            assert set(seen) == set(chunk.subjects), (story.seed, c + 1)
            end = PLACES.index(story.places[chunk.place].kind)
            assert (fact.place[frames[len(frames) // 2 :]] == end).all()


def test_camera_and_subjects_move_without_cuts(stories):
    story = next(s for s in stories if len(s.places) > 1)
    fact = truth(story, fps=24)
    assert np.abs(np.diff(fact.camera[:, 0])).max() < 0.07
    assert np.abs(np.diff(fact.camera[:, 2])).max() < 0.02
    on_stage = fact.boxes.any(-1)
    both = on_stage[1:] & on_stage[:-1]
    step = np.abs(np.diff(fact.boxes.mean(-1), axis=0))
    assert step[both].max() < 6.0


def test_captions_describe_once_and_name_ever_after(stories):
    for story in stories:
        met, been = set(), set()
        for caption, chunk in zip(story.captions, story.chunks, strict=True):
            mentioned = mentions(caption)
            assert mentioned["names"] == {story.subjects[i].name for i in chunk.subjects}
            new = [story.subjects[i] for i in chunk.subjects if i not in met]
            assert mentioned["species"] == {s.species for s in new}
            assert mentioned["colours"] == {s.colour for s in new}
            assert mentioned["accessories"] == {s.accessory for s in new} - {"none"}
            assert mentioned["toponyms"] == {story.places[chunk.place].toponym}
            first = chunk.place not in been
            assert mentioned["places"] == ({story.places[chunk.place].kind} if first else set())
            assert mentioned["weathers"] <= {chunk.weather}
            met |= set(chunk.subjects)
            been.add(chunk.place)


def test_captions_end_with_time_stamps_and_stay_short(stories):
    for story in stories:
        for c, caption in enumerate(story.captions):
            assert caption.endswith(f" ({4 * c:02d}s - {4 * c + 3:02d}s).")
            assert len(caption.split()) <= 28 and caption[0].isupper()
            assert not set("{}[]|") & set(caption) and "  " not in caption


def test_every_sentence_kind_has_twenty_wordings():
    assert {k: len(wordings(k)) for k in TEMPLATES if len(wordings(k)) < 20} == {}
    assert all(len(v) >= 5 for v in ACTION_PHRASES.values())


def test_phrases_mention_their_own_word_and_no_other():
    for kind, phrases in PLACE_PHRASES.items():
        for phrase in phrases:
            mentioned = mentions(phrase)
            assert mentioned.pop("places") == {kind} and not any(mentioned.values())
    for weather, phrases in WEATHER_PHRASES.items():
        for phrase in phrases:
            mentioned = mentions(phrase)
            assert mentioned.pop("weathers") == {weather} and not any(mentioned.values())
    for phrases in ACTION_PHRASES.values():
        assert not any(v for phrase in phrases for v in mentions(phrase).values())


@pytest.mark.parametrize("n_chunks", [1, 2, 5, 16, 75])
def test_any_length(n_chunks):
    story = make_story(1, n_chunks=n_chunks)
    assert len(story.captions) == len(story.chunks) == n_chunks
    assert num_frames(story, fps=8) == 1 + 32 * n_chunks
    shown = {i for c in story.chunks for i in c.subjects}
    assert shown == set(range(len(story.subjects)))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="split must be one of train, heldout"):
        make_story(0, "test")
    with pytest.raises(ValueError, match="n_chunks must be 1 to"):
        make_story(0, n_chunks=0)
    with pytest.raises(ValueError, match="seed must be 0 to"):
        make_story(-1)
    with pytest.raises(ValueError, match="count from 1"):
        chunk_frames(0)
