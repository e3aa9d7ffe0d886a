"""Readings of the paper that change what chunks see: training equals generation through the bank in each."""

import dataclasses

import jax
import numpy as np
import pytest

from bvjax.losses.clip import make_clip
from tests.bvjax.losses.test_teacher_forcing import (
    CHUNKS,
    DIM,
    MODEL,
    TEXT,
    chunk_by_chunk,
    parallel_velocity,
    teacher,
)
from tests.support.random_params import random_dit

READINGS = {
    "offset": dict(retrieval=dict(offset=1)),
}


@pytest.fixture(scope="module")
def batch():
    keys = jax.random.split(jax.random.key(2), 3)
    return {
        "latents": jax.random.normal(keys[0], (1, 1 + 2 * CHUNKS, 4, 4, 16)),
        "text": jax.random.normal(keys[1], (1, CHUNKS, TEXT, DIM)),
        "embedding": jax.random.normal(keys[2], (1, CHUNKS, DIM)),
    }


def changed(model, sections):
    parts = {k: dataclasses.replace(getattr(model, k), **v) for k, v in sections.items()}
    return dataclasses.replace(model, **parts)


def both_ways(model, params, batch):
    """Velocities of all chunks at once, and chunk by chunk through the bank; the keep sets of the former."""
    forcing = teacher(model)
    clip, key = make_clip(batch, forcing.grid), jax.random.key(5)
    velocity, keep, _ = jax.jit(lambda p, c: parallel_velocity(forcing, p, c, key))(params, clip)
    return velocity[0], chunk_by_chunk(model, params, clip, key, keep), np.asarray(keep)


@pytest.mark.parametrize("reading", READINGS)
def test_training_equals_generation(batch, reading):
    """Full probing makes the keep sets deterministic; capacity and tau still drop tokens."""
    sections = dict(build=dict(probe="full"), guidance=dict(scale=1.0))
    plain = changed(MODEL, sections)
    for section, values in READINGS[reading].items():
        sections[section] = sections.get(section, {}) | values
    model, params = changed(MODEL, sections), random_dit(MODEL)
    got, want, keep = both_ways(model, params, batch)
    assert 0 < keep.mean() < 1
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    # and the reading says something: the plain one gives other velocities
    other = both_ways(plain, params, batch)[0]
    assert np.abs(got - other).max() > 1e-4
