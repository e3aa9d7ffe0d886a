"""A sink that takes in what leaves the window, by hand."""

import jax.numpy as jnp
import numpy as np

from bvjax.memory.bank import KVBank
from bvjax.memory.ema_sink import absorb


def bank(rng, ids, capacity=4):
    shape = (2, 1, len(ids), capacity, 1, 2)
    rows = lambda: jnp.asarray(rng.normal(size=shape), jnp.float32)
    counts = jnp.full((2, 1, len(ids)), capacity, jnp.int32)
    return KVBank(
        keys=rows(),
        values=rows(),
        positions=jnp.zeros((*shape[:4], 3), jnp.int32),
        lengths=counts,
        stored=counts,
        embedding=jnp.zeros((1, len(ids), 3)),
        chunk_id=jnp.array([ids]),
        valid=jnp.array([[i >= 0 for i in ids]]),
    )


def test_one_chunk_into_a_sink_of_its_size():
    before = bank(np.random.default_rng(0), (0, 4, 3))
    after = absorb(before, jnp.int32(3), 4, 4, 0.75)
    for name in ("keys", "values"):
        old, new = np.asarray(getattr(before, name)), np.asarray(getattr(after, name))
        np.testing.assert_allclose(
            new[:, :, 0], 0.75 * old[:, :, 0] + 0.25 * old[:, :, 2], atol=1e-6
        )
        np.testing.assert_array_equal(new[:, :, 1:], old[:, :, 1:])


def test_frames_of_a_chunk_one_after_the_other():
    before = bank(np.random.default_rng(1), (0, 1))
    after = absorb(before, jnp.int32(1), 4, 2, 0.5)
    old = np.asarray(before.keys)
    expected = 0.5 * (0.5 * old[:, :, 0, :2] + 0.5 * old[:, :, 1, :2]) + 0.5 * old[:, :, 1, 2:]
    np.testing.assert_allclose(after.keys[:, :, 0, :2], expected, atol=1e-6)
    np.testing.assert_array_equal(after.keys[:, :, 0, 2:], old[:, :, 0, 2:])


def test_a_chunk_that_is_not_there_changes_nothing():
    before = bank(np.random.default_rng(2), (0, 1, -1))
    after = absorb(before, jnp.int32(7), 4, 4, 0.5)
    np.testing.assert_array_equal(after.keys, before.keys)
