"""Chunks and tokens of the history that training drops (Algorithm 1, p_drop)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import RetrievalConfig
from bvjax.errors import UserError
from bvjax.losses.clip import make_clip
from bvjax.losses.forward import TeacherForward
from bvjax.losses.history import HistoryConfig, draw_history, drop_tokens
from bvjax.nets.dit import ChunkKV
from tests.support import few_step

KEY = jax.random.key(2)


def history_of(drop):
    config = HistoryConfig({"rolling": 1.0}, anchor_drop=0.0, entry_drop=drop)
    target = jnp.broadcast_to(jnp.arange(1, 6), (200, 5))
    embedding = jnp.ones((200, 5, 3))
    retrieval = RetrievalConfig(num_recent=1, num_retrieved=2, dense_recent=True)
    return draw_history(KEY, target, embedding, None, retrieval, config)


def test_chunks_are_dropped_as_if_they_had_not_been_chosen():
    whole, some, none = (history_of(drop) for drop in (0.0, 0.25, 1.0))
    assert not none.valid.any() and none.anchor.all()
    kept = some.valid.sum() / whole.valid.sum()
    np.testing.assert_allclose(kept, 0.75, atol=0.03)  # of 1,800: one in a thousand is further away
    assert not (some.valid & ~whole.valid).any() and not (some.dense & ~some.valid).any()
    np.testing.assert_array_equal(some.index, whole.index)


def test_tokens_are_dropped_from_all_layers():
    keep = jnp.ones((3, 2, 4, 500), bool).at[:, :, 0].set(False)
    got = drop_tokens(KEY, keep, HistoryConfig(token_drop=0.3))
    np.testing.assert_allclose(got[:, :, 1:].mean(), 0.7, atol=0.03)
    np.testing.assert_array_equal(got[0], got[1])
    assert not got[:, :, 0].any() and (got[0, 0, 1] != got[0, 0, 2]).any()
    assert drop_tokens(KEY, keep, HistoryConfig()) is keep


@dataclasses.dataclass(frozen=True)
class Kept(TeacherForward):
    """Keeps every row of every chunk, without a network."""

    def encode(self, params, chunks, sigma, text, key, **context):
        rows = chunks.shape[:2]
        kv = jnp.zeros((1, *rows, 4, 1, 2))
        return ChunkKV(kv, kv, kv[..., 0, 0]), jnp.ones((1, *rows, 4), bool)


def test_what_targets_see_of_chunks_has_lost_tokens():
    model = few_step.MODEL
    batch = {name: jnp.asarray(x) for name, x in few_step.examples(8).items()}
    forward = Kept(model)
    clip = make_clip(batch, forward.grid)
    history = draw_history(
        KEY,
        jnp.broadcast_to(jnp.arange(1, 5), (8, 4)),
        clip.embedding,
        None,
        model.retrieval,
        HistoryConfig({"rolling": 1.0}),
    )
    entries = forward.entries(None, clip, history, HistoryConfig(token_drop=0.5), KEY)
    assert 0.3 < float(entries.keep.mean()) < 0.7
    entries = forward.entries(None, clip, history, HistoryConfig(), KEY)
    assert entries.keep.all()


@pytest.mark.parametrize("name", ["entry_drop", "token_drop"])
def test_a_chance_is_a_chance(name):
    with pytest.raises(UserError, match=rf"history.{name} is 1.5; it must lie in \[0, 1\]"):
        HistoryConfig(**{name: 1.5})
