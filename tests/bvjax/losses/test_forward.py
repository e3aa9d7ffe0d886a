"""The training step's forward pass equals the one that makes all contexts of all layers first, gradients too."""

import dataclasses

import jax
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
from bvjax.losses.clip import make_clip
from bvjax.losses.history import HistoryConfig
from bvjax.losses.levels import LevelsConfig
from bvjax.losses.teacher_forcing import ForcingConfig, TeacherForcing
from tests.support.random_params import random_dit
from tests.support.whole_contexts import WholeContextForcing

CLIPS, CHUNKS, TEXT, ROWS, DIM = 2, 8, 6, 3, 8
MODEL = ModelConfig(
    name="test",
    chunk=ChunkConfig(height=32, width=32, fps=2, frames=8),
    text=TextConfig(dim=DIM, max_length=TEXT),
    dit=DiTConfig(
        dim=16,
        num_heads=2,
        num_layers=2,
        ffn_dim=16,
        freq_dim=8,
        similarity_keys=True,
        remat="full",
    ),
    memory=MemoryConfig(slots=8, capacity=5, tau=0.8),
    build=BuildConfig(n_recent=2, n_random=2),
    retrieval=RetrievalConfig(num_recent=1, num_retrieved=1),
)

KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def params():
    return random_dit(MODEL)


@pytest.fixture(scope="module")
def batch():
    """Captions of `ROWS` rows at most; the rest is zeros."""
    keys = jax.random.split(jax.random.key(2), 4)
    text = jax.random.normal(keys[1], (CLIPS, CHUNKS, TEXT, DIM)).at[:, :, ROWS:].set(0)
    return {
        "latents": jax.random.normal(keys[0], (CLIPS, 1 + 2 * CHUNKS, 4, 4, 16)),
        "text": text,
        "embedding": jax.random.normal(keys[2], (CLIPS, CHUNKS, DIM)),
        "relevance": jax.random.uniform(keys[3], (CLIPS, CHUNKS, CHUNKS)),
    }


def changed(model, **sections):
    parts = {k: dataclasses.replace(getattr(model, k), **v) for k, v in sections.items()}
    return dataclasses.replace(model, **parts)


def gradient(cls, model, params, batch, **forcing):
    null = np.zeros((TEXT, DIM), np.float32)
    null[0] = 1.0
    draw = dict(targets_per_chunk=1, revisit_fraction=0.3, history=HistoryConfig(noise_chance=0.5))
    teacher = cls(model, ForcingConfig(**draw | forcing), null)
    clip = make_clip(batch, teacher.grid)
    loss = jax.jit(jax.value_and_grad(lambda p: teacher.loss(p, clip, KEY)[0]))
    return loss(params)


def assert_equal(got, want):
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(got[1]), jax.tree.leaves(want[1]), strict=True):
        assert np.any(b)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize(
    ("sections", "forcing"),
    [
        ({}, dict(drawn_targets=2, targets_at_once=1)),
        pytest.param({}, dict(frames=4), marks=pytest.mark.slow),
        pytest.param(
            dict(retrieval=dict(dense_recent=True)), dict(drawn_targets=1), marks=pytest.mark.slow
        ),
        pytest.param(
            dict(build=dict(context="with")),
            dict(drawn_targets=2, targets_at_once=1),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            dict(memory=dict(capacity=8, anchor=False)),
            dict(targets_per_chunk=2, targets_at_once=4),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_equals_all_contexts_at_once(params, batch, sections, forcing):
    """Loss and gradients on the same draws: rows packed, few sources, targets in groups, captions shared."""
    model = changed(MODEL, **sections)
    want = gradient(WholeContextForcing, model, params, batch, **forcing)
    got = gradient(TeacherForcing, model, params, batch, **forcing)
    assert_equal(got, want)


def test_zeros_behind_captions_need_not_be_given(params, batch):
    """Rows that are cut count as before: the same loss, and gradients, with half of the text."""
    want = gradient(TeacherForcing, MODEL, params, batch, drawn_targets=1)
    cut = dict(drawn_targets=1, text_rows=ROWS)
    assert_equal(gradient(TeacherForcing, MODEL, params, batch, **cut), want)
    longer = dict(batch, text=batch["text"].at[1, 3, ROWS, 0].set(1.0))
    assert np.isnan(gradient(TeacherForcing, MODEL, params, longer, **cut)[0])
    with pytest.raises(UserError, match="forcing.text_rows is 3; the states of the empty caption"):
        TeacherForcing(MODEL, ForcingConfig(text_rows=3), np.ones((TEXT, DIM), np.float32))


def test_only_the_chunks_that_targets_see_are_encoded(params, batch):
    """And of a layer's rows, as many as slots can hold are multiplied, not all of all entries."""
    teacher = TeacherForcing(
        MODEL, ForcingConfig(drawn_targets=1), np.zeros((TEXT, DIM), np.float32)
    )
    clip = make_clip(batch, teacher.grid)
    target = teacher._targets(KEY, clip)
    assert target.shape == (CLIPS, 1)
    history = teacher._history(KEY, clip, target)
    forward = teacher.forward
    entries = forward.entries(params, clip, history, HistoryConfig(), KEY)
    assert entries.by_target and entries.kv.keys.shape[:3] == (2, CLIPS, 2)
    rows = forward.context(entries, history, target)[0].selection.most_rows
    assert rows == 8 + 4 + 2 * 5  # its own, the anchor's, two slots


def test_drawn_targets_are_different_chunks(batch):
    forcing = ForcingConfig(drawn_targets=5)
    teacher = TeacherForcing(MODEL, forcing, np.zeros((TEXT, DIM), np.float32))
    clip = make_clip(batch, teacher.grid)
    drawn = np.array([teacher._targets(jax.random.key(i), clip) for i in range(50)])
    assert all(len(set(row)) == 5 for row in drawn.reshape(-1, 5).tolist())
    counts = np.bincount(drawn.reshape(-1), minlength=CHUNKS + 1)
    assert counts[0] == 0 and counts[1:].min() > 30 and counts.size == CHUNKS + 1  # 62.5 expected


def test_joined_targets_go_on_from_the_chunk_before(batch):
    """Each of them equally often in the mean, as evenly as possible in one step; all chunks where none is joined."""
    forcing = ForcingConfig(drawn_targets=3, joined_targets=True)
    teacher = TeacherForcing(MODEL, forcing, np.zeros((TEXT, DIM), np.float32))
    joined = np.zeros((CLIPS, CHUNKS), np.float32)
    joined[0, [0, 3]] = 1.0
    clip = make_clip(batch | {"joined": joined}, teacher.grid)
    drawn = np.array([teacher._targets(jax.random.key(i), clip) for i in range(40)])
    first = drawn[:, 0].tolist()
    assert sorted(map(tuple, np.unique(first, axis=0))) == [(1, 1, 4), (1, 4, 4)]
    assert set(drawn[:, 1].reshape(-1).tolist()) == set(range(1, CHUNKS + 1))


def test_what_cannot_be_drawn_is_refused(params, batch):
    with pytest.raises(UserError, match="joined_targets needs forcing.drawn_targets, which is 0"):
        ForcingConfig(joined_targets=True)
    with pytest.raises(UserError, match="no joined .which chunks go on from the one before"):
        gradient(TeacherForcing, MODEL, params, batch, drawn_targets=1, joined_targets=True)
    with pytest.raises(UserError, match="needs all chunks in order; set forcing.drawn_targets=0"):
        ForcingConfig(drawn_targets=1, levels=LevelsConfig(role="progressive"))
    with pytest.raises(UserError, match="forcing.drawn_targets is -1"):
        ForcingConfig(drawn_targets=-1)
    with pytest.raises(UserError, match="forcing.drawn_targets is 9; clips have 8 chunks"):
        gradient(TeacherForcing, MODEL, params, batch, drawn_targets=9)
    with pytest.raises(UserError, match="targets_at_once is 3; it must divide the 4 targets"):
        gradient(TeacherForcing, MODEL, params, batch, drawn_targets=4, targets_at_once=3)
