"""Compaction and packing against plain loops, with empty and full slots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels_pallas.kv_gather import compact, kept_first, pack

DTYPES = (jnp.float32, jnp.bfloat16)
LEAD, HEADS, DIM = (2, 3), 2, 4
compact_jit = jax.jit(compact, static_argnames="capacity")
pack_jit = jax.jit(pack)


def rows(rng, *shape, dtype=jnp.float32):
    return jnp.asarray(rng.standard_normal((*LEAD, *shape, HEADS, DIM)), dtype)


def keep_sets(rng, n):
    keep = rng.random((*LEAD, n)) < 0.5
    keep[0, 0] = False
    keep[0, 1] = True
    return keep


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, capacity", [(7, 7), (7, 10), (1, 3)])
def test_compact_equals_a_loop(dtype, n, capacity):
    rng = np.random.default_rng(n)
    x, keep = rows(rng, n, dtype=dtype), keep_sets(rng, n)
    got, index, length = compact_jit(x, keep, capacity=capacity)
    assert got.dtype == dtype and got.shape == (*LEAD, capacity, HEADS, DIM)
    for at in np.ndindex(LEAD):
        kept = np.flatnonzero(keep[at])
        want = np.zeros((capacity, HEADS, DIM), dtype)
        want[: len(kept)] = np.asarray(x[at])[kept]
        np.testing.assert_array_equal(got[at], want)
        np.testing.assert_array_equal(index[at][: len(kept)], kept)
        assert length[at] == len(kept)


def test_compact_clips_to_the_first_rows():
    x = jnp.arange(6.0).reshape(6, 1, 1)
    got, _, length = compact(x, jnp.array([0, 1, 1, 0, 1, 1], bool), 3)
    assert got[:, 0, 0].tolist() == [1, 2, 4] and length == 3


def test_the_rest_follow_the_kept():
    index, length = kept_first(jnp.array([0, 1, 0, 1, 0], bool), 6)
    assert index.tolist() == [1, 3, 0, 2, 4, 0] and length == 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("entries, capacity", [(1, 4), (3, 5)])
def test_pack_equals_a_loop(dtype, entries, capacity):
    rng = np.random.default_rng(entries)
    parts = rows(rng, entries, capacity, dtype=dtype)
    lengths = rng.integers(0, capacity + 1, (*LEAD, entries)).astype(np.int32)
    lengths[0, 0], lengths[0, 1] = 0, capacity
    lengths[1, 0, 0] = 0  # a gap at the front
    got, length = pack_jit(parts, lengths)
    assert got.dtype == dtype and got.shape == (*LEAD, entries * capacity, HEADS, DIM)
    for at in np.ndindex(LEAD):
        want = np.concatenate([np.asarray(parts[at])[e, :n] for e, n in enumerate(lengths[at])])
        np.testing.assert_array_equal(got[at][: len(want)], want)
        assert not np.asarray(got[at][len(want) :]).any() and length[at] == len(want)


def test_pack_reads_slots_in_the_order_given():
    rng = np.random.default_rng(0)
    parts = rows(rng, 6, 3)
    slots = np.array([[4, 0, 1, 4]] * LEAD[1])  # broadcast over the first axis, as over layers
    lengths = rng.integers(0, 4, (*LEAD, 4)).astype(np.int32)
    got, length = pack_jit(parts, lengths, slots)
    want, want_length = pack_jit(parts[:, :, slots[0]], lengths)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(length, want_length)


def test_unknown_implementation():
    x = jnp.zeros((2, 1, 1))
    with pytest.raises(ValueError, match="cuda.*auto, xla"):
        compact(x, jnp.ones(2, bool), 2, implementation="cuda")
    with pytest.raises(ValueError, match="cuda.*auto, xla"):
        pack(x[None], jnp.ones(1, jnp.int32), implementation="cuda")
