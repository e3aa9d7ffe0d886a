"""What is done to the bank before a chunk: segments that begin anew, a sink that takes in."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax import policies
from bvjax.chunking import ChunkGrid
from bvjax.errors import UserError
from bvjax.generate import preparation, steps
from bvjax.generate.rollout import rebuild_bank, stream
from bvjax.memory.ema_sink import absorb
from bvjax.policies import configure
from bvjax.random import purpose_key
from tests.bvjax.policies.test_policies import stories
from tests.support import few_step
from tests.support.random_params import random_dit

KEY = jax.random.key(4)
BASE = dataclasses.replace(
    few_step.MODEL, dit=dataclasses.replace(few_step.MODEL.dit, num_layers=2)
)


@pytest.fixture(scope="module")
def params():
    return random_dit(BASE, 1)


@pytest.fixture
def pixels(monkeypatch):
    """A VAE whose frame is a mean of latents: what is decoded and encoded again can be followed."""
    seen = []

    def decode(params, model, state, latents, layout):
        seen.append(np.asarray(latents))
        frames = 1 if state is None else 4 * len(latents)
        return "state", np.full((frames, 2, 2, 3), 0) + np.arange(frames)[:, None, None, None]

    def encode(params, model, image, layout):
        return np.full((1, 4, 4, 16), float(image[0, 0, 0]), np.float32)

    monkeypatch.setattr(preparation, "decode_piece", decode)
    monkeypatch.setattr(preparation, "encode_image", encode)
    return seen


def test_a_segment_is_a_video_that_begins_with_the_end_of_the_last(params, pixels):
    model = configure(BASE, ["policy.name=causvid", "policy.window=3"])
    conditions = stories(model, 5)
    pieces = list(stream(params, model, conditions, KEY, vae_params="vae"))
    latents = {piece.chunk_id: piece.latents for piece in pieces}
    # the anchor and two chunks are decoded, and the last of four frames is encoded
    assert len(pixels) == 3
    np.testing.assert_array_equal(pixels[2], latents[2])
    frame = np.full((1, 4, 4, 16), 3.0, np.float32)
    # chunks 3, 4, 5 as 1, 2, 3 of a video of their own, whose first chunk is there
    rows = slice(2, 5)
    own = conditions.replace(text=conditions.text[rows], embedding=conditions.embedding[rows])
    key = purpose_key(KEY, "segment", 2)
    again = list(stream(params, model, own, key, done={0: frame, 1: latents[3]}))
    for number in (2, 3):
        np.testing.assert_array_equal(again[number].latents, latents[number + 2])
    assert pieces[4].report.chunk_id.tolist() == [0, -1, 3]
    assert pieces[5].report.chunk_id.tolist() == [0, 3, 4]
    # and it goes on where it stopped
    for stop in (4, 5):
        done = {i: latents[i] for i in range(stop)}
        resumed = list(stream(params, model, conditions, KEY, done=done, vae_params="vae"))
        np.testing.assert_array_equal(resumed[5].latents, latents[5])
    with pytest.raises(UserError, match="needs the weights of the VAE"):
        list(stream(params, model, conditions, KEY))


def test_the_sink_takes_in_what_is_seen_no_more(params):
    model = configure(BASE, ["policy.name=reward_forcing", "policy.decay=0.5"])
    conditions = stories(model, 4)
    pieces = list(stream(params, model, conditions, KEY))
    latents = {piece.chunk_id: piece.latents for piece in pieces}
    rolling = policies.without(model)
    state = rebuild_bank(params, rolling, conditions, KEY, {i: latents[i] for i in range(3)})
    grid = ChunkGrid.of(model)
    take = lambda state, i: state.replace(
        bank=absorb(state.bank, jnp.int32(i), grid.tokens_per_chunk, grid.tokens_per_latent, 0.5)
    )
    inputs = lambda i: steps.chunk_input(conditions, KEY, None, i - 1, i)
    state = take(state, 1)
    third = steps.denoise_program(params, rolling, state, inputs(3))
    np.testing.assert_allclose(latents[3], third, atol=1e-6)
    state, _ = steps.write_program(params, rolling, state, inputs(3), third)
    fourth = steps.denoise_program(params, rolling, take(state, 2), inputs(4))
    np.testing.assert_allclose(latents[4], fourth, atol=1e-6)
    forgotten = steps.denoise_program(params, rolling, state, inputs(4))
    assert np.abs(np.asarray(fourth) - forgotten).max() > 1e-5
