"""What training shows of the past at a cut is what generation shows."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from bvjax.config import RetrievalConfig
from bvjax.losses.history import HistoryConfig, draw_history
from bvjax.memory.rules import number_of

CONFIG = RetrievalConfig(num_recent=2, num_retrieved=1)


def seen(shot, config=CONFIG):
    """The chunks that each of six targets sees, [retrieved | recent], 0: none; captions are like the first's."""
    embedding = np.eye(6, dtype=np.float32)[None] + np.linspace(0.6, 0.1, 6)[None, :, None]
    target = jnp.arange(1, 7)[None]
    history = draw_history(
        jax.random.key(0),
        target,
        jnp.asarray(embedding, jnp.float32),
        None,
        config,
        HistoryConfig(anchor_drop=0),
        jnp.full(target.shape, number_of("semantic")),
        shot=None if shot is None else jnp.asarray(shot),
    )
    return np.where(history.valid, history.index + 1, 0)[0].tolist()


def test_the_recent_window_of_training_can_begin_further_back():
    """Algorithm 1 counted from 1: {c-3, c-2}; the chunk right before may be retrieved."""
    rows = seen(None, dataclasses.replace(CONFIG, offset=1))
    assert [row[1:] for row in rows] == [[0, 0], [0, 0], [0, 1], [1, 2], [2, 3], [3, 4]]
    assert rows[1][0] == 1 and rows[2][0] == 2 and rows[5][0] in (1, 2, 5)


def test_chunks_before_a_cut_are_not_recent_but_can_be_retrieved():
    """Chunk 4 begins a shot: 4 sees none as recent, 5 sees 4, and 6 sees 4 and 5."""
    take, cut = seen(None), seen(np.array([[1, 1, 1, 4, 4, 4]], np.float32))
    assert take[3][1:] == [2, 3] and take[3][0] == 1
    assert cut[:3] == take[:3]
    assert [row[1:] for row in cut[3:]] == [[0, 0], [0, 4], [4, 5]]
    assert all(row[0] in (1, 2, 3) for row in cut[3:])
    assert take[5] == cut[5]  # whose recent chunks are all of its shot
