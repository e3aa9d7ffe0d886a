"""Stories of several shots: what ground truth says at a cut, captions, and single takes that stay as they are."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from bvjax.loading.bundle import ASSETS
from bvjax.story import parse_story
from bvjax.tokenizer import unknown_words
from data_pipelines.storyworld import PLACES, make_story, mentions, render, truth
from data_pipelines.storyworld.cuts import as_json, cuts_of

SEEDS = range(40)
# Of the stories of seeds 0 to 39, as they were before there were cuts.
HASH = "ad96435d069bee5c6e71ff70e266e2d9c4af6ecdc4facea5797e73b5161e4287"


def test_a_single_take_is_what_it_was():
    """By its own hash: the scripts and captions of forty stories."""
    texts = [repr([(dataclasses.replace(c, cut=False), t) for c, t in zip(s.chunks, s.captions, strict=True)])
             for s in (make_story(seed) for seed in SEEDS)]  # fmt: skip
    without = [text.replace(", cut=False", "") for text in texts]
    assert hashlib.sha256("".join(without).encode()).hexdigest() == HASH
    assert not any(chunk.cut for seed in SEEDS for chunk in make_story(seed).chunks)


def test_cuts_replace_pans():
    count = 0
    for seed in SEEDS:
        take, shots = make_story(seed), make_story(seed, shots=True)
        cuts = cuts_of(shots)
        pans = {i for i, chunk in enumerate(take.chunks, start=1) if chunk.travel}
        assert set(cuts) <= pans and bool(cuts) == bool(pans)
        assert make_story(seed, shots=True) == shots
        count += len(cuts)
        for i, (a, b) in enumerate(zip(take.chunks, shots.chunks, strict=True), start=1):
            if i not in cuts:
                assert a == b and take.captions[i - 1] == shots.captions[i - 1]
            else:
                assert not b.travel and b.slot0 == b.slot1 == a.slot1
        story = parse_story(as_json(shots))
        assert story.chunk_cuts(4.0) == tuple(number - 1 for number in cuts)
    assert count > 40


def test_truth_at_a_cut():
    """The last frame before it shows the old place, the first one the new place with its cast in it."""
    for seed in range(6):
        story = make_story(seed, shots=True)
        for number in cuts_of(story):
            first = 1 + 32 * (number - 1)
            facts = truth(story, [first - 1, first, first + 31])
            before, after = story.chunks[number - 2], story.chunks[number - 1]
            kinds = [PLACES.index(story.places[c.place].kind) for c in (before, after, after)]
            assert facts.place.tolist() == kinds
            assert np.flatnonzero(facts.visible[1]).tolist() == sorted(after.subjects)


def test_pictures_change_at_once():
    story = make_story(0, shots=True)
    first = 1 + 32 * (cuts_of(story)[0] - 1)
    frames = render(story, [first - 2, first - 1, first, first + 1]).astype(np.float32)
    still, cut, again = (np.abs(frames[i + 1] - frames[i]).mean() for i in range(3))
    assert cut > 5 * max(still, again)


def test_captions_of_cuts_say_what_is_new_in_words_that_are_known():
    known = set((ASSETS / "mini" / "vocabulary.txt").read_text().split())
    for seed in SEEDS:
        story = make_story(seed, shots=True)
        for number in cuts_of(story):
            chunk, caption = story.chunks[number - 1], story.captions[number - 1]
            told = mentions(caption)
            place = story.places[chunk.place]
            assert told["toponyms"] == {place.toponym}
            assert (place.kind in told["places"]) == chunk.place_introduced
            assert told["names"] == {story.subjects[b.subject].name for b in chunk.actions}
            new = {story.subjects[s].species for s in chunk.introduced if s in chunk.subjects}
            assert told["species"] == new
            assert not unknown_words([caption.partition(" (")[0]], known)
