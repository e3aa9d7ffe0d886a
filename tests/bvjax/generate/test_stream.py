"""Resumed anywhere a stream gives the same latents; a bank rebuilt is the bank that grew."""

import jax
import numpy as np
import pytest

from bvjax.generate import decoding, steps
from bvjax.generate.conditions import Conditions, encode_captions
from bvjax.generate.rollout import rebuild_bank, stream
from bvjax.tokenizer import Tokenizer

KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def conditions(tiny) -> Conditions:
    tokenizer = Tokenizer(tiny.weights / "tokenizer.model")
    return encode_captions(lambda: tiny.params["text"], tiny.model.text, tokenizer, tiny.captions)


def grow(params, model, conditions, **kwargs):
    """The pieces of a stream and the state of its bank after each write."""
    states = []
    commit = steps.write_program

    def record(*args, **options):
        state, report = commit(*args, **options)
        states.append(jax.tree.map(np.array, state))  # copied: the next write takes the buffers
        return state, report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "write_program", record)
        pieces = list(stream(params, model, conditions, KEY, **kwargs))
    return pieces, states


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_conditions(tiny, conditions):
    assert conditions.text.shape == (5, 64, 16) and conditions.embedding.shape == (5, 16)
    assert conditions.null_text.shape == (1, 64, 16)
    tokenizer = Tokenizer(tiny.weights / "tokenizer.model")
    _, mask = tokenizer.encode([*tiny.captions, ""], 64)
    rows = np.concatenate([conditions.text, conditions.null_text])
    np.testing.assert_array_equal(np.any(rows != 0, axis=-1), mask)
    means = [row[m].mean(0) for row, m in zip(rows, mask, strict=True)][:-1]
    np.testing.assert_allclose(conditions.embedding, means, atol=1e-5)
    alone = encode_captions(
        lambda: tiny.params["text"], tiny.model.text, tokenizer, tiny.captions[3:4]
    )
    np.testing.assert_array_equal(alone.text[0], conditions.text[3])
    negative = tiny.captions[3]
    told = encode_captions(lambda: tiny.params["text"], tiny.model.text, tokenizer, (), negative)
    np.testing.assert_array_equal(told.null_text[0], conditions.text[3])


@pytest.fixture(scope="module")
def plain(tiny, conditions):
    return grow(tiny.params["dit"], tiny.model, conditions)


def test_resume_anywhere(tiny, conditions, plain):
    pieces, _ = plain
    for stop in range(1, len(pieces)):
        done = {piece.chunk_id: piece.latents for piece in pieces[:stop]}
        again = list(stream(tiny.params["dit"], tiny.model, conditions, KEY, done=done))
        assert [piece.fresh for piece in again] == [i >= stop for i in range(len(pieces))]
        for old, new in zip(pieces, again, strict=True):
            equal(old.latents, new.latents)
            equal(old.report, new.report)


def test_rebuilt_bank_is_the_grown_one(tiny, conditions, plain):
    pieces, states = plain
    for stop in range(1, len(pieces) + 1):
        latents = {piece.chunk_id: piece.latents for piece in pieces[:stop]}
        equal(
            rebuild_bank(tiny.params["dit"], tiny.model, conditions, KEY, latents), states[stop - 1]
        )
    lengths = states[-1].bank.lengths
    assert lengths.min(axis=2).max() < tiny.model.memory.capacity  # something was dropped


def test_an_entry_is_a_function_of_its_chunk_alone(tiny, conditions, plain):
    pieces, states = plain
    changed = {piece.chunk_id: piece.latents for piece in pieces}
    changed[1] = changed[1] + 1.0
    state = rebuild_bank(tiny.params["dit"], tiny.model, conditions, KEY, changed)
    slots = {int(c): s for s, c in enumerate(states[-1].bank.chunk_id[0])}
    assert np.abs(state.bank.keys[:, :, slots[1]] - states[-1].bank.keys[:, :, slots[1]]).max() > 0
    for chunk_id in (0, 2, 3, 4, 5):
        equal(state.bank.keys[:, :, slots[chunk_id]], states[-1].bank.keys[:, :, slots[chunk_id]])


@pytest.mark.slow
def test_entries_that_see_their_context_and_a_second_bank(tiny, conditions):
    model = tiny.variant(
        build={"context": "with"}, guidance={"bank": "two"}, sampler={"kind": "euler"}
    )
    params = tiny.params["dit"]
    pieces, states = grow(params, model, conditions)
    latents = {piece.chunk_id: piece.latents for piece in pieces}
    last = rebuild_bank(params, model, conditions, KEY, latents)
    equal(last, states[-1])
    done = {c: latents[c] for c in range(3)}
    for old, new in zip(pieces, stream(params, model, conditions, KEY, done=done), strict=True):
        equal(old.latents, new.latents)
    # the null bank holds the same tokens of the same chunks, but not the same keys
    equal(last.bank.positions, last.null_bank.positions)
    equal(last.bank.chunk_id, last.null_bank.chunk_id)
    assert np.abs(last.bank.keys - last.null_bank.keys).max() > 1e-3
    # an entry depends on those before it
    changed = latents | {1: latents[1] + 1.0}
    other = rebuild_bank(params, model, conditions, KEY, changed)
    slot = int(np.flatnonzero(other.bank.chunk_id[0] == 2)[0])
    assert np.abs(other.bank.keys[:, :, slot] - last.bank.keys[:, :, slot]).max() > 1e-4


def test_joined_chunks_count_from_zero(tiny, conditions):
    model, params = tiny.joined, tiny.params["dit"]
    pieces, states = grow(params, model, conditions)
    assert [piece.chunk_id for piece in pieces] == [0, 1, 2, 3, 4]
    assert {piece.latents.shape for piece in pieces} == {(2, 4, 4, 16)}
    assert pieces[0].report.valid.sum() == 0
    assert pieces[0].report.kept.tolist() == [8, 8]  # the anchor is the whole first chunk
    assert pieces[-1].report.chunk_id.tolist() == [0, 1, 2, 3]
    latents = {piece.chunk_id: piece.latents for piece in pieces}
    equal(rebuild_bank(params, model, conditions, KEY, latents), states[-1])

    image = np.random.default_rng(3).normal(size=(1, 4, 4, 16)).astype(np.float32)
    with_image = next(iter(stream(params, model, conditions, KEY, image_latent=image)))
    equal(with_image.latents[:1], image)
    assert np.abs(with_image.latents[1:] - pieces[0].latents[1:]).max() > 1e-3


def test_overlapping_windows_begin_with_the_end_of_the_last(tiny, conditions):
    model, params = tiny.overlap, tiny.params["dit"]
    pieces, states = grow(params, model, conditions, vae_params=tiny.params["vae"])
    assert [piece.chunk_id for piece in pieces] == [1, 2, 3, 4, 5]
    assert {piece.latents.shape for piece in pieces} == {(3, 4, 4, 16)}  # P + L = 1 + 2
    for before, piece in zip(pieces, pieces[1:], strict=False):
        prefix = decoding.overlap_prefix(tiny.params["vae"], model, before.latents)
        equal(piece.latents[:1], prefix)
    # chunk 1 brought the anchor: its first latent, kept whole in slot 0
    assert states[0].bank.chunk_id[0, 0] == 0 and states[0].bank.lengths[0, 0, 0] == 4
    assert pieces[-1].report.chunk_id.tolist() == [0, 1, 3, 4]
    done = {piece.chunk_id: piece.latents for piece in pieces[:3]}
    again = stream(params, model, conditions, KEY, done=done, vae_params=tiny.params["vae"])
    for old, new in zip(pieces, again, strict=True):
        equal(old.latents, new.latents)
    latents = {piece.chunk_id: piece.latents for piece in pieces}
    equal(rebuild_bank(params, model, conditions, KEY, latents), states[-1])

    image = np.random.default_rng(3).normal(size=(1, 4, 4, 16)).astype(np.float32)
    given = stream(
        params, model, conditions, KEY, image_latent=image, vae_params=tiny.params["vae"]
    )
    equal(next(given).latents[:1], image)


def test_without_an_anchor_the_first_frame_is_not_in_the_bank(tiny, conditions, plain):
    model, params = tiny.variant(memory={"anchor": False}), tiny.params["dit"]
    latents = {piece.chunk_id: piece.latents for piece in plain[0]}
    first = next(iter(stream(params, model, conditions, KEY, image_latent=latents[0])))
    assert first.report is None
    bank = rebuild_bank(params, model, conditions, KEY, latents).bank
    assert sorted(bank.chunk_id[0].tolist()) == [-1, 1, 2, 3, 4, 5]
