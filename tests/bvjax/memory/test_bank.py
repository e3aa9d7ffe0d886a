"""KVBank: entries, the one write function, eviction, and configurations that cannot work."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import (
    BuildConfig,
    ChunkConfig,
    DiTConfig,
    MemoryConfig,
    ModelConfig,
    RetrievalConfig,
    TextConfig,
)
from bvjax.errors import UserError
from bvjax.memory.bank import Entry, check, gather, init_bank, keep_rows, write
from bvjax.nets.dit import ChunkKV
from bvjax.overrides import apply_overrides
from bvjax.presets import PRESETS

BATCH, CAPACITY, TEXT = 2, 6, 5
MODEL = ModelConfig(
    name="tiny",
    chunk=ChunkConfig(height=32, width=32, fps=8, frames=8),  # 2 latents of 4 tokens
    dit=DiTConfig(dim=12, num_heads=2, num_layers=2),
    text=TextConfig(dim=TEXT),
    memory=MemoryConfig(slots=16, capacity=CAPACITY),
    build=BuildConfig(n_recent=2, n_random=2),
)


def make_entry(*args, **options):
    return gather(keep_rows(*args, **options))


def entry_of(chunk_id):
    """An entry whose rows and lengths tell which chunk it is; `chunk_id` may be traced."""
    rows = jnp.full((2, BATCH, CAPACITY, 2, 6), 1.0 + chunk_id)
    lengths = jnp.broadcast_to(1 + jnp.asarray(chunk_id, jnp.int32) % CAPACITY, (2, BATCH))
    positions = jnp.full((2, BATCH, CAPACITY, 3), chunk_id, jnp.int32)
    return Entry(rows, 10 * rows, positions, lengths, lengths)


class Writer:
    """Jitted `write` of `entry_of`, counting its traces."""

    def __init__(self, model=MODEL):
        self.traces = 0

        @jax.jit
        def step(bank, embedding, chunk_id):
            self.traces += 1
            recent = model.retrieval.num_recent
            return write(bank, entry_of(chunk_id), embedding, chunk_id, model.memory, recent)

        self.step = step
        self.bank = init_bank(model, BATCH, jnp.float32)

    def __call__(self, chunk_id, embedding=None):
        if embedding is None:
            embedding = np.random.default_rng(chunk_id).standard_normal((BATCH, TEXT))
        self.bank = self.step(self.bank, jnp.asarray(embedding, jnp.float32), jnp.int32(chunk_id))
        return self.bank


def ids(bank, row=0):
    return np.asarray(bank.chunk_id[row]).tolist()


def same(bank, other):
    return all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(bank), jax.tree.leaves(other), strict=True)
    )


@pytest.fixture(scope="module", params=["oldest", "redundant"])
def long_story(request):
    """Every bank of 75 chunks after the anchor, in 16 slots, and the number of traces."""
    memory = dataclasses.replace(MODEL.memory, evict=request.param)
    writer = Writer(dataclasses.replace(MODEL, memory=memory))
    banks = [jax.device_get(writer(chunk_id)) for chunk_id in range(76)]
    return request.param, banks, writer.traces


def test_75_chunks_in_16_slots_in_one_compilation(long_story):
    _, banks, traces = long_story
    assert traces == 1
    assert all(bank.valid.shape == (BATCH, 16) for bank in banks)
    assert banks[-1].valid.all() and banks[9].valid.sum() == 10 * BATCH


def test_anchor_recent_and_new_are_in_the_bank_after_every_write(long_story):
    _, banks, _ = long_story
    for chunk_id, bank in enumerate(banks):
        for row in range(BATCH):
            held = ids(bank, row)
            assert held[0] == 0 and bank.valid[row, 0]
            assert {c for c in range(chunk_id - 2, chunk_id + 1) if c >= 0} <= set(held)
            filled = [c for c in held if c >= 0]
            assert len(filled) == len(set(filled))


def test_rows_stay_with_their_chunk(long_story):
    _, banks, _ = long_story
    for bank in (banks[4], banks[40], banks[75]):
        slot_id = np.where(bank.valid, bank.chunk_id, -1)
        full = (1.0 + slot_id)[None, :, :, None, None, None]  # empty slots are zeros
        assert (bank.keys == full).all() and (bank.values == 10 * full).all()
        assert (bank.positions == np.maximum(slot_id, 0)[None, :, :, None, None]).all()
        want = np.where(bank.valid, 1 + slot_id % CAPACITY, 0)
        assert (bank.lengths == want).all() and (bank.stored == want).all()


def slow_victim(bank, row, new, chunk_id, recent=2):
    """Slot that `redundant` gives up: the entry most like one that stays, the older of a pair."""
    held = {s: i for s, i in enumerate(ids(bank, row)) if s > 0}

    def unit(x):
        return np.asarray(x, np.float64) / np.linalg.norm(x)

    def like(slot):
        others = [unit(bank.embedding[row, s]) for s in held if s != slot] + [unit(new[row])]
        return max(float(unit(bank.embedding[row, slot]) @ o) for o in others)

    old = [s for s, i in held.items() if i < chunk_id - recent]
    return max(old, key=lambda s: (round(like(s), 5), -held[s]))


def test_which_entry_leaves(long_story):
    evict, banks, _ = long_story
    if evict == "oldest":
        for bank in banks[20::10]:
            last = int(bank.chunk_id.max())
            assert sorted(ids(bank)) == [0, *range(last - 14, last + 1)]
        return
    for chunk_id in range(16, 76):
        before, after = banks[chunk_id - 1], banks[chunk_id]
        new = np.random.default_rng(chunk_id).standard_normal((BATCH, TEXT))
        for row in range(BATCH):
            changed = [
                s
                for s, (a, b) in enumerate(zip(ids(before, row), ids(after, row), strict=True))
                if a != b
            ]
            assert changed == [slow_victim(before, row, new, chunk_id)]
    assert ids(banks[-1], 0) != ids(banks[-1], 1)  # batch rows decide for themselves


def test_of_a_pair_the_older_leaves_and_rare_scenes_stay():
    small = dataclasses.replace(MODEL.memory, slots=7)
    writer = Writer(dataclasses.replace(MODEL, memory=small))
    park, beach, cave = np.eye(TEXT)[:3]
    for chunk_id, scene in enumerate([park, park, beach, park, beach, park, cave, cave, cave]):
        writer(chunk_id, np.stack([scene] * BATCH))
    # Id 7 finds six others: 1 and 3 repeat a later park, 2 a later beach; 5 and 6 are protected.
    # Of equals the oldest goes first: 1 for id 7, then 2 for id 8.
    assert sorted(ids(writer.bank)) == [0, 3, 4, 5, 6, 7, 8]
    for chunk_id in (9, 10, 11):  # caves go before the last park and the last beach do
        writer(chunk_id, np.stack([cave] * BATCH))
    assert sorted(ids(writer.bank)) == [0, 4, 5, 8, 9, 10, 11]


def test_writing_an_id_again_replaces_it():
    writer = Writer()
    for chunk_id in range(5):
        writer(chunk_id)
    once = writer.bank
    assert same(writer(3), once)
    other = writer(3, np.ones((BATCH, TEXT)))
    assert ids(other) == ids(once) and (other.embedding[:, 3] == 1).all()


def test_a_chunk_older_than_all_is_not_written():
    writer = Writer()
    for chunk_id in (0, *range(20, 35)):
        before = writer(chunk_id)
    assert same(writer(2), before)


def test_without_an_anchor_slot_0_is_like_the_others():
    memory = dataclasses.replace(MODEL.memory, slots=4, anchor=False, evict="oldest")
    writer = Writer(dataclasses.replace(MODEL, memory=memory))
    for chunk_id in range(6):
        writer(chunk_id)
    assert ids(writer.bank) == [4, 5, 2, 3]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("dense", [False, True])
def testmake_entry_equals_a_loop(dense, dtype):
    rng = np.random.default_rng(0)
    shape = (2, BATCH, 1, 8, 2, 6)
    kv = ChunkKV(
        keys=jnp.asarray(rng.standard_normal(shape), dtype),
        values=jnp.asarray(rng.standard_normal(shape), dtype),
        importance=jnp.zeros(shape[:4]),
    )
    keep = rng.random(shape[:4]) < 0.5
    keep[0, 0] = False
    positions = rng.integers(0, 9, (8, 3)).astype(np.int32)
    make = jax.jit(functools.partial(make_entry, capacity=10, dense=dense))
    entry = jax.device_get(make(kv, keep, positions))
    kv = jax.device_get(kv)
    for at in np.ndindex(2, BATCH):
        kept, rest = np.flatnonzero(keep[at][0]), np.flatnonzero(~keep[at][0])
        order = np.concatenate([kept, rest]) if dense else kept
        assert entry.lengths[at] == len(kept) and entry.stored[at] == len(order)
        for got, source in (
            (entry.keys[at], kv.keys[at][0]),
            (entry.values[at], kv.values[at][0]),
            (entry.positions[at], positions),
        ):
            assert (got[: len(order)] == source[order]).all()
            assert not got[len(order) :].any() and got.shape[0] == 10
    assert entry.keys.dtype == dtype
    if dense:
        with pytest.raises(ValueError, match="8 tokens"):
            make_entry(kv, jnp.asarray(keep), positions, 7, dense=True)


def test_presets_are_legal():
    for preset in PRESETS.values():
        check(preset)
    check(MODEL)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["memory.slots=3"], "memory.slots is 3; it must be 4 or more"),
        (["memory.slots=2", "memory.anchor=false"], "it must be 3 or more"),
        (["memory.evict=fifo"], "memory.evict is 'fifo'; it can be redundant, oldest"),
        (["memory.cover=all"], "memory.cover is 'all'; it can be normalised, accumulated"),
        (["memory.norm=mean"], "memory.norm is 'mean'; it can be nnz, position"),
        (["build.context=own"], "build.context is 'own'; it can be none, with"),
        (["build.label=-0.1"], "build.label is -0.1; it is a sigma and must be at least 0"),
        (["build.context_noise=1"], "build.context_noise is 1.0; it is a sigma and must be"),
        (["build.mask=causal"], "build.mask is 'causal'; it can be chunk, frame, token"),
        (["build.probe=last"], "build.probe is 'last'; it can be recent_random"),
        (["build.n_recent=0", "build.n_random=0"], "their sum must be 1 or more"),
        (
            ["memory.granularity=heads"],
            "memory.granularity is 'heads'; it can be layer, head, model",
        ),
        (["build.softmax_over=context"], "build.softmax_over is 'context'; it can be own, all"),
        (["build.softmax_over=all"], "use build.context='with'"),
        (
            ["memory.granularity=head", "retrieval.dense_recent=true"],
            "retrieval.dense_recent is True; with memory.granularity='head' it must be False",
        ),
        (["retrieval.offset=-1"], "retrieval.offset is -1; it must be 0 or more"),
        (["build.n_recent=-1"], "build.n_recent is -1; it must be 0 or more"),
        (["retrieval.kind=top"], "retrieval.kind is 'top'; it can be semantic, rolling, oracle"),
        (["retrieval.num_retrieved=-1"], "retrieval.num_retrieved is -1; it must be 0 or more"),
        (
            ["rope.mode=relative"],
            "rope.mode is 'relative'; it can be absolute, local, window, packed",
        ),
        (["memory.tau=0"], "memory.tau is 0.0; it must be above 0 and at most 1"),
        (["memory.tau=1.5"], "memory.tau is 1.5; it must be above 0 and at most 1"),
        (["memory.capacity=0"], "memory.capacity is 0; it must be 1 or more"),
        (["memory.capacity=3"], "the anchor is kept whole, so it must be 4 or more"),
        (["retrieval.dense_recent=true"], "so it must be 8 or more"),
    ],
)
def test_configurations_that_cannot_work(overrides, message):
    with pytest.raises(UserError) as error:
        check(apply_overrides(MODEL, overrides))
    assert message in str(error.value)


def test_limits_are_legal():
    check(apply_overrides(MODEL, ["memory.slots=4", "memory.capacity=4", "memory.tau=1"]))
    check(apply_overrides(MODEL, ["memory.capacity=1", "memory.anchor=false"]))
    check(apply_overrides(MODEL, ["memory.capacity=8", "retrieval.dense_recent=true"]))
    assert RetrievalConfig().num_recent == 2
