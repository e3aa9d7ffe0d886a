"""Importance of each key under probe queries (BlockVid, Algorithm 2, lines 8-9).

Three forms of one sum.  `xla` holds the weights of all heads at once when the probes are few, and
of one head and one block of probes when they are many.  `mosaic` (TPU) and `triton` (NVIDIA) never
put weights into device memory: one pass finds the log-sum-exp of each probe, which attention may
already know, and a second one adds up exp(logit - lse) over probes and heads for a block of keys.

`auto` takes the kernels above `FEW` probes on a TPU or GPU, and `xla` everywhere else: with few
probes the [A, P, N] weights are small (A = 12, P = 128, N = 37,440 in float32: 230 MB, once a
chunk), with all tokens as probes they would be 67 GB and the two passes cost 17 TFLOP a layer.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from kernels_pallas import importance_gpu, importance_tpu
from kernels_pallas.platforms import resolve

FEW = 256  # probes whose weights are made all at once
_MASKED = -1e30


def key_importance(
    q_probe: jax.Array,
    k: jax.Array,
    visible: jax.Array | None = None,
    *,
    lse: jax.Array | None = None,
    implementation: str = "auto",
) -> jax.Array:
    """s_j = sum over heads and probes i of softmax_j(q_i k_j / sqrt(K) + mask_ij).

    No gradient flows through it: what it selects is not differentiated, and the kernels have no
    backward pass.

    Args:
      q_probe: [..., P, A, K] probe queries, already rotated.
      k: [..., N, A, K] keys, already rotated.
      visible: int32 [P], how many of the first keys each probe sees; None shows all.  A probe that
        sees no key adds nothing.
      lse: float32 [..., P, A], the log-sum-exp of each probe's logits, as `attention` returns it.
        Weights are then shares of all keys that attention saw, also of those that are not in `k`.
      implementation: auto, a platform, or one of xla, mosaic, triton.

    Returns:
      float32 [..., N].  Without `visible` and `lse` they sum to P * A.

    Raises:
      ValueError: `implementation` is unknown.
    """
    q_probe, k = jax.lax.stop_gradient((q_probe, k))
    rows, (probes, heads, dim) = k.shape[:-3], q_probe.shape[-3:]
    many = probes > FEW
    form = resolve(
        "key_importance",
        implementation,
        {
            "cpu": "xla",
            "gpu": "triton" if many and importance_gpu.fits(dim) else "xla",
            "tpu": "mosaic" if many else "xla",
            "mosaic": "mosaic",
            "triton": "triton",
        },
    )
    if lse is not None:  # a probe that saw nothing has about -1e30 there: it adds nothing here
        lse = jax.lax.stop_gradient(lse.astype(jnp.float32))
        lse = jnp.where(lse < 0.1 * _MASKED, -_MASKED, lse)
    if form == "xla" and not many:
        return _at_once(q_probe, k, visible, lse)
    num_keys = k.shape[-3]
    if visible is None:
        visible = jnp.full(probes, num_keys, jnp.int32)
    visible = jnp.minimum(visible.astype(jnp.int32), num_keys)
    q = q_probe.reshape(-1, probes, heads, dim)
    k = k.reshape(-1, num_keys, heads, dim)
    lse = None if lse is None else lse.reshape(-1, probes, heads)
    sum_up = {
        "xla": _in_blocks,
        "mosaic": importance_tpu.key_importance,
        "triton": importance_gpu.key_importance,
    }[form]
    return sum_up(q, k, visible, lse).reshape(*rows, num_keys)


def _at_once(q, k, visible, lse):
    logits = jnp.einsum("...pak,...nak->...apn", q, k, preferred_element_type=jnp.float32)
    logits = logits / math.sqrt(k.shape[-1])
    seen = None if visible is None else jnp.arange(k.shape[-3]) < visible[:, None]
    weights = _weights(logits, seen, None if lse is None else lse.swapaxes(-1, -2)[..., None])
    return weights.sum(axis=(-3, -2))


def log_sum_exp(
    q_probe: jax.Array,
    k: jax.Array,
    visible: jax.Array | None = None,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Log-sum-exp of each probe's logits over the keys, float32 [..., P, A]: what `key_importance` takes as `lse`.

    Of several sets of keys it is `jnp.logaddexp` of theirs.  About -1e30 where a probe sees no key.

    Args:
      q_probe, k, visible: as of `key_importance`.
      mask: bool [..., N], or [..., A, N], keys that are there; None: all.
    """
    q_probe, k = jax.lax.stop_gradient((q_probe, k))
    rows, (probes, heads, dim), num_keys = k.shape[:-3], q_probe.shape[-3:], k.shape[-3]
    if visible is None:
        visible = jnp.full(probes, num_keys, jnp.int32)
    if mask is None:
        mask = jnp.ones((*rows, num_keys), bool)
    if mask.ndim == k.ndim - 2:
        mask = mask[..., None, :]
    mask = jnp.broadcast_to(mask, (*rows, heads, num_keys)).reshape(-1, num_keys)
    keys, visible = jnp.arange(num_keys), _probe_blocks(visible[None, :, None])[0]

    def one_head(head):
        q, k, mask = head

        def of_block(block):
            q, visible = block
            logits = jnp.matmul(q, k.T, preferred_element_type=jnp.float32) / math.sqrt(dim)
            seen = (keys < visible[:, None]) & mask
            return jax.nn.logsumexp(jnp.where(seen, logits, _MASKED), axis=-1)

        return jax.lax.map(of_block, (q, visible))

    k = k.reshape(-1, num_keys, heads, dim).swapaxes(1, 2).reshape(-1, num_keys, dim)
    q = _probe_blocks(q_probe.reshape(-1, probes, heads, dim))
    sums = jax.lax.map(one_head, (q, k, mask)).reshape(*rows, heads, -1)
    return sums[..., :probes].swapaxes(-1, -2)


def _probe_blocks(x):
    """[rows, P, A, ...] -> [rows * A, blocks, FEW, ...], zeros behind the last probe."""
    missing = -x.shape[1] % FEW
    x = jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2)).swapaxes(1, 2)
    return x.reshape(x.shape[0] * x.shape[1], -1, FEW, *x.shape[3:])


def _in_blocks(q, k, visible, lse):
    """Computes one (row, head) and one block of probes after the other, as plain 2-D matmuls."""
    rows, _, heads, dim = q.shape
    num_keys = k.shape[1]
    keys = jnp.arange(num_keys)
    visible = _probe_blocks(visible[None, :, None])[0]

    def one_head(head):
        q, k, lse = head

        def add(total, block):
            q, visible, lse = block
            logits = jnp.matmul(q, k.T, preferred_element_type=jnp.float32) / math.sqrt(dim)
            lse = None if lse is None else lse[:, None]
            return total + _weights(logits, keys < visible[:, None], lse).sum(0), None

        start = jnp.zeros(num_keys, jnp.float32)
        return jax.lax.scan(add, start, (q, visible, lse))[0]

    k = k.swapaxes(1, 2).reshape(rows * heads, num_keys, dim)
    lse = None if lse is None else _probe_blocks(lse)
    sums = jax.lax.map(one_head, (_probe_blocks(q), k, lse))
    return sums.reshape(rows, heads, num_keys).sum(1)


def _weights(logits, seen, lse):
    """Softmax along the last axis; by `lse` where given.  `seen` [P, N] or None for all."""
    if lse is not None:
        weights = jnp.exp(logits - lse)
        return weights if seen is None else jnp.where(seen, weights, 0.0)
    if seen is None:
        return jax.nn.softmax(logits, axis=-1)
    weights = jax.nn.softmax(jnp.where(seen, logits, _MASKED), axis=-1)
    return jnp.where(seen.any(-1, keepdims=True), weights, 0.0)
