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
    "one set for all layers": dict(memory=dict(granularity="model")),
    "a set for each head": dict(memory=dict(granularity="head")),
    "probes over all keys": dict(build=dict(context="with", softmax_over="all")),
    "both": dict(
        build=dict(context="with", softmax_over="all"), memory=dict(granularity="head", tau=0.6)
    ),
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
    in_slot = keep.any(axis=3) if keep.ndim == 5 else keep  # what any head keeps
    return velocity[0], chunk_by_chunk(model, params, clip, key, in_slot), np.asarray(keep)


@pytest.mark.parametrize(
    "reading",
    [
        name
        if name in ("one set for all layers", "both")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in READINGS
    ],
)
def test_training_equals_generation(batch, reading):
    """Full probing makes the keep sets deterministic; capacity and tau still drop tokens."""
    sections = dict(build=dict(probe="full"), guidance=dict(scale=1.0))
    for section, values in READINGS[reading].items():
        sections[section] = sections.get(section, {}) | values
    model, params = changed(MODEL, sections), random_dit(MODEL)
    got, want, keep = both_ways(model, params, batch)
    assert 0 < keep.mean() < 1
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    if reading == "probes over all keys":  # which keeps the same tokens at this size, see below
        return
    # and the reading says something: the plain one keeps, or shows, other rows
    plain = dict(offset=0, granularity="layer", softmax_over="own")
    for section, values in READINGS[reading].items():
        sections[section] = values | {k: v for k, v in plain.items() if k in values}
        sections[section] |= dict(probe="full") if section == "build" else {}
    forcing = teacher(changed(MODEL, sections))
    clip = make_clip(batch, forcing.grid)
    other = jax.jit(lambda p, c: parallel_velocity(forcing, p, c, jax.random.key(5)))(params, clip)
    assert np.abs(got - other[0][0]).max() > 1e-4


def test_keys_that_a_chunk_sees_take_a_share_of_its_probes_attention(batch):
    """In training, where chunks see the anchor and each other: importances no longer sum to probes times heads."""
    build = dict(context="with", probe="full", softmax_over="all")
    model = changed(MODEL, dict(build=build))
    forcing = teacher(model)
    clip, key = make_clip(batch, forcing.grid), jax.random.key(5)
    targets = forcing.draw_targets(clip, key)
    entries = jax.jit(lambda p: forcing.entries(p, clip, targets, key))(random_dit(model))
    share = np.asarray(entries.kv.importance.sum(-1))[:, 0] / (8 * MODEL.dit.num_heads)
    assert (share[:, 0] < 0.95).all()  # the anchor's
    assert (share[:, 1:].max(axis=1) < share[:, 0]).all()  # and those of earlier chunks
