"""Attention in plain XLA: head after head for CPUs, all heads together for anything else.

All forms of attention have the same arguments:

  q [R, N, A, K], k and v [R, S, A, K], length int [R] or None, mask bool [R, S] or None, scale,
  return_lse  ->  [R, N, A, K] like v, float32 [R, N, A] (None where it is not asked for)

and here `bias`, float32 [S] or None, which is added to the logits.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

UNSEEN = -1e30  # logit of what is not seen: finite, so that a row without keys gives no NaN
_LOGITS_BYTES = 2**28  # of the logits that `batched` has at a time
_BLOCK_LOGITS = 2**16  # of a block of queries of `mapped`, times a head's width: 8 MB for 32


def valid_keys(num_keys: int, length: jax.Array | None, mask: jax.Array | None) -> jax.Array | None:
    """The keys that are seen, bool [R, num_keys]; None: all of them."""
    if length is None:
        return mask
    prefix = jnp.arange(num_keys) < length[:, None]
    return prefix if mask is None else mask & prefix


def seen_first(k, v, length, mask, most):
    """The first `most` keys that are seen, with their values, zeros behind them, and how many they are.

    The promise that no key is taken twice spares the gradient atomic additions.
    """
    num_keys = k.shape[1]
    seen = valid_keys(num_keys, length, mask)
    place = jnp.where(seen, jnp.cumsum(seen, axis=1) - 1, num_keys)
    nothing = num_keys + jnp.arange(most)  # which is nowhere

    def take_row(k, v, place):
        at = nothing.at[place].set(jnp.arange(num_keys), mode="drop")
        take = lambda x: x.at[at].get(mode="fill", fill_value=0, unique_indices=True)
        return take(k), take(v)

    return *jax.vmap(take_row)(k, v, place), jnp.minimum(seen.sum(axis=1, dtype=jnp.int32), most)


def batched(q, k, v, length, mask, scale, return_lse, *, bias=None):
    """All rows and heads at once, block after block of queries where the logits are too many.

    Not `jax.nn.dot_product_attention`: its log-sum-exp comes back in the input's dtype, and a row
    that sees nothing averages what it must not see.
    """
    valid = valid_keys(k.shape[1], length, mask)
    valid = True if valid is None else valid[:, None, None, :]
    rows, num_queries, heads, _ = q.shape

    def attend(q):
        logits = jnp.einsum("rnak,rsak->rans", q, k, preferred_element_type=jnp.float32) * scale
        logits = logits if bias is None else logits + bias
        weights, total, lse = _softmax(logits, valid)
        weights = (weights / total).astype(v.dtype)
        out = jnp.einsum("rans,rsak->rnak", weights, v, preferred_element_type=jnp.float32)
        return out.astype(v.dtype), lse[..., 0].swapaxes(1, 2)

    block = max(16, _LOGITS_BYTES // (4 * rows * heads * k.shape[1]))
    if num_queries <= block:
        out, lse = attend(q)
    else:
        out, lse = _by_blocks(jax.checkpoint(attend), q, 1, block)
    return out, lse if return_lse else None


def mapped(q, k, v, length, mask, scale, return_lse, *, bias=None):
    """Computes one (row, head) after the other as plain 2-D matmuls, in blocks of queries.

    On XLA:CPU forward + backward took 1 / 1.6 to 1 / 2.7 of the batched form's time (15 rows,
    N = 128, S = 656, 6 heads of 32).  Blocks are measured to be best so; `jax.checkpoint` keeps
    them out of the residuals.  The mask is added, which XLA makes part of the matmul; choosing by
    it would be a pass of its own.
    """
    rows, num_queries, heads, head_dim = q.shape
    valid = valid_keys(k.shape[1], length, mask)
    block = max(64, _BLOCK_LOGITS * head_dim // k.shape[1])
    q = (q.astype(jnp.float32) * scale).astype(q.dtype)  # a pass over logits less
    key_bias = bias

    def one_head(args):
        q, k, v, valid = args
        bias = key_bias
        if valid is not None:
            bias = jnp.where(valid, 0.0 if bias is None else bias, UNSEEN)

        @jax.checkpoint
        def attend(q, k, v):
            logits = jnp.matmul(q, k.T, preferred_element_type=jnp.float32)
            logits = logits if bias is None else logits + bias
            peak = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
            weights = jnp.exp(logits - peak)
            total = weights.sum(axis=-1, keepdims=True)
            out = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
            return (out / total).astype(v.dtype), (peak + jnp.log(total))[:, 0]

        if num_queries <= block:
            out, lse = attend(q, k, v)
        else:
            out, lse = _by_blocks(lambda q: attend(q, k, v), q, 0, block)
        if valid is not None:
            some = valid.any()
            out, lse = jnp.where(some, out, 0), jnp.where(some, lse, UNSEEN)
        return out, lse

    per_head = [x.swapaxes(1, 2).reshape(rows * heads, x.shape[1], head_dim) for x in (q, k, v)]
    per_head.append(None if valid is None else jnp.repeat(valid, heads, axis=0))
    out, lse = jax.lax.map(one_head, tuple(per_head))
    out = out.reshape(rows, heads, num_queries, head_dim).swapaxes(1, 2)
    lse = lse.reshape(rows, heads, num_queries).swapaxes(1, 2)
    return out, lse if return_lse else None


def _by_blocks(attend, q, axis, block):
    """`attend` of blocks of queries along `axis`, which is that of its results too."""
    size = q.shape[axis]
    count = -(-size // block)
    block = -(-size // count)
    widths = [(0, 0)] * q.ndim
    widths[axis] = (0, count * block - size)
    q = jnp.pad(q, widths)
    q = jnp.moveaxis(q.reshape(*q.shape[:axis], count, block, *q.shape[axis + 1 :]), axis, 0)

    def join(x):
        x = jnp.moveaxis(x, 0, axis)
        x = x.reshape(*x.shape[:axis], count * block, *x.shape[axis + 2 :])
        return jax.lax.slice_in_dim(x, 0, size, axis=axis)

    return jax.tree.map(join, jax.lax.map(attend, q))


def _softmax(logits, valid):
    """Unnormalised weights, their sum and the log-sum-exp along the last axis (kept)."""
    logits = jnp.where(valid, logits, UNSEEN)
    peak = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    weights = jnp.where(valid, jnp.exp(logits - peak), 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    total = jnp.where(total == 0.0, 1.0, total)
    return weights, total, peak + jnp.log(total)
