"""Probe scores against a slow loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels_pallas.probe_scores import probe_scores as eager_probe_scores

probe_scores = jax.jit(eager_probe_scores, static_argnames="implementation")
LEAD, P, N, HEADS, DIM = (2, 3), 4, 11, 2, 6


def draw(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    q = jnp.asarray(rng.standard_normal((*LEAD, P, HEADS, DIM)), dtype)
    return q, jnp.asarray(rng.standard_normal((*LEAD, N, HEADS, DIM)), dtype)


def slow(q, k, visible):
    q, k = np.asarray(q, np.float64), np.asarray(k, np.float64)
    scores = np.zeros((*LEAD, N))
    for at in np.ndindex(*LEAD):
        for p in range(P):
            seen = np.flatnonzero(visible[p])
            if not len(seen):
                continue
            for a in range(HEADS):
                weights = np.exp(k[at][seen, a] @ q[at][p, a] / np.sqrt(DIM))
                scores[at][seen] += weights / weights.sum()
    return scores


def test_equals_a_slow_loop():
    q, k = draw()
    got = probe_scores(q, k)
    np.testing.assert_allclose(got, slow(q, k, np.ones((P, N), bool)), atol=2e-6)
    np.testing.assert_allclose(got.sum(-1), P * HEADS, rtol=1e-5)


def test_hidden_keys_score_zero_and_blind_probes_add_nothing():
    q, k = draw()
    visible = np.random.default_rng(1).random((P, N)) < 0.5
    visible[0] = True
    visible[:, 5] = False
    visible[2] = False
    got = probe_scores(q, k, jnp.asarray(visible))
    assert not np.any(got[..., 5])
    np.testing.assert_allclose(got, slow(q, k, visible), atol=2e-6)
    np.testing.assert_allclose(got.sum(-1), visible.any(1).sum() * HEADS, rtol=1e-5)


def test_bfloat16_is_scored_in_float32():
    q, k = draw(jnp.bfloat16)
    got = probe_scores(q, k)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, slow(q, k, np.ones((P, N), bool)), atol=1e-5)


def test_unknown_implementation_is_refused_with_the_list():
    with pytest.raises(ValueError, match="'triton' is unknown; use one of auto, xla"):
        eager_probe_scores(*draw(), implementation="triton")
