"""Compaction and packing against plain loops, with empty and full slots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels_pallas.kv_gather import kept_first, pack, take_rows, write_rows
from kernels_pallas.rope import rotate

DTYPES = (jnp.float32, jnp.bfloat16)
LEAD, HEADS, DIM = (2, 3), 2, 4
pack_jit = jax.jit(pack)


def compact(x, keep, capacity):
    """Kept rows at the head of a slot (Algorithm 2, line 13): (rows, index, length)."""
    index, length = kept_first(keep, capacity)
    return take_rows(x, index, length), index, length


compact_jit = jax.jit(compact, static_argnames="capacity")


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


def test_pack_turns_rows_on_the_way_and_cuts_a_window():
    rng = np.random.default_rng(1)
    parts = rows(rng, 3, 5)
    lengths = jnp.asarray(rng.integers(0, 6, (*LEAD, 3)), jnp.int32)
    angles = jnp.asarray(rng.standard_normal((*LEAD, 15, DIM // 2)), jnp.float32)
    plain, length = pack_jit(parts, lengths)
    want = jax.jit(rotate)(plain, angles)
    got, _ = pack_jit(parts, lengths, angles=angles)
    np.testing.assert_allclose(got, want, atol=1e-6)
    cut = jax.jit(lambda first, a: pack(parts, lengths, angles=a, window=(first, 6)))
    for first in (0, 4, 9):
        got, whole = cut(first, angles[:, :, first : first + 6])
        np.testing.assert_allclose(got, want[:, :, first : first + 6], atol=1e-6)
        np.testing.assert_array_equal(whole, length)


def written(slots, x, index, length, slot):
    """A loop over rows."""
    out = np.array(slots)
    for at in np.ndindex(LEAD):
        if slot[at] < out.shape[2]:
            for c, i in enumerate(index[at]):
                out[at][slot[at], c] = np.asarray(x[at])[i] if c < length[at] else 0
    return out


@pytest.mark.parametrize("dtype", DTYPES)
def test_write_rows_equals_a_loop(dtype):
    rng = np.random.default_rng(2)
    slots, x = rows(rng, 3, 5, dtype=dtype), rows(rng, 7, dtype=dtype)
    index = rng.integers(0, 7, (*LEAD, 5)).astype(np.int32)  # duplicates
    length = np.array([[0, 5, 2], [4, 1, 3]], np.int32)
    slot = np.array([[0, 2, 3], [1, 7, 2]], np.int32)  # 3 and more: nothing is written
    got = jax.jit(write_rows)(slots, x, index, length, slot)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, written(slots, x, index, length, slot))
    again = jax.jit(write_rows)(
        slots, x, index, length, slot[0]
    )  # one slot per row, for all layers
    np.testing.assert_array_equal(
        again, written(slots, x, index, length, np.broadcast_to(slot[0], LEAD))
    )
    assert (again != got).any()


def test_write_rows_has_the_derivative_of_a_scatter():
    rng = np.random.default_rng(3)
    slots, x, weights = rows(rng, 3, 5), rows(rng, 7), rows(rng, 3, 5)
    index = jnp.asarray(rng.integers(0, 7, (*LEAD, 5)), jnp.int32)  # duplicates
    length = jnp.array([[0, 5, 2], [4, 1, 3]], jnp.int32)
    slot = jnp.array([[0, 2, 3], [1, 7, 2]], jnp.int32)  # 3 and more: nothing is written

    def scattered(slots, x):
        at = jnp.indices(LEAD, sparse=True)
        return slots.at[(*at, slot)].set(take_rows(x, index, length), mode="drop")

    got, want = (
        jax.jit(jax.grad(lambda *args, f=f: jnp.sum(weights * f(*args)), (0, 1)))(slots, x)
        for f in (lambda slots, x: write_rows(slots, x, index, length, slot), scattered)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want)
    assert not np.array_equal(got[0], weights) and np.any(got[1])


def test_a_donated_bank_is_written_in_place():
    shape = lambda *s, dtype=jnp.float32: jax.ShapeDtypeStruct((*LEAD, *s), dtype)
    ints = [shape(*s, dtype=jnp.int32) for s in ((64,), (), ())]
    bank = shape(8, 64, HEADS, DIM)
    arguments = (bank, shape(64, HEADS, DIM), *ints)
    compiled = jax.jit(write_rows, donate_argnums=0).lower(*arguments).compile()
    memory, size = compiled.memory_analysis(), 4 * bank.size
    assert memory.alias_size_in_bytes >= size and memory.temp_size_in_bytes < size / 4

    def scatter(slots, x, index, length, slot):  # what holds all new rows at once, as a measure
        at = jnp.indices(LEAD, sparse=True)
        return slots.at[(*at, slot)].set(take_rows(x, index, length), mode="drop")

    compiled = jax.jit(scatter, donate_argnums=0).lower(*arguments).compile()
    assert compiled.memory_analysis().temp_size_in_bytes > memory.temp_size_in_bytes


def test_unknown_implementation():
    x = jnp.zeros((2, 1, 1))
    with pytest.raises(ValueError, match="cuda.*auto, mosaic, triton, xla, cpu, gpu, tpu"):
        pack(x[None], jnp.ones(1, jnp.int32), implementation="cuda")
    with pytest.raises(ValueError, match="cuda.*auto, mosaic, triton, xla, cpu, gpu, tpu"):
        ones = jnp.zeros(2, jnp.int32), jnp.int32(2), jnp.int32(0)
        write_rows(x[None], x, *ones, implementation="cuda")
