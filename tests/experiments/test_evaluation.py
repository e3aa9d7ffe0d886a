"""Evaluation on planted examples: the numbers must come out as they were put in."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from bvjax.chunking import ChunkGrid
from bvjax.errors import UserError
from data_pipelines.storyworld import COLOURS, PLACES, SPECIES, make_story, truth
from data_pipelines.storyworld.latents import chunk_truth
from experiments.evaluation import captions, drift, memory_scores, minutes, noise
from experiments.evaluation import reconstruction as rebuilds
from experiments.evaluation.cases import (
    find_cases,
    judged_frames,
    named_but_not_described,
    shows,
    story_cases,
)
from experiments.evaluation.judge import HEADS, Judge
from experiments.evaluation.judge_data import accuracy
from experiments.evaluation.memory import ARMS
from experiments.evaluation.results import Results
from experiments.evaluation.sightings import EMPTY, UNSURE, label_frames
from experiments.evaluation.table import table
from experiments.evaluation.under_test import SPLIT, UnderTest

ROOT = Path(__file__).parents[2]
FIRST = 1000
OVERRIDES = ("chunk.fps=2", "text.max_length=200", "memory.slots=16", "build.probe=full")


class Oracle(Judge):
    """Reads what `paint` has put into the pixels."""

    def logits(self, frames):
        pixels = frames[:, 0, 0]
        return {head: np.eye(8)[pixels[:, i]] for i, head in enumerate(HEADS)}


ORACLE = Oracle(None, {})


def paint(count, **labels):
    """Frames [count, 8, 8, 3] of which the oracle reads the labels."""
    pixel = [labels.get(head, 0) for head in HEADS]
    return np.broadcast_to(np.array(pixel, np.uint8), (count, 8, 8, 3)).copy()


@pytest.fixture(scope="module")
def tested(tiny):
    """The tiny model with chunks of 8 frames at 2 frames a second, as long as those of stories."""
    return UnderTest.load(tiny.weights, OVERRIDES)


@pytest.fixture(scope="module")
def cases(tested):
    return list(find_cases(FIRST, 4, tested.model))


# ---- judge --------------------------------------------------------------------------------------
def test_a_verdict_looks_only_where_it_may():
    video = np.concatenate([paint(3, species=5, colour=1), paint(2, species=2, colour=6, place=7)])
    early, late, never = np.arange(5) < 3, np.arange(5) >= 3, np.zeros(5, bool)
    found = ORACLE.verdict(
        np.stack([video] * 3), np.stack([early, late, never]), np.stack([late, early, late])
    )
    assert found["species"].tolist() == [5, 2, -1]
    assert found["colour"].tolist() == [1, 6, -1]
    assert found["place"].tolist() == [7, 0, 7]


def test_labels_of_frames():
    """One subject in full view, none, or unsure; by what truth says of the boxes."""
    seen = set()
    for seed in (2, 3):
        story = make_story(seed)
        facts = truth(story, range(0, 481, 7))
        labels = label_frames(story, facts, 64, 64)
        touching = (facts.boxes[..., 0] < 64) & (facts.boxes[..., 2] > 0)
        np.testing.assert_array_equal(labels.species == EMPTY, ~touching.any(1))
        for i in np.flatnonzero(labels.species >= 0):
            (who,) = np.flatnonzero(facts.visible[i])
            assert SPECIES[labels.species[i]] == story.subjects[who].species
            assert COLOURS[labels.colour[i]] == story.subjects[who].colour
        seen |= set(np.minimum(labels.species, 0).tolist())
    assert seen == {0, EMPTY, UNSURE}


# ---- cases --------------------------------------------------------------------------------------
def test_cases_are_what_they_claim(tested, cases):
    assert sum(case.kind == "subject" for case in cases) == 4
    assert len({case.key for case in cases}) == len(cases)
    for case in cases:
        story = make_story(case.seed, SPLIT)
        assert case.chunk - case.last_seen - 1 >= 5
        mask = judged_frames(story, case.chunk, case.kind, case.index, tested.model.chunk)
        assert mask[-1] and len(mask) == 8
        seen, place = chunk_truth(story, _grid(tested))
        wanted = shows(case, seen, place)
        assert wanted[case.first_seen - 1 : case.last_seen].any()
        assert not wanted[case.last_seen : case.chunk - 1].any()  # all that rolling can hold
        facts = truth(story, [0])
        if case.kind == "subject":
            subject = story.subjects[case.index]
            assert not facts.visible[0, case.index]
            assert subject.species == SPECIES[case.truth["species"]]
            assert subject.colour == COLOURS[case.truth["colour"]]
        else:
            assert facts.place[0] != case.truth["place"]


def test_a_description_on_return_spoils_a_case(cases):
    case = next(c for c in cases if c.kind == "subject")
    story = make_story(case.seed, SPLIT)
    assert named_but_not_described(story, case.kind, case.index, case.chunk)
    subject = story.subjects[case.index]
    for caption in (f"{subject.name} the {subject.colour} one comes back.", "Somebody comes back."):
        lines = list(story.captions)
        lines[case.chunk - 1] = caption
        edited = dataclasses.replace(story, captions=tuple(lines))
        assert not named_but_not_described(edited, case.kind, case.index, case.chunk)


def _grid(tested):
    return ChunkGrid.of(tested.model, 15)


# ---- captions and minutes on perfect and on wrong pictures --------------------------------------
def play(frames_of):
    """Stand-ins for `stream` and `decode_piece` that show planted frames."""

    def stream(params, model, conditions, key, **kwargs):
        for chunk_id in range(conditions.num_chunks + 1):
            ids = np.array([0, chunk_id - 3, chunk_id - 2, chunk_id - 1])
            report = types.SimpleNamespace(chunk_id=ids, valid=(ids > 0) | (np.arange(4) == 0))
            yield types.SimpleNamespace(chunk_id=chunk_id, latents=chunk_id, report=report)

    return stream, lambda params, model, state, chunk_id: (state, frames_of(chunk_id))


@pytest.mark.parametrize("wrong", [None, "colour", "place"])
def test_first_chunks_are_read_off(tested, monkeypatch, wrong):
    seed = next(s for s in range(FIRST, FIRST + 9) if _one_subject_alone(tested, s))
    story = make_story(seed, SPLIT)
    subject, home = story.subjects[story.chunks[0].subjects[0]], story.chunks[0].place
    labels = {
        "species": SPECIES.index(subject.species),
        "colour": COLOURS.index(subject.colour),
        "place": PLACES.index(story.places[home].kind),
    }
    if wrong:
        labels[wrong] = (labels[wrong] + 1) % 8
    stream, decode = play(lambda chunk: paint(8 if chunk else 1, **labels))
    monkeypatch.setattr(captions, "stream", stream)
    monkeypatch.setattr(captions, "decode_piece", decode)
    record = captions.first_chunk(tested, ORACLE, seed, 0)
    assert record["right"] == {head: head != wrong for head in HEADS}
    result = captions.summary({"a": record, "b": record})
    assert result["all"]["rate"] == (0.0 if wrong else 1.0)
    assert result["both"]["rate"] == (0.0 if wrong == "colour" else 1.0)


def _one_subject_alone(tested, seed):
    story = make_story(seed, SPLIT)
    who = story.chunks[0].subjects
    return len(who) == 1 and judged_frames(story, 1, "subject", who[0], tested.model.chunk).any()


def test_a_minute_is_judged_where_things_return(tested, cases, monkeypatch):
    case = next(c for c in cases if c.kind == "subject")
    story, mine = make_story(case.seed, SPLIT), story_cases(case.seed, tested.model)
    mine = [c for c in mine if c.key == case.key]
    seen, place = chunk_truth(story, _grid(tested))
    item = {"seen": seen, "place": place, "relevance": np.zeros((15, 15))}
    right = dict(species=case.truth["species"], colour=case.truth["colour"])
    other = dict(right, colour=(right["colour"] + 1) % 8)

    def shown(chunk):  # drawn wrong at first, and wrong in the same way on return
        if chunk in (case.first_seen, case.chunk):
            return paint(8, **other)
        return paint(8 if chunk else 1, **right)

    stream, decode = play(shown)
    monkeypatch.setattr(minutes, "stream", stream)
    monkeypatch.setattr(minutes, "decode_piece", decode)
    minute = minutes.generate_minute(tested, story, "semantic", 0)
    assert len(minute.frames) == 1 + 15 * 8
    assert minute.retrieved[case.chunk - 1] == [case.chunk - 3]  # top-l = 1, behind the anchor
    (record,) = minutes.judge_minute(tested, ORACLE, story, mine, minute, item).values()
    assert record["right"] == {"species": True, "colour": False}
    assert record["same"] in (True, None) and record["hit"] is False
    minute.retrieved[case.chunk - 1] = [case.first_seen, case.last_seen]
    minute.frames[:] = paint(1, **right)
    (record,) = minutes.judge_minute(tested, ORACLE, story, mine, minute, item).values()
    assert record["right"] == {"species": True, "colour": True} and record["hit"]
    result = minutes.summary(mine, {f"semantic {case.seed}": {"cases": {case.key: record}}})
    assert result["semantic"]["subject"]["recall"]["all"]["rate"] == 1.0


def test_arms_of_minutes_change_what_they_say(tested):
    models = {arm: change(tested.model) for arm, change in minutes.ARMS.items()}
    assert models["semantic"] == tested.model
    assert not models["none"].memory.anchor and models["rolling"].memory.anchor
    entries = {
        a: m.retrieval.num_retrieved + m.retrieval.num_recent
        for a, m in models.items()
        if a != "full"
    }
    assert len(set(entries.values())) == 1
    assert models["full"].retrieval.num_recent == 14
    assert {m.retrieval.kind for m in models.values()} == {
        "semantic",
        "rolling",
        "oracle",
        "random",
        "none",
    }


# ---- scores -------------------------------------------------------------------------------------
def test_recall_needs_species_and_colour(cases):
    subjects = [c for c in cases if c.kind == "subject"]
    good = {"right": {"species": True, "colour": True}, "hit": True, "sharpness": 0.5}
    half = {**good, "right": {"species": True, "colour": False}}
    records = {
        subjects[0].key: {"semantic": good, "rolling": half},
        subjects[1].key: {"semantic": good, "rolling": good},
        subjects[2].key: {"semantic": half},
    }
    result = memory_scores.summary(cases, records)
    semantic, rolling = (result["arms"][arm]["subject"] for arm in ("semantic", "rolling"))
    assert semantic["recall"]["all"]["n"] == 3 and rolling["recall"]["all"]["n"] == 2
    assert semantic["recall"]["all"]["rate"] == pytest.approx(2 / 3)
    assert semantic["species"]["rate"] == 1.0 and rolling["colour"]["rate"] == 0.5
    assert semantic["chance"] == 1 / 64
    assert result["arms"]["semantic"]["sharpness"]["mean"] == 0.5
    assert result["semantic - rolling"]["mean"] == 0.5  # over the two that both have
    split = semantic["recall"]
    assert split["same species beside"]["n"] + split["no such other"]["n"] == 3


def test_psnr_of_subjects_is_that_of_their_pixels():
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    rebuilt, masks = frames.copy(), np.zeros((2, 16, 16), bool)
    masks[0, :8] = True  # the second frame shows no subject
    rebuilt[:, :8] += 51
    np.testing.assert_allclose(rebuilds.subject_psnr(frames, rebuilt, masks), [13.9794], atol=1e-4)
    rows = {"a": {"psnr": 30.0, "ssim": 0.9, "subject_psnr": None}}
    assert rebuilds.summary(rows)["subject_psnr"]["n"] == 0


def test_drift_of_steady_and_of_blurring_videos():
    noise = np.random.default_rng(0).integers(0, 256, (1, 24, 24, 3), dtype=np.uint8)
    steady = np.repeat(noise, 30, axis=0)
    fading = np.stack([(f * (1 - i / 60)).astype(np.uint8) for i, f in enumerate(steady)])
    records = {"rendered 1": drift.drift_record(steady), "rolling 1": drift.drift_record(fading)}
    result = drift.summary(records)
    assert result["rendered"]["clarity"]["vde"]["mean"] == pytest.approx(0, abs=1e-9)
    assert result["rolling"]["clarity"]["vde"]["mean"] > 1
    # Nothing moves in the steady one, so its motion has no first value to compare with.
    assert result["rendered"]["motion"]["vde"]["infinite"] == 1


# ---- files --------------------------------------------------------------------------------------
def test_replay_is_of_what_moves_and_of_the_same_place_in_the_chunk():
    rng = np.random.default_rng(0)
    still = rng.integers(80, 120, (1, 8, 8, 3), dtype=np.uint8)
    moves = rng.integers(0, 80, (6, 8, 8, 3), dtype=np.uint8)
    other = rng.integers(0, 80, (6, 8, 8, 3), dtype=np.uint8)
    assert noise.replay(still + moves, 3 * still // 2 + moves) == pytest.approx(1.0)
    assert abs(noise.replay(still + moves, still + moves[[1, 2, 3, 4, 5, 0]])) < 0.3
    assert abs(noise.replay(still + moves, still + other)) < 0.15
    assert np.isnan(noise.replay(np.repeat(still, 6, axis=0), still + moves))


def test_arms_of_noise_are_made_and_measured(tested, monkeypatch):
    """Every arm has its noise, and a minute of 15 chunks has 14 joins."""
    seen, fps = [], tested.model.chunk.fps
    frames = np.random.default_rng(1).integers(0, 256, (1 + 15 * 4 * fps, 16, 16, 3), np.uint8)

    def generated(tested, story, arm, seed):
        seen.append((tested.model.noise.base, tested.model.noise.shuffle, arm))
        return minutes.Minute(frames, [])

    monkeypatch.setattr(noise, "generate_minute", generated)
    for arm in noise.ARMS:
        record = noise.noise_record(noise.with_noise(tested, arm), make_story(1000, "heldout"), 0)
        assert len(record["replay"]) == len(record["seam"]) == 14
    assert seen == [("independent", 0, "semantic")] + [("shared", s, "semantic") for s in (0, 2, 4)]
    result = noise.summary({"rendered | 1": record, "rendered | 2": {**record, "replay": [1.0]}})
    assert result["rendered"]["replay"]["mean"] == pytest.approx(
        0.5 + np.mean(record["replay"]) / 2
    )


def test_results_go_on_only_where_they_belong(tmp_path):
    path, mark = tmp_path / "sub" / "out.json", {"weights": {"dit": "a"}, "seed": 0}
    results = Results(path)
    results.records("memory", mark)["case"] = {"semantic": 1}
    results.save()
    again = Results(path)
    assert again.records("memory", mark) == {"case": {"semantic": 1}} and again.parts == {}
    again.finish("memory", {"x": 1}, {"command": "c"})
    assert Results(path).parts["memory"]["result"] == {"x": 1}
    with pytest.raises(UserError, match="another seed"):
        Results(path).records("memory", {**mark, "seed": 1})
    path.write_text("{")
    with pytest.raises(UserError, match="delete it to start again"):
        Results(path)


def test_every_part_has_a_table(cases):
    record = {"right": dict.fromkeys(HEADS, True), "hit": True, "sharpness": 0.5}
    arms = memory_scores.summary(cases, {c.key: {"semantic": record} for c in cases})
    first = {"right": dict.fromkeys(HEADS, True), "unseen": False}
    whole = {c.key: {**record, "same": None} for c in cases}
    flat = {"clarity": [1.0] * 10, "motion": [0.0] * 10}
    hits = dict.fromkeys(HEADS, True)
    results = {
        "reconstruction": rebuilds.summary(
            {"1": {"psnr": 30.0, "ssim": 0.9, "subject_psnr": 25.0}}
        ),
        "judge": accuracy([{"rendered": hits, "reconstructed": hits, "unseen": False}]),
        "captions": captions.summary({"1": first}),
        "memory": arms,
        "minutes": minutes.summary(cases, {"semantic 1": {"cases": whole}}),
        "drift": drift.summary({"rendered 1": flat}),
        "noise": noise.summary(
            {"rendered | 1": {**flat, "replay": [0.5], "seam": [1.0, 2.0, 3.0]}}
        ),
    }
    about = {"command": "python", "device": "cpu"}
    text = table({part: {"result": r, "provenance": about} for part, r in results.items()})
    assert text.count("### ") == 7 and "100.0 %" in text and "1 infinite" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| video")}
    assert widths == {8}
    about = {"provenance": about}
    for part, result in results.items():
        for wrong in ([], None, {"x": 1}, dict.fromkeys(result)):
            for stored in ({"result": wrong, **about}, {"result": result}, wrong):
                with pytest.raises(UserError, match=f"the results of part '{part}' are not what"):
                    table({part: stored})


def test_arms_of_return_chunks():
    assert list(ARMS) == [
        "semantic",
        "rolling",
        "oracle",
        "random",
        "none",
        "semantic, no anchor",
        "rolling, no anchor",
        "oracle, no anchor",
        "random, no anchor",
    ]
    assert not ARMS["none"].anchor
    assert [arm.anchor_setting for arm in ARMS.values()] == ["on"] * 5 + ["off"] * 4


def test_the_command_in_words(tmp_path):
    """Its flags clash with nobody's, and what is wrong is said in one sentence."""
    command = [sys.executable, "-m", "experiments.evaluate"]
    command.append(f"--table={tmp_path}/none.json")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: there is no results file")
    done = subprocess.run(
        [*command[:-1], "--arms=semantic,best"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: there is no arm 'best'; the arms are")


def test_stories_of_another_length_are_refused(tiny):
    with pytest.raises(UserError, match="chunk.frames=32"):
        UnderTest.load(tiny.weights)
    with pytest.raises(UserError, match="no vae weights"):
        dataclasses.replace(UnderTest.load(tiny.weights, OVERRIDES), params={}).need("vae")
