"""Chunks seen through the noise of their level (the role `context`), in training and in generation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.denoiser import encode
from bvjax.denoiser.types import init_state
from bvjax.diffusion.noise import level_of
from bvjax.errors import UserError
from bvjax.level_schedule import ChunkLevelsConfig
from bvjax.losses import history
from bvjax.losses.clip import make_clip
from bvjax.losses.history import HistoryConfig, noise_history
from bvjax.losses.levels import LevelsConfig
from bvjax.losses.teacher_forcing import ForcingConfig, TeacherForcing
from bvjax.memory.bank import check
from tests.bvjax.losses.test_teacher_forcing import CHUNKS, DIM, MODEL, TEXT
from tests.support.random_params import random_dit

KEY = jax.random.key(4)
SCHEDULE = dict(schedule="linear", eps_min=0.1, eps_max=0.5)
LINEAR = np.linspace(0.1, 0.5, CHUNKS)


def test_levels_of_chunks_in_generation():
    levels = ChunkLevelsConfig(**SCHEDULE, chunks=CHUNKS)
    got = [level_of(levels, jnp.int32(chunk)) for chunk in range(CHUNKS + 3)]
    np.testing.assert_allclose(got, [0.0, *LINEAR, 0.5, 0.5], atol=1e-6)
    with pytest.raises(UserError, match="levels.chunks is 0; it must be 1 to"):
        ChunkLevelsConfig(chunks=0)


def test_history_has_the_levels_of_the_schedule_but_in_a_share_of_clips():
    latents = jnp.ones((400, CHUNKS, 1, 1, 1, 1))
    ordinary = HistoryConfig(noise_chance=1.0, noise_max=0.05)
    for role, share in (("context", 1.0), ("fixed", 0.0)):
        levels = LevelsConfig(**SCHEDULE, role=role, mix=0.0)
        sigma = np.asarray(noise_history(KEY, latents, ordinary, levels)[1])
        assert np.isclose(sigma, LINEAR).all(axis=1).mean() == share
    levels = LevelsConfig(**SCHEDULE, role="context", mix=0.25)
    noised, sigma = noise_history(KEY, latents, ordinary, levels)
    scheduled = np.isclose(sigma, LINEAR).all(axis=1)
    assert abs(scheduled.mean() - 0.75) < 0.06 and (sigma[~scheduled] <= 0.05).all()
    # the chunks have the level that they are said to have
    moved = np.asarray(noised - (1 - sigma[..., None, None, None, None]) * latents)
    spread = moved[scheduled].std(axis=0).ravel()
    np.testing.assert_allclose(spread, LINEAR, rtol=0.15)


def test_targets_then_have_ordinary_levels():
    forcing = ForcingConfig(levels=LevelsConfig(**SCHEDULE, role="context", mix=0.0, shift=1.0))
    teacher = TeacherForcing(MODEL, forcing, np.zeros((TEXT, DIM), np.float32))
    target = jnp.broadcast_to(jnp.arange(1, CHUNKS + 1), (500, CHUNKS))
    sigma = np.asarray(teacher._sigma(KEY, target, CHUNKS))
    np.testing.assert_allclose(
        np.quantile(sigma, [0.1, 0.5, 0.9], axis=0),
        [[x] * CHUNKS for x in (0.1, 0.5, 0.9)],
        atol=0.07,
    )


def test_entries_of_training_and_generation_are_equal(monkeypatch):
    """With the same noise in both: keys of each chunk, and they are not those of clean chunks."""
    monkeypatch.setattr(history, "normal", lambda key, shape: jnp.ones(shape))
    monkeypatch.setattr(encode, "normal", lambda key, shape: jnp.ones(shape))
    build = dataclasses.replace(MODEL.build, probe="full")
    levels = ChunkLevelsConfig(**SCHEDULE, chunks=CHUNKS, context=True)
    model = dataclasses.replace(MODEL, build=build, levels=levels)
    params, keys = random_dit(model), jax.random.split(jax.random.key(2), 3)
    batch = {
        "latents": jax.random.normal(keys[0], (1, 1 + 2 * CHUNKS, 4, 4, 16)),
        "text": jax.random.normal(keys[1], (1, CHUNKS, TEXT, DIM)),
        "embedding": jax.random.normal(keys[2], (1, CHUNKS, DIM)),
    }
    forcing = ForcingConfig(
        history=HistoryConfig({"semantic": 1.0}, noise_chance=0.0),
        levels=LevelsConfig(**SCHEDULE, role="context", mix=0.0),
        targets_per_chunk=1,
    )
    teacher = TeacherForcing(model, forcing, np.zeros((TEXT, DIM), np.float32))
    clip = make_clip(batch, teacher.grid)
    targets = teacher.draw_targets(clip, KEY)
    want = jax.jit(lambda p: teacher.entries(p, clip, targets, KEY))(params)

    def entry(model, chunk):
        inputs = encode.ChunkInput(
            jnp.int32(chunk), clip.text[0, chunk - 1], clip.embedding[0, chunk - 1],
            jnp.zeros((TEXT, DIM)), KEY,
        )  # fmt: skip
        latents = clip.chunks[0, chunk - 1]
        return encode.encode_chunk(params, model, init_state(model), inputs, latents)[0].entry

    for chunk in (1, CHUNKS):
        keys, kept = want.kv.keys[:, 0, chunk - 1], want.keep[:, 0, chunk - 1]
        for layer in range(2):
            rows = np.asarray(keys[layer])[np.asarray(kept[layer])]
            got = entry(model, chunk).keys[layer, 0, : len(rows)]
            np.testing.assert_allclose(got, rows, rtol=1e-4, atol=1e-5)
    clean = dataclasses.replace(model, levels=ChunkLevelsConfig())
    assert np.abs(entry(clean, 1).keys - entry(model, 1).keys).max() > 1e-2


def test_what_does_not_fit_the_levels_is_refused():
    levels = ChunkLevelsConfig(context=True)
    model = dataclasses.replace(MODEL, levels=levels)
    with pytest.raises(UserError, match="levels.role is 'median_shift'; with model.levels.context"):
        TeacherForcing(model, ForcingConfig(), np.zeros((TEXT, DIM), np.float32))
    noisy = dataclasses.replace(model.build, label=0.1)
    with pytest.raises(UserError, match="build.label is 0.1; with levels.context"):
        check(dataclasses.replace(model, build=noisy))
