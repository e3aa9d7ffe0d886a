"""Training on single pictures: which, at which levels, and that the loss is plain flow matching."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import ChunkConfig, DiTConfig, ModelConfig, TextConfig
from bvjax.diffusion import flow
from bvjax.errors import UserError
from bvjax.losses.clip import make_pictures
from bvjax.losses.history import HistoryConfig
from bvjax.losses.levels import LevelsConfig
from bvjax.losses.teacher_forcing import (
    NOISES_A_PICTURE,
    ForcingConfig,
    TargetsConfig,
    TeacherForcing,
)
from bvjax.nets import dit
from bvjax.random import normal, purpose_key

MODEL = ModelConfig(
    name="test",
    chunk=ChunkConfig(height=32, width=32, fps=2, frames=8),
    text=TextConfig(dim=8, max_length=3),
    dit=DiTConfig(dim=16, num_heads=2, num_layers=1, ffn_dim=16, freq_dim=8),
)
KEEP = HistoryConfig({"semantic": 1}, anchor_drop=0, caption_drop=0, noise_chance=0)


def teacher(history=KEEP, **kwargs) -> TeacherForcing:
    forcing = ForcingConfig(history=history, targets_per_chunk=0, **({"pictures": 2} | kwargs))
    return TeacherForcing(MODEL, forcing, np.ones((3, 8), np.float32))


@pytest.fixture(scope="module")
def pictures():
    keys = jax.random.split(jax.random.key(0), 2)
    batch = {
        "pictures": jax.random.normal(keys[0], (2, 5, 4, 4, 16)),
        "picture_text": jax.random.normal(keys[1], (2, 5, 3, 8)),
    }
    return make_pictures(batch)


def test_a_network_that_predicts_nothing_has_the_mean_square_of_the_velocity(pictures):
    """The head starts at zero, so the loss is that of the noise and the pictures drawn, by hand."""
    made, key = teacher(), jax.random.key(3)
    params = dit.init_params(MODEL.dit, 8, jax.random.key(1))
    loss, metrics = made.loss(params, None, key, pictures)
    own = purpose_key(key, "pictures")
    order = jnp.argsort(jax.random.uniform(purpose_key(own, "which"), (2, 5)), axis=1)[:, :2]
    chosen = pictures.latents[jnp.arange(2)[:, None], order]
    x = jnp.repeat(chosen[:, :, None, None], NOISES_A_PICTURE, axis=2)
    noise = normal(purpose_key(own, "noise"), x.shape)
    expected = jnp.square(flow.velocity(x, noise)).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert set(metrics) == {"pictures"}
    assert len({*map(int, order[0])}) == 2
    half, _ = teacher(pictures_weight=0.5).loss(params, None, key, pictures)
    np.testing.assert_allclose(half, loss / 2, rtol=1e-6)


def test_the_levels_of_a_picture_divide_the_line(pictures, monkeypatch):
    seen = {}

    def record(self, params, singles, key, sigma):
        seen.update(sigma=sigma, text=singles.text, latents=singles.latents)
        return jnp.zeros(())

    monkeypatch.setattr(TeacherForcing, "_alone_loss", record)
    made = teacher(levels=LevelsConfig(shift=1.0))
    made.loss(None, None, jax.random.key(0), pictures)
    assert seen["sigma"].shape == (2, 2, NOISES_A_PICTURE)
    parts = np.floor(np.asarray(seen["sigma"]) * NOISES_A_PICTURE)
    np.testing.assert_array_equal(parts, np.broadcast_to(np.arange(NOISES_A_PICTURE), parts.shape))
    # A picture keeps its own caption, or has the empty one.
    text, latents = np.asarray(seen["text"]), np.asarray(seen["latents"])
    for b in range(2):
        for m in range(2):
            same = np.flatnonzero((pictures.latents[b] == latents[b, m, 0, 0]).all((1, 2, 3)))
            np.testing.assert_array_equal(text[b, m], pictures.text[b, same[0]])
    dropped = teacher(history=dataclasses.replace(KEEP, caption_drop=1.0))
    dropped.loss(None, None, jax.random.key(0), pictures)
    np.testing.assert_array_equal(seen["text"], 1.0)


def test_something_must_be_trained():
    with pytest.raises(
        UserError, match="forcing.pictures is 0; they must be >= 0 and not all zero"
    ):
        TargetsConfig(targets_per_chunk=0, frames=0, pictures=0)
    assert make_pictures({"latents": np.zeros(3)}) is None
