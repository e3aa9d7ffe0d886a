"""Keys and values in 8 bits: how far from what was written, and the same things around them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bvjax.config import ChunkConfig, DiTConfig, MemoryConfig, ModelConfig, TextConfig
from bvjax.errors import UserError
from bvjax.memory.bank import check, gather, init_bank, keep_rows, shard, write
from bvjax.memory.positions import time_bases
from bvjax.memory.retrieval import GatheredEntries, assemble, retrieve
from bvjax.memory.storage import decode, encode, storage_dtype
from bvjax.nets.dit import ChunkKV
from bvjax.sharding import ONE_DEVICE

SCALED = ("int8", "float8_e4m3fn")
MODEL = ModelConfig(
    name="tiny",
    chunk=ChunkConfig(height=32, width=32, fps=8, frames=8),  # 2 latents of 4 tokens
    dit=DiTConfig(dim=12, num_heads=2, num_layers=2, dtype="float32"),
    text=TextConfig(dim=5),
    memory=MemoryConfig(slots=8, capacity=8),
)
POSITIONS = np.stack(np.meshgrid(range(2), range(2), range(2), indexing="ij"), -1).reshape(-1, 3)


def make_entry(*args, **options):
    return gather(keep_rows(*args, **options))


_decode = jax.jit(functools.partial(decode, dtype=None))
_encode = jax.jit(encode, static_argnums=1)


def model_of(dtype):
    return dataclasses.replace(MODEL, memory=dataclasses.replace(MODEL.memory, dtype=dtype))


@pytest.mark.parametrize("dtype", SCALED)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), size=st.sampled_from([1e-30, 1e-3, 1.0, 1e30]))
def test_error_of_a_row(dtype, seed, size):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, 2, 16)) * rng.choice([1e-4, 1.0, 50.0], (3, 2, 16)) * size
    x[1, 1] = 0
    x = jnp.asarray(x, jnp.float32)
    stored, scales = _encode(x, jnp.dtype(dtype))
    assert stored.dtype == dtype and scales.shape == (3, 2) and scales.dtype == jnp.float32
    got = np.asarray(_decode(stored, scales), np.float64)
    x = np.asarray(x, np.float64)
    most = np.abs(x).max(-1, keepdims=True)
    if dtype == "int8":
        bound = most / 254
    else:
        bound = np.maximum(np.abs(x) / 16, most / 448 / 1024)
    assert (np.abs(got - x) <= bound * (1 + 1e-5)).all()
    assert not got[1, 1].any() and scales[1, 1] == 0
    np.testing.assert_allclose(np.abs(got).max(-1), most[..., 0], rtol=1e-6)  # the largest is kept


@pytest.mark.parametrize("dtype", SCALED)
def test_rows_too_small_for_a_scale_stay_finite(dtype):
    x = jnp.full((1, 1, 4), 1e-44, jnp.float32)
    stored, scales = encode(x, jnp.dtype(dtype))
    got = decode(stored, scales, jnp.float32)
    assert np.isfinite(np.asarray(got)).all() and np.abs(got).max() < 1e-40


def test_without_scales_it_is_a_cast():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2, 4)), jnp.float32)
    stored, scales = encode(x, jnp.bfloat16)
    assert scales is None and stored.dtype == jnp.bfloat16
    assert (decode(stored, None, jnp.float32) == x.astype(jnp.bfloat16)).all()
    assert decode(stored, None, None).dtype == jnp.bfloat16 and encode(x, None)[0] is x


@functools.partial(jax.jit, static_argnames="dtype")
def entry_of(keys, values, keep, dtype):
    kv = ChunkKV(keys=keys, values=values, importance=None)
    return make_entry(kv, keep, jnp.asarray(POSITIONS), 8, dtype=dtype)


def chunk(chunk_id):
    rng = np.random.default_rng(chunk_id)
    keys, values = rng.standard_normal((2, 2, 1, 1, 8, 2, 6)).astype(np.float32)
    return keys, values, rng.random((2, 1, 1, 8)) < 0.7


@functools.cache
def bank_of(model):
    """A bank of six chunks, and its entries as rows of their own."""
    dtype = storage_dtype(model)
    bank, entries = jax.jit(init_bank, static_argnums=(0, 1, 2))(model, 1, dtype), {}
    put = jax.jit(write, static_argnums=(4, 5))
    for i in range(6):
        entries[i] = entry_of(*chunk(i), dtype=dtype)
        bank = put(bank, entries[i], _caption(i), np.int32(i), model.memory, 2)
    return bank, entries


def _caption(chunk_id):
    values = np.random.default_rng(50 + chunk_id).standard_normal((1, 5))
    return jnp.asarray(values, jnp.float32)


@functools.partial(jax.jit, static_argnums=1)
def look(bank, model):
    picked = retrieve(bank, _caption(1), jnp.int32(6), model)
    base, _ = time_bases(
        "window",
        picked.chunk_id,
        picked.valid,
        jnp.int32(6),
        latents=2,
        first_latents=1,
        num_recent=2,
        num_retrieved=2,
        anchor=True,
    )
    return picked, base


_assemble = jax.jit(assemble, static_argnums=(3, 4, 5))


@pytest.fixture(scope="module")
def contexts():
    """The context of chunk 6 by `memory.dtype`."""
    made = {}
    for dtype in ("", *SCALED):
        model = model_of(dtype)
        bank, _ = bank_of(model)
        picked, base = look(bank, model)
        made[dtype] = jax.device_get(_assemble(bank, picked, base, 1e4, ONE_DEVICE, jnp.float32))
    return made


@pytest.mark.parametrize("dtype, within", [("int8", 0.02), (SCALED[1], 0.07)])
def test_a_context_is_near_that_of_float32(contexts, dtype, within):
    want, got = contexts[""], contexts[dtype]
    assert (got.length == want.length).all() and got.keys.dtype == jnp.float32
    for name in ("keys", "values"):
        a, b = (np.asarray(getattr(c, name)) for c in (got, want))
        # rows are roped after decoding: pairs turn, their length stays
        error = np.linalg.norm(a - b, axis=-1)
        assert 0 < error.max() <= within * np.linalg.norm(b, axis=-1).max()
        assert not a[np.linalg.norm(b, axis=-1) == 0].any()


@pytest.mark.parametrize("dtype", ["", "int8"])
def test_entries_beside_each_other_are_a_bank(dtype):
    model = model_of(dtype)
    bank, entries = bank_of(model)
    picked, base = look(bank, model)
    order = [entries.get(int(i), entries[0]) for i in picked.chunk_id[0]]
    here = picked.replace(index=np.arange(5)[None])
    made = [
        _assemble(held, selection, base, 1e4, ONE_DEVICE, jnp.float32)
        for held, selection in ((bank, picked), (GatheredEntries(tuple(order), here), here))
    ]
    jax.tree.map(np.testing.assert_array_equal, *made)
    assert made[0].length.min() > 0


def test_scales_are_part_of_the_bank():
    model = model_of("int8")
    bank, _ = bank_of(model)
    assert bank.keys.dtype == jnp.int8
    assert bank.key_scales.shape == bank.value_scales.shape == (2, 1, 8, 8, 2)
    unused = np.arange(8) >= np.asarray(bank.stored)[..., None]
    assert not np.asarray(bank.key_scales)[unused].any() and (bank.key_scales > 0).any()
    assert shard(bank, ONE_DEVICE).key_scales is bank.key_scales
    with pytest.raises(ValueError, match="no entry of a bank of int8"):
        write(bank, entry_of(*chunk(1), dtype=None), _caption(1), jnp.int32(1), model.memory, 2)


@pytest.mark.parametrize(
    "field, value", [("dtype", "int4"), ("dtype", "float32"), ("offload", "disk")]
)
def test_other_values_are_refused(field, value):
    memory = dataclasses.replace(MODEL.memory, **{field: value})
    with pytest.raises(UserError, match=f"memory.{field} is '{value}'; it can be "):
        check(dataclasses.replace(MODEL, memory=memory))


@pytest.mark.parametrize("dtype", ("", "int8"))
def test_rows_written_in_place_are_those_of_an_entry(dtype):
    model = model_of(dtype)
    stored = storage_dtype(model)
    start = jax.jit(init_bank, static_argnums=(0, 1, 2))(model, 1, stored)
    place = jax.jit(write, static_argnums=(4, 5), donate_argnums=0)
    apart, inside = start, jax.tree.map(jnp.copy, start)
    for chunk_id in range(1, 4):
        keys, values, keep = chunk(chunk_id)
        kv = ChunkKV(keys=jnp.asarray(keys), values=jnp.asarray(values), importance=None)
        kept = keep_rows(kv, jnp.asarray(keep), jnp.asarray(POSITIONS), 8, dtype=stored)
        given = _caption(chunk_id), jnp.int32(chunk_id), model.memory, 2
        apart = write(apart, gather(kept), *given)
        inside = place(inside, kept, *given)
    jax.tree.map(np.testing.assert_array_equal, inside, apart)
    assert inside.lengths[:, 0, 1:4].min() < 8
