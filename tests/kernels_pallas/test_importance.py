"""Probe scores against a slow loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kernels_pallas.importance as module
from kernels_pallas.attention import attention
from kernels_pallas.importance import key_importance as eager_key_importance
from kernels_pallas.importance import log_sum_exp

key_importance = jax.jit(eager_key_importance, static_argnames="implementation")
LEAD, P, N, HEADS, DIM = (2, 3), 4, 11, 2, 6


def draw(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    q = jnp.asarray(rng.standard_normal((*LEAD, P, HEADS, DIM)), dtype)
    return q, jnp.asarray(rng.standard_normal((*LEAD, N, HEADS, DIM)), dtype)


def slow(q, k, visible):
    """`visible`: how many of the first keys each probe sees."""
    q, k = np.asarray(q, np.float64), np.asarray(k, np.float64)
    scores = np.zeros((*LEAD, N))
    for at in np.ndindex(*LEAD):
        for p in range(P):
            seen = np.arange(visible[p])
            if not len(seen):
                continue
            for a in range(HEADS):
                weights = np.exp(k[at][seen, a] @ q[at][p, a] / np.sqrt(DIM))
                scores[at][seen] += weights / weights.sum()
    return scores


def test_equals_a_slow_loop():
    q, k = draw()
    got = key_importance(q, k)
    np.testing.assert_allclose(got, slow(q, k, np.full(P, N)), atol=2e-6)
    np.testing.assert_allclose(got.sum(-1), P * HEADS, rtol=1e-5)


def test_hidden_keys_score_zero_and_blind_probes_add_nothing():
    q, k = draw()
    visible = np.array([8, 3, 0, 5])
    got = key_importance(q, k, jnp.asarray(visible))
    assert not np.any(got[..., 8:]) and np.all(got[..., :8])
    np.testing.assert_allclose(got, slow(q, k, visible), atol=2e-6)
    np.testing.assert_allclose(got.sum(-1), 3 * HEADS, rtol=1e-5)


def test_the_log_sum_exp_of_attention_serves():
    q, k = draw()
    _, lse = attention(q, k, k, return_lse=True)
    np.testing.assert_allclose(key_importance(q, k, lse=lse), key_importance(q, k), atol=2e-6)
    blind = lse.at[..., 1, :].set(-1e30)  # as attention says of a row that saw nothing
    want = slow(q, k, np.array([N, 0, N, N]))
    np.testing.assert_allclose(key_importance(q, k, lse=blind), want, atol=2e-6)


@pytest.mark.parametrize("given", [False, True], ids=["own lse", "given lse"])
def test_many_probes_are_taken_in_blocks(given, monkeypatch):
    monkeypatch.setattr(module, "FEW", 3)
    q, k = draw()
    visible = jnp.array([8, 3, 0, 11])
    lse = None
    if given:
        logits = jnp.einsum("...pak,...nak->...pan", q, k) / np.sqrt(DIM)
        seen = jnp.arange(N) < visible[:, None]
        lse = jax.nn.logsumexp(jnp.where(seen[:, None], logits, -1e30), axis=-1)
    got = jax.jit(eager_key_importance)(q, k, visible, lse=lse)
    np.testing.assert_allclose(got, slow(q, k, np.asarray(visible)), atol=2e-6)


def test_no_gradient():
    q, k = draw()
    grads = jax.grad(lambda q, k: (key_importance(q, k) ** 2).sum(), argnums=(0, 1))(q, k)
    assert not any(np.any(g) for g in grads)


def test_bfloat16_is_scored_in_float32():
    q, k = draw(jnp.bfloat16)
    got = key_importance(q, k)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, slow(q, k, np.full(P, N)), atol=1e-5)


def test_unknown_implementation_is_refused_with_the_list():
    with pytest.raises(
        ValueError, match="'cuda' is unknown; use one of auto, mosaic, triton, xla, cpu, gpu, tpu"
    ):
        eager_key_importance(*draw(), implementation="cuda")


@pytest.mark.parametrize("probes", [7, 300])
def test_log_sum_exp_of_parts_is_that_of_all(probes):
    """Importances by it are shares of all keys, also of those in another array; masked keys take no share."""
    keys = jax.random.split(jax.random.key(0), 3)
    q = jax.random.normal(keys[0], (2, probes, 3, 8))
    k, more = (
        jax.random.normal(key, (2, n, 3, 8)) for key, n in zip(keys[1:], (11, 5), strict=True)
    )
    visible = jnp.arange(probes) % 12
    mask = jnp.arange(5) < jnp.array([[5], [2]])
    logits = jnp.einsum("bpak,bnak->bapn", q, jnp.concatenate([k, more], 1)) / np.sqrt(8)
    own = jnp.broadcast_to(jnp.arange(11) < visible[:, None], (2, 3, probes, 11))
    seen = jnp.concatenate([own, jnp.broadcast_to(mask[:, None, None], (2, 3, probes, 5))], -1)
    weights = jax.nn.softmax(jnp.where(seen, logits, -jnp.inf), axis=-1)
    lse = jnp.logaddexp(log_sum_exp(q, k, visible), log_sum_exp(q, more, mask=mask))
    got = key_importance(q, k, visible, lse=lse)
    np.testing.assert_allclose(got, weights[..., :11].sum((1, 2)), rtol=1e-4, atol=1e-5)
    of_heads = jnp.broadcast_to(mask[:, None], (2, 3, 5))
    np.testing.assert_array_equal(
        log_sum_exp(q, more, mask=of_heads), log_sum_exp(q, more, mask=mask)
    )
    assert (log_sum_exp(q, k, jnp.zeros(probes, jnp.int32)) < -1e29).all()
