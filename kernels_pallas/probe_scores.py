"""Importance of each key under a few probe queries (BlockVid, Algorithm 2, lines 8-9)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from kernels_pallas.platforms import resolve

FORMS = {"cpu": "xla", "gpu": "xla", "tpu": "xla"}


def probe_scores(
    q_probe: jax.Array,
    k: jax.Array,
    visible: jax.Array | None = None,
    *,
    implementation: str = "auto",
) -> jax.Array:
    """s_j = sum over heads and probes i of softmax_j(q_i k_j / sqrt(K) + mask_ij).

    Args:
      q_probe: [..., P, A, K] probe queries, already roped.
      k: [..., N, A, K] keys, already roped.
      visible: bool [P, N], the keys each probe may see; None shows all.  A probe that sees no key
        adds nothing.
      implementation: see `platforms.resolve`.

    Returns:
      float32 [..., N].  Without a mask they sum to P * A.  With few probes (<= 256) the [A, P, N]
      weights of one row are small, so plain XLA is enough.

    Raises:
      ValueError: `implementation` is unknown.
    """
    implementation = resolve("probe_scores", implementation, FORMS)
    logits = jnp.einsum("...pak,...nak->...apn", q_probe, k, preferred_element_type=jnp.float32)
    logits = logits / math.sqrt(k.shape[-1])
    if visible is None:
        weights = jax.nn.softmax(logits, axis=-1)
    else:
        weights = jax.nn.softmax(jnp.where(visible, logits, -1e30), axis=-1)
        weights = jnp.where(visible.any(-1, keepdims=True), weights, 0.0)
    return weights.sum(axis=(-3, -2))
