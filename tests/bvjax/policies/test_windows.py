"""Windows of chunks: equal to a chunk by itself where they must be, resumed exactly, causal where the policy is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax import policies
from bvjax.chunking import ChunkGrid
from bvjax.denoiser import window
from bvjax.denoiser.denoise import solver_key
from bvjax.denoiser.passes import entry_times
from bvjax.generate import steps, windows
from bvjax.generate.checks import check_model
from bvjax.generate.packing import pack_frames
from bvjax.generate.rollout import rebuild_bank, stream
from bvjax.generate.windows import _select, first_needed
from bvjax.policies import Place, Round, configure
from bvjax.policies.schedule import Pack
from tests.bvjax.policies.test_policies import stories
from tests.support import few_step
from tests.support.random_params import random_dit

KEY = jax.random.key(5)
BASE = dataclasses.replace(
    few_step.MODEL,
    chunk=dataclasses.replace(few_step.MODEL.chunk, frames=8),  # two latent frames
    dit=dataclasses.replace(few_step.MODEL.dit, num_layers=2),
    sampler=dataclasses.replace(few_step.MODEL.sampler, kind="unipc", steps=4),
)


@pytest.fixture(scope="module")
def params():
    return random_dit(BASE, 1)


def inputs_for(model, conditions, chunk, start=0, times=0, **others):
    """The input of a window of one place."""
    inputs = steps.chunk_input(conditions, KEY, None, chunk - 1, chunk)
    fields = dict(
        start=np.array([start], np.int32),
        text=np.asarray(conditions.text)[[chunk - 1]],
        null_text=np.asarray(conditions.null_text)[0],
        times=np.array([times], np.int32),
        sees=np.zeros((1, 1), bool),
        keys=solver_key(inputs)[None],
        entry_sees=np.zeros((1, 0), bool),
        entry_times=np.zeros(0, np.int32),
        entries=None,
    )
    return inputs, window.WindowInput(**fields | others)


def noise(model, *chunks):
    conditions = stories(model, 4)
    rows = [steps.chunk_input(conditions, KEY, None, i - 1, i) for i in chunks]
    return jnp.concatenate([windows._noise(model, row) for row in rows])


def advance(params, model, latents, memory, inputs, passes, scales=None):
    state = window.init_window(model.sampler, (1, *latents.shape))
    for place, x in enumerate(latents):
        state = window.put(state, place, x)
    scales = window.plain_scales(model) if scales is None else scales
    run = jax.jit(window.advance, static_argnames=("model", "passes", "scales"))
    return window.samples(run(params, model, state, memory, inputs, passes, scales))[0]


@pytest.mark.parametrize("kind", ["unipc", "few_step"])
def test_a_window_of_one_is_a_chunk_by_itself(params, kind):
    sampler = dataclasses.replace(BASE.sampler, kind=kind, steps=2)
    model = dataclasses.replace(
        BASE, sampler=sampler, guidance=dataclasses.replace(BASE.guidance, scale=2.0)
    )
    model = policies.without(
        configure(model, ["policy.name=rolling", "policy.window=2", "policy.sink=true"])
    )
    conditions = stories(model, 4)
    rng = np.random.default_rng(0)
    past = {i: rng.normal(size=(2 if i else 1, 4, 4, 16)).astype(np.float32) for i in range(3)}
    memory = rebuild_bank(params, model, conditions, KEY, past)
    ids = np.array([0, 1, 2], np.int32)
    valid = jnp.ones((1, 3), bool)
    times, start = entry_times(model, jnp.asarray(ids[None]), valid, jnp.int32(3), True)
    inputs, seen = inputs_for(
        model,
        conditions,
        3,
        times=int(start[0]),
        entry_sees=np.ones((1, 3), bool),
        entry_times=np.asarray(times[0]),
    )
    seen = seen.replace(entries=_select(memory.bank, inputs, ids))
    expected = steps.denoise_program(params, model, memory, inputs)
    got = advance(params, model, noise(model, 3), memory, seen, 2)[0]
    np.testing.assert_allclose(got, expected, atol=2e-5)
    blind = advance(
        params, model, noise(model, 3), memory, seen.replace(entry_sees=np.zeros((1, 3), bool)), 2
    )[0]
    assert np.abs(blind - expected).max() > 1e-3


def test_a_clean_place_is_an_entry_and_so_are_packed_frames_that_are_whole(params):
    model = dataclasses.replace(BASE, sampler=dataclasses.replace(BASE.sampler, steps=2))
    model = policies.without(configure(model, ["policy.name=rolling", "policy.window=1"]))
    conditions = stories(model, 4)
    past = np.random.default_rng(0).normal(size=(2, 4, 4, 16)).astype(np.float32)
    memory = rebuild_bank(params, model, conditions, KEY, {1: past})
    inputs, alone = inputs_for(
        model,
        conditions,
        2,
        times=3,
        entry_sees=np.ones((1, 1), bool),
        entry_times=np.array([1], np.int32),
    )
    alone = alone.replace(entries=_select(memory.bank, inputs, np.array([1], np.int32)))
    by_bank = advance(params, model, noise(model, 2), memory, alone, 2)[0]

    sees = np.array([[False, False], [True, False]])
    pair = alone.replace(
        start=np.array([2, 0], np.int32),
        text=np.asarray(conditions.text)[[0, 1]],
        times=np.array([1, 3], np.int32),
        sees=sees,
        keys=jnp.stack([alone.keys[0]] * 2),
        entry_sees=np.zeros((2, 0), bool),
        entry_times=np.zeros(0, np.int32),
        entries=None,
    )
    both = jnp.concatenate([past[None], noise(model, 2)])
    window_of_two = advance(params, model, both, None, pair, 2)
    np.testing.assert_array_equal(window_of_two[0], past)
    np.testing.assert_allclose(window_of_two[1], by_bank, atol=2e-5)

    # packed frames see what they are seen by, and have the caption of the first place
    mutual = pair.replace(sees=~np.eye(2, dtype=bool), text=np.asarray(conditions.text)[[1, 1]])
    expected = advance(params, model, both, None, mutual, 2)[1]
    packed = pack_frames(model, [Pack((0, 1), (1, 1, 1), 1)], lambda i: past[i])
    assert packed.count == 8
    told = alone.replace(
        entry_sees=np.zeros((1, 0), bool), entry_times=np.zeros(0, np.int32), entries=None
    )
    got = advance(params, model, noise(model, 2), None, told.replace(packed=packed), 2)[0]
    np.testing.assert_allclose(got, expected, atol=2e-5)
    fewer = packed.replace(count=np.int32(4))  # the first frame alone
    half = pack_frames(model, [Pack((0,), (1, 1, 1), 1)], lambda i: past[i])
    runs = [
        advance(params, model, noise(model, 2), None, told.replace(packed=p), 2)[0]
        for p in (fewer, half)
    ]
    np.testing.assert_allclose(*runs, atol=2e-5)
    assert np.abs(runs[0] - got).max() > 1e-3


def test_packed_frames_are_means_at_mean_positions():
    """Frames of 4 x 4 latents are 2 x 2 tokens: pooled by 2 one token, whose place is between the four."""
    frames = np.random.default_rng(0).normal(size=(4, 4, 4, 16)).astype(np.float32)
    packs = [Pack((3,), (1, 1, 1), 7), Pack((0, 1), (2, 2, 2), 9), Pack((0, 1, 2), (4, 4, 4), 20)]
    packed = pack_frames(BASE, packs, lambda i: frames[i])
    assert packed.count == 4 + 1 + 1
    assert packed.positions[:6].tolist() == [
        [7, 0, 0], [7, 0, 1], [7, 1, 0], [7, 1, 1], [9.5, 0.5, 0.5], [21.25, 0.75, 0.75]
    ]  # fmt: skip
    tokens = (
        packed.latents.reshape(2, 2, 2, 2, 2, 16).transpose(0, 1, 3, 2, 4, 5).reshape(8, 2, 2, 16)
    )
    np.testing.assert_array_equal(tokens[1], frames[3, :2, 2:])
    pooled = frames[:2].reshape(2, 2, 2, 2, 2, 16).mean((0, 2, 4))
    np.testing.assert_allclose(tokens[4], pooled, atol=1e-6)
    # the last of three frames is counted twice; a patch of pooled latents goes beyond the frame, whose edge goes on
    four = np.concatenate([frames[:3], frames[2:3]])
    np.testing.assert_allclose(tokens[5][0, 0], four.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(tokens[5][1, 0], four[:, 3].mean((0, 1)), atol=1e-6)
    np.testing.assert_allclose(tokens[5][1, 1], four[:, 3, 3].mean(0), atol=1e-6)
    assert not tokens[6:].any()
    with pytest.raises(ValueError, match="12 tokens are more than the 8 of a chunk"):
        pack_frames(BASE, [Pack((0, 1, 2), (1, 1, 1), 0)], lambda i: frames[i])


def test_guidance_by_past_and_caption(params):
    """v = v_none + past (v_past - v_none) + caption (v - v_past), of the velocity of one Euler step."""
    sampler = dataclasses.replace(BASE.sampler, kind="euler", steps=1, shift=1.0)
    model = policies.without(
        configure(
            dataclasses.replace(BASE, sampler=sampler), ["policy.name=rolling", "policy.window=1"]
        )
    )
    conditions = stories(model, 4)
    past = np.random.default_rng(0).normal(size=(2, 4, 4, 16)).astype(np.float32)
    memory = rebuild_bank(params, model, conditions, KEY, {1: past})
    inputs, seen = inputs_for(
        model, conditions, 2, times=3, entry_sees=np.ones((1, 1), bool),
        entry_times=np.array([1], np.int32),
    )  # fmt: skip
    seen = seen.replace(entries=_select(memory.bank, inputs, np.array([1], np.int32)))
    x = noise(model, 2)

    def velocity(inputs, scales=((1.0, 1.0),)):
        return x[0] - advance(params, model, x, memory, inputs, 1, scales)[0]

    nothing = seen.replace(text=seen.null_text[None])
    full, null = velocity(seen), velocity(nothing)
    none = velocity(nothing.replace(entry_sees=np.zeros((1, 1), bool)))
    expected = none + 1.5 * (null - none) + 7.5 * (full - null)
    np.testing.assert_allclose(velocity(seen, ((1.5, 7.5),)), expected, atol=2e-4)
    np.testing.assert_allclose(velocity(seen, ((1.0, 3.0),)), null + 3.0 * (full - null), atol=2e-4)


def test_what_is_under_way_is_made_again():
    """With chunks apart, passes begin where nothing is under way; in flight, at the beginning."""

    def turn(*places):
        return Round(tuple(Place(i, start, i) for i, start in places), 2)

    flying = [turn((1, 0)), turn((1, 2), (2, 0)), turn((2, 2), (3, 0)), turn((3, 2))]
    assert first_needed(flying, 4, {}) == 0
    assert first_needed(flying, 4, {1: 0, 2: 0}) == 0
    assert first_needed(flying, 4, {1: 0, 2: 0, 3: 0}) == 4
    apart = [turn((1, 0)), turn((1, 4), (2, 0)), turn((2, 4), (3, -1))]
    assert first_needed(apart, 4, {1: 0}) == 1 and first_needed(apart, 4, {1: 0, 2: 0}) == 2


# ---- whole videos -----------------------------------------------------------------------------------
ORDERS = {"magi": [0, 1, 2, 3], "pa_vdm": [0, 1, 2, 3], "framepack": [0, 3, 2, 1]}


@pytest.fixture(scope="module", params=list(ORDERS))
def video(request, params):
    own = ["policy.window=2"] if request.param == "pa_vdm" else []
    base = BASE
    if request.param == "framepack":  # a chunk holds what is packed: 4 + 4 + 1 + 4 tokens
        base = dataclasses.replace(BASE, chunk=dataclasses.replace(BASE.chunk, frames=16))
    model = configure(base, [f"policy.name={request.param}", *own])
    check_model(model, 3)
    conditions = stories(model, 3)
    return model, conditions, list(stream(params, model, conditions, KEY))


def test_pieces_come_in_their_order_and_resume(params, video):
    model, conditions, pieces = video
    order = ORDERS[model.policy.name]
    assert [piece.chunk_id for piece in pieces] == order
    assert policies.emission_order(model, 3) == order
    assert {piece.latents.shape[0] for piece in pieces[1:]} == {
        ChunkGrid.of(model).latents_per_chunk
    }
    assert all(np.isfinite(piece.latents).all() for piece in pieces)
    for stop in (1, 3, 4):
        done = {piece.chunk_id: piece.latents for piece in pieces[:stop]}
        again = list(stream(params, model, conditions, KEY, done=done))
        assert [piece.fresh for piece in again] == [i >= stop for i in range(4)]
        for old, new in zip(pieces, again, strict=True):
            np.testing.assert_array_equal(old.latents, new.latents)
            jax.tree.map(np.testing.assert_array_equal, old.report, new.report)


def test_a_chunk_depends_on_what_it_saw(params, video):
    """The last caption reaches earlier chunks where the policy lets them see later ones."""
    model, conditions, pieces = video
    text = np.array(conditions.text)
    text[2] += 1.0
    other = {p.chunk_id: p for p in stream(params, model, conditions.replace(text=text), KEY)}
    same = {p.chunk_id: bool(np.array_equal(p.latents, other[p.chunk_id].latents)) for p in pieces}
    assert (
        same
        == {
            "magi": {0: True, 1: True, 2: True, 3: False},
            "pa_vdm": {0: True, 1: True, 2: False, 3: False},  # 2 and 3 were in one window
            "framepack": {0: True, 3: False, 2: False, 1: False},
        }[model.policy.name]
    )


def test_given_chunks_are_clean_from_the_beginning(params, video):
    model, conditions, pieces = video
    if model.policy.name == "framepack":
        pytest.skip("its first chunk is seen by none")
    done = {piece.chunk_id: piece.latents for piece in pieces[:2]}
    again = list(stream(params, model, conditions, KEY, done=done, given=1))
    np.testing.assert_array_equal(again[1].latents, done[1])
    assert np.abs(np.asarray(again[2].latents) - pieces[2].latents).max() > 1e-4
    assert [piece.fresh for piece in again] == [False, False, True, True]
