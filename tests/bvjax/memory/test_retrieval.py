"""What a chunk sees: scores, selection, RoPE times and the packed context."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bvjax.config import (
    BuildConfig,
    ChunkConfig,
    DiTConfig,
    MemoryConfig,
    ModelConfig,
    RetrievalConfig,
    TextConfig,
)
from bvjax.denoiser import guidance
from bvjax.errors import UserError
from bvjax.memory.bank import gather, init_bank, keep_rows, write
from bvjax.memory.importance import keep_mask
from bvjax.memory.positions import time_bases
from bvjax.memory.retrieval import (
    assemble,
    retrieve,
    select,
)
from bvjax.memory.rules import semantic_scores
from bvjax.nets.dit import ChunkKV
from bvjax.nets.rope import angles, apply_rope

LAYERS, BATCH, HEADS, DIM, TEXT = 2, 2, 2, 6, 5
TOKENS, THETA, L = 8, 10000.0, 2
MODEL = ModelConfig(
    name="tiny",
    chunk=ChunkConfig(height=32, width=32, fps=8, frames=8),  # 2 latents of 4 tokens
    dit=DiTConfig(dim=HEADS * DIM, num_heads=HEADS, num_layers=LAYERS),
    text=TextConfig(dim=TEXT),
    memory=MemoryConfig(slots=8, capacity=TOKENS, tau=0.6),
    build=BuildConfig(n_recent=2, n_random=2),
)
POSITIONS = np.stack(np.meshgrid(range(L), range(2), range(2), indexing="ij"), -1).reshape(-1, 3)


def make_entry(*args, **options):
    return gather(keep_rows(*args, **options))


def chunk_kv(chunk_id, dtype=jnp.float32):
    rng = np.random.default_rng(chunk_id)
    shape = (LAYERS, BATCH, 1, TOKENS, HEADS, DIM)
    return ChunkKV(
        keys=jnp.asarray(rng.standard_normal(shape), dtype),
        values=jnp.asarray(rng.standard_normal(shape), dtype),
        importance=jnp.asarray(rng.random(shape[:4]), jnp.float32),
    )


def caption(chunk_id):
    embedding = np.random.default_rng(100 + chunk_id).standard_normal((BATCH, TEXT))
    return jnp.asarray(embedding, jnp.float32)


@functools.partial(jax.jit, static_argnums=1)
def keep_of(kv, memory):
    return keep_mask(kv.importance, jnp.full(4, TOKENS), memory, memory.capacity)[0]


@jax.jit
def roped(keys, start):
    """All keys [..., N, A, K] of a chunk that begins at latent frame `start`."""
    return apply_rope(keys, angles(jnp.asarray(POSITIONS).at[:, 0].add(start), DIM, THETA))


_entry = jax.jit(make_entry, static_argnums=(3, 4))
_write = jax.jit(write, static_argnums=(4, 5))
_select = jax.jit(select, static_argnums=(4, 5, 6, 8))
_retrieve = jax.jit(retrieve, static_argnums=3)
_assemble = jax.jit(assemble, static_argnums=3)
_bases = jax.jit(
    time_bases,
    static_argnums=0,
    static_argnames=("latents", "first_latents", "num_recent", "num_retrieved", "anchor"),
)


def story(num_chunks, model=MODEL, dtype=jnp.float32):
    """A bank with the anchor (one latent, whole) and chunks 1 .. num_chunks."""
    memory, dense = model.memory, model.retrieval.dense_recent
    bank = init_bank(model, BATCH, dtype)
    for chunk_id in range(num_chunks + 1):
        kv, positions = chunk_kv(chunk_id, dtype), POSITIONS
        keep = keep_of(kv, memory)
        if chunk_id == 0:
            kv = jax.tree.map(lambda x: np.asarray(x)[:, :, :, :4], kv)
            keep, positions = np.ones((LAYERS, BATCH, 1, 4), bool), POSITIONS[:4]
        entry = _entry(kv, keep, positions, memory.capacity, dense)
        recent = model.retrieval.num_recent
        bank = _write(bank, entry, caption(chunk_id), jnp.int32(chunk_id), memory, recent)
    return bank


def bases(mode, selection, target, model=MODEL):
    r = model.retrieval
    return _bases(
        mode,
        selection.chunk_id,
        selection.valid,
        target,
        latents=L,
        first_latents=1,
        num_recent=r.num_recent,
        num_retrieved=r.num_retrieved,
        anchor=model.memory.anchor,
    )


def attend(query, context):
    """softmax(q k) v over the valid rows, one float64 loop step per layer and batch row."""
    out, context = [], jax.device_get(context)
    for y, b in np.ndindex(LAYERS, BATCH):
        n = int(context.length[y, b, 0])
        k, v = (np.asarray(x[y, b, 0, :n], np.float64) for x in (context.keys, context.values))
        logits = np.einsum("nak,sak->ans", query, k) / np.sqrt(DIM)
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        out.append(np.einsum("ans,sak->nak", weights, v))
    return np.stack(out)


QUERY = np.random.default_rng(9).standard_normal((3, HEADS, DIM))

# ---- scores ---------------------------------------------------------------------------------


def test_semantic_scores_equal_a_loop():
    rng = np.random.default_rng(0)
    target, entries = rng.standard_normal((2, 5)), 3 + rng.standard_normal((2, 4, 5))
    valid = jnp.array([[1, 1, 1, 0], [1, 0, 1, 1]], bool)
    for center in (False, True):
        got = semantic_scores(jnp.asarray(target), jnp.asarray(entries), valid, center)
        for b in range(2):
            mean = entries[b][valid[b]].mean(0) if center else 0
            t, e = target[b] - mean, entries[b] - mean
            want = e @ t / np.linalg.norm(e, axis=-1) / np.linalg.norm(t)
            np.testing.assert_allclose(got[b], want, atol=1e-6)


def test_equal_captions_tie_to_the_bit_and_the_most_recent_wins():
    rng = np.random.default_rng(1)
    entries = jnp.asarray(rng.standard_normal((1, 16, 4099)), jnp.float32)
    entries = entries.at[:, jnp.array([3, 7, 12, 15])].set(entries[:, :1] * 0.5)
    target = entries[:, 0] + 0.1
    scores = jax.jit(semantic_scores)(target, entries, jnp.ones((1, 16), bool))
    assert len({float(scores[0, s]) for s in (3, 7, 12, 15)}) == 1
    ids = jnp.array([[-1, *range(1, 16)]], jnp.int32)
    pick = _select(scores, ids, ids > 0, jnp.int32(20), 2, 2, False)
    assert pick.chunk_id[0, :2].tolist() == [12, 15]


def test_zero_embeddings_score_zero():
    scores = semantic_scores(jnp.zeros((1, 5)), jnp.ones((1, 2, 5)), jnp.ones((1, 2), bool))
    assert scores.tolist() == [[0, 0]]


@pytest.fixture(scope="module")
def bank7():
    return story(7)


def retrieved(kind, bank, target=8, model=MODEL, **arguments):
    retrieval = dataclasses.replace(model.retrieval, kind=kind)
    model = dataclasses.replace(model, retrieval=retrieval)
    return _retrieve(bank, caption(3) * 2.0, jnp.int32(target), model, **arguments)


def test_kinds(bank7):
    planted = retrieved("semantic", bank7)  # the target's caption is that of chunk 3
    assert all(3 in row[1:3] for row in planted.chunk_id.tolist())
    assert planted.chunk_id[:, 3:].tolist() == [[6, 7]] * BATCH
    assert planted.recent.tolist() == [[False] * 3 + [True] * 2] * BATCH
    assert retrieved("rolling", bank7).chunk_id.tolist() == [[0, 4, 5, 6, 7]] * BATCH

    draws = [retrieved("random", bank7, key=jax.random.key(i)).chunk_id for i in range(8)]
    assert (draws[0] == retrieved("random", bank7, key=jax.random.key(0)).chunk_id).all()
    assert {int(i) for d in draws for i in d[:, 1:3].ravel()} == {1, 2, 3, 4, 5}

    given_scores = jnp.full((BATCH, 8), -jnp.inf).at[0, 5].set(1.0).at[:, 2].set(0.0)
    oracle = retrieved("oracle", bank7, oracle=given_scores)
    assert oracle.chunk_id.tolist() == [[0, 2, 5, 6, 7], [0, -1, 2, 6, 7]]

    none = retrieved("none", bank7)
    assert none.chunk_id.tolist() == [[0, -1, -1, -1, -1]] * BATCH
    bare = dataclasses.replace(MODEL, memory=dataclasses.replace(MODEL.memory, anchor=False))
    assert not retrieved("none", bank7, model=bare).valid.any()


def test_kinds_want_their_arguments(bank7):
    for kind, error, message in (
        ("random", ValueError, "needs a key"),
        ("oracle", ValueError, "needs oracle scores"),
        ("best", UserError, "retrieval.kind is 'best'; it can be semantic, rolling"),
    ):
        with pytest.raises(error, match=message):
            retrieved(kind, bank7)


# ---- selection ------------------------------------------------------------------------------


def slow_select(scores, ids, valid, target, recent, l, anchor):
    history = {i: s for s, i in enumerate(ids) if valid[s] and i < target and s >= anchor}
    old = [i for i in history if i < target - recent and scores[history[i]] > -np.inf]
    top = sorted(sorted(old, key=lambda i: (scores[history[i]], i))[::-1][:l])
    head = [0 if valid[0] and ids[0] < target else -1] if anchor else []
    tail = [i if i in history else -1 for i in range(target - recent, target)]
    return head + [-1] * (l - len(top)) + top + tail


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.permutations(range(1, 13)),
    st.lists(st.booleans(), min_size=6, max_size=6),
    st.lists(st.sampled_from([-np.inf, -1.0, 0.5, 0.5, 2.0]), min_size=6, max_size=6),
    st.integers(0, 14),
    st.sampled_from([(2, 2, True), (2, 2, False), (0, 3, True), (3, 0, False), (1, 8, True)]),
)
def test_select_equals_a_slow_oracle(order, valid, scores, target, sizes):
    recent, l, anchor = sizes
    ids = [0, *order[:5]] if anchor else order[:6]
    want = slow_select(scores, ids, valid, target, recent, l, anchor)
    arrays = (jnp.array([scores]), jnp.array([ids], jnp.int32), jnp.array([valid]))
    got = _select(*arrays, jnp.int32(target), recent, l, anchor)
    assert got.chunk_id[0].tolist() == want
    assert got.valid[0].tolist() == [i >= 0 for i in want]
    assert all(ids[s] == i for s, i in zip(got.index[0].tolist(), want, strict=True) if i >= 0)
    in_window = [i >= 0 and e >= len(want) - recent for e, i in enumerate(want)]
    assert got.recent[0].tolist() == in_window
    semantic = [i >= 0 and anchor <= e < len(want) - recent for e, i in enumerate(want)]
    config = RetrievalConfig(num_recent=recent, num_retrieved=l)
    assert guidance.retrieved(got.valid, config)[0].tolist() == semantic


@pytest.mark.parametrize("offset", [1, 2])
def test_the_recent_window_can_begin_further_back(offset):
    """Chunk 9 of ids 0..8 sees {9 - offset - 2, 9 - offset - 1}, and may retrieve what lies between."""
    ids = jnp.arange(9)[None]
    scores = jnp.array([[0, 1, 0, 0, 0, 0, 0, 2.0, 3.0]])
    pick = _select(scores, ids, ids >= 0, jnp.int32(9), 2, 2, True, None, offset)
    semantic = [1, 8] if offset == 1 else [7, 8]
    assert pick.chunk_id[0].tolist() == [0, *semantic, 7 - offset, 8 - offset]
    assert pick.recent[0].tolist() == [False, False, False, True, True]
    # in a shot that begins at 7 only its chunks are recent; what is before it can be retrieved
    pick = _select(scores, ids, ids >= 0, jnp.int32(9), 2, 2, True, jnp.int32(7), offset)
    assert pick.chunk_id[0, 3:].tolist() == ([-1, 7] if offset == 1 else [-1, -1])


def test_context_sizes_by_chunk():
    """Eq. 9: 0, 1, 2, 3, 4 entries besides the anchor for c = 1, 2, 3, 4, >= 5."""
    for c, size in ((1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (6, 4)):
        ids = jnp.where(jnp.arange(8) < c, jnp.arange(8), -1)[None]
        pick = _select(jnp.zeros((1, 8)), ids, ids >= 0, jnp.int32(c), 2, 2, True)
        assert pick.valid[0, 0] and pick.valid[0, 1:].sum() == size


# ---- the context ----------------------------------------------------------------------------


def slow_context(chunk_ids, entry_base, memory, layer, row, dtype, whole=()):
    """Roped keys and values of the kept tokens, one chunk after another."""
    keys, values = [], []
    for chunk_id, base in zip(chunk_ids, entry_base, strict=True):
        if chunk_id < 0:
            continue
        kv = chunk_kv(chunk_id, dtype)
        keep = np.asarray(keep_of(kv, memory))[layer, row, 0]
        rotated, stored = jax.device_get((roped(kv.keys, base), kv.values))
        order = np.flatnonzero(keep)
        if chunk_id == 0:
            order = np.arange(4)
        elif chunk_id in whole:
            order = np.concatenate([order, np.flatnonzero(~keep)])
        keys.append(rotated[layer, row, 0, order])
        values.append(stored[layer, row, 0, order])
    return np.concatenate(keys), np.concatenate(values)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("num_chunks, dense", [(1, False), (7, False), (7, True)])
def test_assemble_equals_a_loop(dtype, num_chunks, dense):
    retrieval = dataclasses.replace(MODEL.retrieval, dense_recent=dense)
    model = dataclasses.replace(MODEL, retrieval=retrieval)
    bank = story(num_chunks, model, dtype)
    target = num_chunks + 1
    pick = _retrieve(bank, caption(3), jnp.int32(target), model)
    entry_base, _ = bases("window", pick, jnp.int32(target))
    context = jax.device_get(_assemble(bank, pick, entry_base, THETA))
    assert context.keys.shape == (LAYERS, BATCH, 1, 5 * TOKENS, HEADS, DIM)
    assert context.keys.dtype == dtype and context.mask is None
    whole = (target - 2, target - 1) if dense else ()
    for y, b in np.ndindex(LAYERS, BATCH):
        keys, values = slow_context(
            pick.chunk_id[b].tolist(), entry_base[b].tolist(), model.memory, y, b, dtype, whole
        )
        n = len(keys)
        assert context.length[y, b, 0] == n
        np.testing.assert_array_equal(context.values[y, b, 0, :n], values)
        got, keys = (np.asarray(x, np.float32) for x in (context.keys[y, b, 0, :n], keys))
        tolerance = 1e-6 if dtype == jnp.float32 else 1e-2
        np.testing.assert_allclose(got, keys, atol=tolerance, rtol=tolerance)
        assert not context.keys[y, b, 0, n:].any() and not context.values[y, b, 0, n:].any()
    if num_chunks == 7:
        assert len(set(context.length.ravel().tolist())) > 1  # keep sets differ, so do lengths


def test_an_empty_bank_gives_no_rows():
    bank = init_bank(MODEL, BATCH, jnp.float32)
    pick = _retrieve(bank, caption(0), jnp.int32(0), MODEL)
    context = _assemble(bank, pick, bases("absolute", pick, jnp.int32(0))[0], THETA)
    assert not context.length.any() and not context.keys.any()
    assert not jnp.isnan(context.keys).any()


def test_order_of_a_slots_rows_does_not_matter(bank7):
    pick = _retrieve(bank7, caption(3), jnp.int32(8), MODEL)
    base, _ = bases("absolute", pick, jnp.int32(8))
    want = attend(QUERY, _assemble(bank7, pick, base, THETA))
    rng = np.random.default_rng(0)
    rows = np.tile(np.arange(TOKENS), (*bank7.lengths.shape, 1))
    for at in np.ndindex(bank7.lengths.shape):
        rng.shuffle(rows[at][: int(bank7.lengths[at])])
    moved = bank7.replace(
        **{
            name: np.take_along_axis(
                x, rows.reshape(*rows.shape, *(1,) * (x.ndim - rows.ndim)), axis=3
            )
            for name, x in (
                (n, np.asarray(getattr(bank7, n))) for n in ("keys", "values", "positions")
            )
        }
    )
    assert (np.asarray(moved.keys) != np.asarray(bank7.keys)).any()
    got = attend(QUERY, _assemble(jax.tree.map(jnp.asarray, moved), pick, base, THETA))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_tau_one_with_full_capacity_is_the_dense_cache():
    model = dataclasses.replace(MODEL, memory=dataclasses.replace(MODEL.memory, tau=1.0))
    bank = story(4, model)
    pick = _retrieve(bank, caption(9), jnp.int32(5), model)
    base, _ = bases("absolute", pick, jnp.int32(5))
    context = _assemble(bank, pick, base, THETA)
    assert (context.length == 4 + 4 * TOKENS).all()
    # Post-RoPE storage at absolute times, never compacted: anchor at 0, chunk c at 1 + (c - 1) L.
    keys, values = [], []
    for chunk_id in range(5):
        kv = chunk_kv(chunk_id)
        tokens, start = (4, 0) if chunk_id == 0 else (TOKENS, 1 + (chunk_id - 1) * L)
        keys.append(np.asarray(roped(kv.keys, start))[:, :, :, :tokens])
        values.append(np.asarray(kv.values)[:, :, :, :tokens])
    dense = context.replace(keys=np.concatenate(keys, 3), values=np.concatenate(values, 3))
    filled = np.asarray(context.keys)[:, :, :, : 4 + 4 * TOKENS]
    np.testing.assert_allclose(filled, dense.keys, atol=1e-6)
    np.testing.assert_allclose(attend(QUERY, context), attend(QUERY, dense), atol=1e-6)


def test_modes_change_only_the_rotation(bank7):
    pick = _retrieve(bank7, caption(3), jnp.int32(8), MODEL)
    contexts = [
        _assemble(bank7, pick, bases(mode, pick, jnp.int32(8))[0], THETA)
        for mode in ("absolute", "local", "window")
    ]
    for other in contexts[1:]:
        assert (other.values == contexts[0].values).all()
        assert (other.length == contexts[0].length).all()
        assert jnp.abs(other.keys - contexts[0].keys).max() > 0.1
        np.testing.assert_allclose(
            jnp.linalg.norm(other.keys, axis=-1),
            jnp.linalg.norm(contexts[0].keys, axis=-1),
            atol=1e-5,
        )


def test_one_compilation_for_every_chunk():
    traces = []

    @jax.jit
    def context_of(bank, embedding, target):
        traces.append(None)
        pick = retrieve(bank, embedding, target, MODEL)
        base, own = bases("window", pick, target)
        return assemble(bank, pick, base, THETA).length, own

    for num_chunks in (0, 1, 4, 7):
        context_of(story(num_chunks), caption(3), jnp.int32(num_chunks + 1))
    assert len(traces) == 1
