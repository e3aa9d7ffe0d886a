"""Training tells a target the last latent before it as generation does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import BuildConfig
from bvjax.denoiser.context import prepare_context
from bvjax.denoiser.encode import write_chunk
from bvjax.denoiser.types import ChunkInput, init_state
from bvjax.losses.clip import make_clip
from bvjax.losses.history import HistoryConfig, noise_previous
from tests.bvjax.losses.test_teacher_forcing import (
    CHUNKS,
    CLEAN,
    DIM,
    MODEL,
    TEXT,
    batch,
    chunk_by_chunk,
    parallel_velocity,
    teacher,
)
from tests.support.random_params import random_dit

__all__ = ["batch"]  # the fixture

DIT = dataclasses.replace(
    MODEL.dit,
    preconditioning="linear",
    previous_latent=True,
    latent_correlation=tuple(np.linspace(0, 0.95, 16).round(3).tolist()),
)
TOLD = dataclasses.replace(
    MODEL,
    dit=DIT,
    build=BuildConfig(probe="full"),
    guidance=dataclasses.replace(MODEL.guidance, scale=1.0),
)


def test_training_equals_generation(batch):
    """The first chunk is told frame 0, the others the last latent of the chunk before them."""
    forcing, params, key = teacher(TOLD), random_dit(TOLD), jax.random.key(5)
    clip = make_clip(batch, forcing.grid)
    velocity, keep, _ = jax.jit(lambda p, c: parallel_velocity(forcing, p, c, key))(params, clip)
    want = chunk_by_chunk(TOLD, params, clip, key, keep)
    np.testing.assert_allclose(velocity[0], want, rtol=1e-4, atol=1e-5)


def before(batch, model=TOLD, history=CLEAN, **extras):
    forcing = teacher(model, history)
    clip = make_clip(batch | extras, forcing.grid)
    targets = forcing.draw_targets(clip, jax.random.key(0))
    entries = forcing.entries(random_dit(model), clip, targets, jax.random.key(1))
    context, _ = forcing.context(entries, targets)
    return context.before


def test_a_target_is_told_nothing_behind_a_gap_a_cut_or_without_history(batch):
    latents = batch["latents"][:, 1:].reshape(1, CHUNKS, 2, 4, 4, 16)
    told = before(batch)
    np.testing.assert_array_equal(told.latent[0, 0], batch["latents"][0, 0])
    np.testing.assert_array_equal(told.latent[0, 1:], latents[0, :-1, -1])
    assert told.known.all()
    gap = before(batch, joined=jnp.array([[1.0, 1, 0, 1, 0]]))
    assert gap.known.tolist() == [[True, True, False, True, False]]
    cut = before(batch, shot=jnp.array([[1.0, 1, 3, 3, 3]]))
    assert cut.known.tolist() == [[True, True, False, True, True]]
    alone = HistoryConfig({"semantic": 0.5, "none": 0.5}, anchor_drop=0, caption_drop=0)
    mixed = teacher(TOLD, alone).draw_targets(
        make_clip(batch, teacher(TOLD).grid), jax.random.key(0)
    )
    np.testing.assert_array_equal(before(batch, history=alone).known, ~mixed.history.alone)
    assert mixed.history.alone.any() and not mixed.history.alone.all()
    unseen = dataclasses.replace(TOLD.retrieval, num_recent=0)
    assert before(batch, dataclasses.replace(TOLD, retrieval=unseen)) is None


def test_its_noise_is_a_share_of_each_channels_spread():
    std = np.array([0.1, 2.0], np.float32)
    clean = std * jax.random.normal(jax.random.key(0), (400, 8, 4, 4, 2))
    noised = np.asarray(noise_previous(jax.random.key(1), clean, tuple(std.tolist()), 0.6))
    np.testing.assert_allclose(noised.std(axis=(0, 1, 2, 3)), std, rtol=0.02)  # as large as before
    kept = (noised * clean).mean(axis=(2, 3)) / np.square(std)  # sqrt(1 - a^2), a in [0, 0.6]
    np.testing.assert_allclose(
        kept.mean((0, 1)), np.mean(np.sqrt(1 - np.linspace(0, 0.6, 100) ** 2)), rtol=0.02
    )
    share = (noised - clean).std(axis=(2, 3)) / std
    assert share.min() < 0.15 and 0.5 < np.quantile(share, 0.97) < 0.9
    np.testing.assert_array_equal(
        noise_previous(jax.random.key(1), clean, tuple(std.tolist()), 0.0), clean
    )


def test_a_target_is_told_it_with_noise(batch):
    noisy = HistoryConfig({"semantic": 1}, anchor_drop=0, caption_drop=0, previous_noise=0.5)
    clean, noised = before(batch), before(batch, history=noisy)
    assert (np.abs(noised.latent - clean.latent).max(axis=(2, 3, 4)) > 1e-3).all()


@pytest.mark.parametrize(("shot", "known"), [(None, True), (1, True), (2, False)])
def test_generation_tells_it_within_a_shot(batch, shot, known):
    state, params = init_state(TOLD), random_dit(TOLD)
    clip = make_clip(batch, teacher(TOLD).grid)
    inputs = ChunkInput(
        jnp.int32(1),
        clip.text[0, 0],
        clip.embedding[0, 0],
        jnp.zeros((TEXT, DIM)),
        jax.random.key(0),
        shot=None if shot is None else jnp.int32(shot),
    )
    first = prepare_context(TOLD, state, inputs.replace(shot=None)).previous
    assert not first.known.any()  # nothing is in the bank
    state, _ = jax.jit(write_chunk, static_argnames="model")(
        params, TOLD, state, inputs, clip.chunks[0, 0]
    )
    seen = prepare_context(TOLD, state, inputs.replace(chunk_id=jnp.int32(2))).previous
    assert bool(seen.known.all()) is known
    if known:
        np.testing.assert_array_equal(seen.latent[0, 0], clip.chunks[0, 0, -1])
    later = prepare_context(TOLD, state, inputs.replace(chunk_id=jnp.int32(3))).previous
    assert not later.known.any()
