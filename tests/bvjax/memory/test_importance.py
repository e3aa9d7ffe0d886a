"""Probes and keep sets of Algorithm 2 against slow NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bvjax.config import BuildConfig, MemoryConfig
from bvjax.errors import UserError
from bvjax.memory.importance import (
    keep_mask,
    keep_of_layer,
    keep_of_layers,
    normalise,
    probe_indices,
)

BUILD = BuildConfig(n_recent=4, n_random=7)
KEY = jax.random.key(3)


def probes(n=24, per_frame=4, key=KEY, **changes):
    index, visible = probe_indices(dataclasses.replace(BUILD, **changes), n, per_frame, key)
    assert index.dtype == visible.dtype == jnp.int32 and visible.shape == (index.size,)
    return np.asarray(index), np.asarray(visible)


def test_recent_random_is_the_end_and_a_draw_of_the_rest():
    index, visible = probes()
    assert len(index) == 11 == len(set(index))
    assert set(range(20, 24)) <= set(index) and (visible == 24).all()
    assert (index == probes()[0]).all()
    assert (index != probes(key=jax.random.key(4))[0]).any()


@pytest.mark.parametrize("probe", ["recent_random", "stratified", "random", "full"])
def test_a_small_chunk_probes_with_all(probe):
    assert probes(n=8, probe=probe)[0].tolist() == list(range(8))
    assert probes(n=11, per_frame=1, probe=probe)[0].tolist() == list(range(11))


def test_stratified_spreads_over_the_frames():
    index, _ = probes(probe="stratified")
    per_frame = np.bincount(index // 4, minlength=6)
    assert per_frame.sum() == 11 == len(set(index)) and per_frame.max() - per_frame.min() == 1
    few, _ = probes(probe="stratified", n_recent=1, n_random=1)  # fewer probes than frames
    assert len(few) == 2 and few[0] < 12 <= few[1]
    draws = {tuple(probes(probe="stratified", key=jax.random.key(i))[0] % 4) for i in range(4)}
    assert len(draws) == 4


def test_random_and_full():
    draws = [probes(probe="random", key=jax.random.key(i))[0] for i in range(4)]
    assert all(len(set(d)) == 11 for d in draws)
    assert len({tuple(d) for d in draws}) == 4 and any(23 not in d for d in draws)
    assert probes(probe="full")[0].tolist() == list(range(24))


def test_masks():
    for mask, seen in (
        ("chunk", lambda i, j: True),
        ("frame", lambda i, j: j // 4 <= i // 4),
        ("token", lambda i, j: j <= i),
    ):
        index, visible = probes(mask=mask)
        assert visible.tolist() == [sum(seen(i, j) for j in range(24)) for i in index]


def test_norms_equal_loops():
    rng = np.random.default_rng(0)
    scores, visible = rng.random((2, 6)).astype(np.float32), jnp.array([3, 0, 2, 3, 5])
    for norm, divide in (
        ("nnz", lambda s, j: s[j] / max(1, (visible > j).sum())),
        ("position", lambda s, j: s[j] / (6 - j)),
        ("running_mean", lambda s, j: s[: j + 1].sum() / (j + 1)),
        ("none", lambda s, j: s[j]),
    ):
        want = [[divide(s, j) for j in range(6)] for s in scores]
        np.testing.assert_allclose(normalise(jnp.asarray(scores), visible, norm), want, rtol=1e-6)


def slow_keep(mass, importance, tau, capacity):
    """Eq. 7 with Python numbers; `mass` is exact."""
    wanted, held = 0, 0
    for x in sorted(mass, reverse=True):
        wanted, held = wanted + 1, held + x
        if held >= tau * sum(mass):
            break
    wanted = len(mass) if tau == 1 else wanted
    order = sorted(range(len(mass)), key=lambda j: (-importance[j], j))
    kept = order[: min(wanted, capacity)]
    return [j in kept for j in range(len(mass))], wanted


# Integer scores and dyadic tau make every float sum exact, and equal scores are common.
@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data(), st.sampled_from([1, 12]), st.integers(1, 64), st.integers(1, 14))
def test_keep_set_equals_slow_numpy(data, n, tau_64, capacity):
    scores = data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n).filter(any))
    readings = [("none", "normalised"), ("nnz", "normalised"), ("position", "accumulated")]
    norm, cover = data.draw(st.sampled_from(readings))
    memory = MemoryConfig(tau=tau_64 / 64, norm=norm, cover=cover)
    visible = jnp.full(4, n)
    s = jnp.asarray(scores, jnp.float32)
    m = np.asarray(normalise(s, visible, norm)).tolist()
    want, wanted = slow_keep(scores if cover == "accumulated" else m, m, memory.tau, capacity)
    keep, report = keep_mask(s, visible, memory, capacity)
    assert keep.tolist() == want
    assert (report.kept, report.requested) == (sum(want), wanted)
    mass = scores if cover == "accumulated" else m
    held = sum(x for x, k in zip(mass, want, strict=True) if k)
    assert abs(report.coverage - held / sum(mass)) < 1e-6
    if report.kept == report.requested and cover == "normalised":
        assert report.coverage >= memory.tau - 1e-6


def test_cover_readings_differ():
    scores = jnp.array([8.0, 4.0, 4.0, 1.0])
    visible = jnp.full(1, 4)
    of_m = MemoryConfig(tau=0.5, norm="position")  # m = 2, 4/3, 2, 1: M = 2 of a total of 19/3
    of_s = dataclasses.replace(of_m, cover="accumulated", tau=0.45)  # M = 1 of the sums
    assert keep_mask(scores, visible, of_m, 4)[0].tolist() == [True, False, True, False]
    assert keep_mask(scores, visible, of_s, 4)[0].tolist() == [True, False, False, False]


def test_tau_one_keeps_all_and_ties_keep_the_earlier():
    rng = np.random.default_rng(1)
    scores = jnp.asarray(rng.random((3, 2, 101)) * 1e-3, jnp.float32).at[..., :2].set(1e4)
    keep, report = keep_mask(scores, jnp.full(1, 101), MemoryConfig(tau=1.0), 101)
    assert keep.all() and (report.coverage == 1).all() and report.kept.shape == (3, 2)
    even = keep_mask(jnp.ones(8), jnp.full(1, 8), MemoryConfig(tau=0.5), 8)[0]
    assert even.tolist() == [True] * 4 + [False] * 4
    clipped, report = keep_mask(jnp.ones(8), jnp.full(1, 8), MemoryConfig(tau=1.0), 3)
    assert clipped.tolist() == [True] * 3 + [False] * 5
    assert (report.kept, report.requested) == (3, 8) and abs(report.coverage - 3 / 8) < 1e-6


def test_rows_have_keep_sets_of_their_own_under_jit():
    rng = np.random.default_rng(2)
    scores = jnp.asarray(rng.random((2, 3, 16)), jnp.float32)
    visible = jnp.full(4, 16)
    keep, report = jax.jit(lambda s: keep_mask(s, visible, MemoryConfig(tau=0.7), 12))(scores)
    for at in np.ndindex(2, 3):
        want, wanted = slow_keep(scores[at].tolist(), scores[at].tolist(), 0.7, 12)
        assert keep[at].tolist() == want and report.requested[at] == wanted
    assert len({tuple(row) for row in keep.reshape(6, 16).tolist()}) == 6


def test_no_gradient_reaches_the_scores():
    visible = jnp.full(1, 4)
    grad = jax.grad(lambda s: keep_mask(s, visible, MemoryConfig(tau=0.5), 4)[1].coverage)
    assert not grad(jnp.array([1.0, 2.0, 3.0, 4.0])).any()


def test_report_per_layer():
    scores = jnp.stack([jnp.ones((2, 1, 8)), jnp.zeros((2, 1, 8)).at[..., 3].set(1.0)])
    _, cover = keep_mask(scores, jnp.full(1, 8), MemoryConfig(tau=0.75), 4)
    np.testing.assert_array_equal(cover.kept[..., 0], [[4, 4], [1, 1]])
    np.testing.assert_array_equal((cover.requested > cover.kept)[..., 0], [[1, 1], [0, 0]])
    np.testing.assert_allclose(cover.coverage[..., 0], [[0.5, 0.5], [1.0, 1.0]])


def test_unknown_readings_are_refused():
    visible = jnp.full(1, 4)
    with pytest.raises(UserError, match="build.probe is 'last'; it can be recent_random"):
        probes(probe="last")
    with pytest.raises(UserError, match="build.mask is 'causal'"):
        probes(mask="causal")
    with pytest.raises(UserError, match="memory.norm is 'mean'"):
        keep_mask(jnp.ones(4), visible, MemoryConfig(norm="mean"), 4)
    with pytest.raises(UserError, match="memory.cover is 'all'"):
        keep_mask(jnp.ones(4), visible, MemoryConfig(cover="all"), 4)


def test_one_set_for_all_layers_is_that_of_the_sum():
    """Layers alone keep {0} and {3}; their sum, 5 4 0 6 of 15, needs three tokens for 0.9 of it."""
    layers = jnp.array([[5.0, 0.1, 0.0, 0.0], [0.0, 3.9, 0.0, 6.0]])
    memory = MemoryConfig(tau=0.9, granularity="model")
    keep, report = keep_of_layers(layers[:, None], jnp.full(1, 4), memory, 4)
    assert keep.tolist() == [[[True, True, False, True]]] * 2
    assert report.kept.tolist() == report.requested.tolist() == [[3], [3]]
    keep, report = keep_of_layers(layers[:, None], jnp.full(1, 4), memory, 2)
    assert keep.tolist() == [[[True, False, False, True]]] * 2
    np.testing.assert_allclose(report.coverage, np.full((2, 1), 11 / 15), rtol=1e-6)
    of_each = dataclasses.replace(memory, granularity="layer")
    want = [keep_mask(layer[None], jnp.full(1, 4), of_each, 4)[0] for layer in layers]
    got, _ = keep_of_layers(layers[:, None], jnp.full(1, 4), of_each, 4)
    np.testing.assert_array_equal(got, want)


def test_a_set_for_each_head_covers_its_own_importances():
    """A slot holds what any head keeps; the least important of all heads' goes when it is too small."""
    heads = jnp.array([[8.0, 1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 3.0, 6.0, 1.0]])
    memory = MemoryConfig(tau=0.8, granularity="head")
    keep, report = keep_of_layer(heads, jnp.full(1, 5), memory, 5)
    assert keep.tolist() == [[True, False, False, False, False], [False, False, True, True, False]]
    assert (report.kept, report.requested) == (3, 3)
    np.testing.assert_allclose(report.coverage, (8 + 4 + 6) / 20, rtol=1e-6)
    keep, report = keep_of_layer(heads, jnp.full(1, 5), memory, 2)
    assert keep.tolist() == [[True, False, False, False, False], [False, False, False, True, False]]
    assert (report.kept, report.requested) == (2, 3)
