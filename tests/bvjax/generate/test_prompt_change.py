"""Captions that change between chunks: what chunks are told, entries encoded anew, and cuts."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from bvjax import policies
from bvjax.errors import UserError
from bvjax.generate import steps
from bvjax.generate.checks import check_model
from bvjax.generate.conditions import Conditions
from bvjax.generate.prompt_change import shots_by_id, told
from bvjax.generate.rollout import rebuild_bank, rollout, stream

KEY = jax.random.key(3)


def conditions_of(kinds, seed=0):
    """Random states, alike for chunks of one kind."""
    rng = np.random.default_rng(seed)
    text = {kind: rng.normal(size=(64, 16)).astype(np.float32) for kind in sorted(set(kinds))}
    mean = {kind: rng.normal(size=16).astype(np.float32) for kind in sorted(set(kinds))}
    return Conditions(
        text=np.stack([text[kind] for kind in kinds]),
        embedding=np.stack([mean[kind] for kind in kinds]),
        null_text=np.zeros((1, 64, 16), np.float32),
    )


def test_interpolation_in_equal_steps(tiny):
    model = tiny.variant(prompt={"change": "interpolate", "chunks": 3})
    given = conditions_of("aabbbbb")
    a, b = given.text[0], given.text[2]
    want = [a, a, a + (b - a) / 4, a + (b - a) / 2, a + 3 * (b - a) / 4, b, b]
    result = told(given, model)
    np.testing.assert_allclose(result.text, np.stack(want), atol=1e-6)
    np.testing.assert_array_equal(result.embedding, given.embedding)  # what retrieval compares
    # Another change on the way begins from what was told by then; a cut changes at once.
    given = conditions_of("abcd")
    a, b, c, d = given.text
    second = a + (b - a) / 4
    result = told(given, model, cuts=[4]).text
    np.testing.assert_allclose(
        result, np.stack([a, second, second + (c - second) / 4, d]), atol=1e-6
    )
    assert told(given, tiny.model) is given  # hard


def test_rounds_of_recache(tiny):
    """Before chunk 4, whose caption is new, the two recent entries; never the anchor, nor past a cut."""
    model = tiny.variant(prompt={"change": "recache"})
    refreshed = lambda captions, cuts=(): {
        turn.emits[0]: [(e.chunk, e.caption, e.found_by) for e in turn.refresh]
        for turn in policies.rounds(model, len(captions), captions, cuts)
        if turn.refresh
    }
    assert refreshed([0, 0, 0, 3, 3]) == {4: [(2, 3, 1), (3, 3, 2)]}
    assert refreshed([0, 1, 1]) == {2: [(1, 1, 0)]}
    assert refreshed([0, 0, 0, 3, 3], cuts=[4]) == {}
    assert refreshed([0, 0, 0, 3, 3], cuts=[3]) == {4: [(3, 3, 2)]}
    hard = policies.rounds(tiny.model, 5, [0, 0, 0, 3, 3])
    assert not any(turn.refresh for turn in hard)
    assert shots_by_id(model, 5, [3]) == {1: 0, 2: 0, 3: 3, 4: 3, 5: 3}


@pytest.fixture(scope="module")
def pieces(tiny):
    """Conditions of two captions, and the pieces of a hard switch."""
    given = conditions_of("aaab")
    return given, list(stream(tiny.params["dit"], tiny.model, given, KEY))


def test_recached_entries_are_those_of_the_new_caption(tiny, pieces):
    """By value: the bank before chunk 4 is one whose chunks 2 and 3 were encoded under b, found by a."""
    given, hard = pieces
    model = tiny.variant(prompt={"change": "recache"})
    made = list(stream(tiny.params["dit"], model, given, KEY))
    for old, new in zip(hard[:4], made[:4], strict=True):
        np.testing.assert_array_equal(old.latents, new.latents)  # before the switch
    assert np.abs(np.asarray(hard[4].latents) - made[4].latents).max() > 1e-3
    latents = {piece.chunk_id: np.asarray(piece.latents) for piece in made}
    state = rebuild_bank(tiny.params["dit"], model, given, KEY, latents)
    by_hand = dataclasses.replace(given, text=given.text[[0, 3, 3, 3]])
    want = rebuild_bank(tiny.params["dit"], tiny.model, by_hand, KEY, latents)
    for name in ("keys", "values", "chunk_id", "embedding", "lengths"):
        np.testing.assert_array_equal(getattr(state.bank, name), getattr(want.bank, name), name)
    # resumed anywhere: the same chunks
    for stop in (3, 4):
        done = {i: latents[i] for i in range(stop)}
        again = list(stream(tiny.params["dit"], model, given, KEY, done=done))
        np.testing.assert_array_equal(again[-1].latents, latents[4])


def test_a_cut_drops_the_window_and_keeps_the_memory(tiny, pieces):
    """Chunk 4 sees the anchor and what it retrieves, chunk 3 among the candidates; no program is compiled again."""
    given, hard = pieces
    before = steps.denoise_program._cache_size()
    cut = list(stream(tiny.params["dit"], tiny.model, given, KEY, cuts=[3]))
    assert steps.denoise_program._cache_size() == before
    for old, new in zip(hard[:3], cut[:3], strict=True):
        np.testing.assert_array_equal(old.latents, new.latents)
    assert np.abs(np.asarray(hard[3].latents) - cut[3].latents).max() > 1e-3
    seen = {p.chunk_id: np.asarray(p.report.chunk_id).tolist() for p in cut if p.report is not None}
    # [anchor | one retrieved | two recent]
    assert seen[2] == [0, -1, -1, 1] and seen[3] == [0, 2, -1, -1] and seen[4][2:] == [-1, 3]
    assert seen[4][1] in (1, 2)
    latents = {piece.chunk_id: np.asarray(piece.latents) for piece in cut}
    done = {i: latents[i] for i in range(4)}
    again = list(stream(tiny.params["dit"], tiny.model, given, KEY, done=done, cuts=[3]))
    np.testing.assert_array_equal(again[-1].latents, latents[4])


def test_what_is_refused(tiny):
    given = conditions_of("ab")
    for sections, match in (
        ({"prompt": {"change": "fade"}}, "prompt.change is 'fade'; it can be hard, interpolate"),
        ({"prompt": {"chunks": 0}}, "prompt.chunks is 0; it must be 1 to"),
        (
            {"prompt": {"change": "recache"}, "memory": {"offload": "host"}},
            "prompt.change='recache' encodes entries again, and memory.offload='host'",
        ),
        (
            {"prompt": {"change": "recache"}, "policy": {"name": "lct"}},
            "prompt.change is 'recache', which policy lct does not do",
        ),
    ):
        with pytest.raises(UserError, match=match):
            check_model(tiny.variant(**sections))
    with pytest.raises(UserError, match="prompt.change='recache' depends on which captions"):
        rollout(tiny.params["dit"], tiny.variant(prompt={"change": "recache"}), given, KEY)
    with pytest.raises(UserError, match="the story has cuts, which policy lct does not make"):
        policies.check_cuts(tiny.variant(policy={"name": "lct"}), [2])
    with pytest.raises(UserError, match="the story has cuts, but with chunk.first='overlap'"):
        policies.check_cuts(tiny.overlap, [2])
