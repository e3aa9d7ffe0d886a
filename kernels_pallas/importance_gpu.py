"""`key_importance` on NVIDIA GPUs: Pallas through Triton.

One program owns a block of keys of one head, keeps them on chip and walks over the probes, so its
sums need no atomics and come out the same every time; heads are added up afterwards.  The
log-sum-exp pass is the same walk with the roles of probes and keys exchanged.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

_MASKED = -1e30
KEYS, PROBES = 128, 64  # of a tile of logits


def fits(head_dim: int) -> bool:
    """Returns whether a head can be a Triton block, whose sides are powers of two."""
    return 16 <= head_dim <= 256 and head_dim & (head_dim - 1) == 0


def key_importance(
    q: jax.Array,
    k: jax.Array,
    visible: jax.Array,
    lse: jax.Array | None,
    interpret: bool = False,
) -> jax.Array:
    """Float32 [R, N] of q [R, P, A, K], k [R, N, A, K], visible int32 [P] <= N, lse [R, P, A].

    `lse` None: found here first.  `interpret` runs the kernels' bodies as plain XLA.

    Raises:
      ValueError: K is not a power of two between 16 and 256.
    """
    rows, probes, heads, dim = q.shape
    num_keys = k.shape[1]
    if not fits(dim):
        raise ValueError(
            f"key_importance on a GPU: head_dim {dim} is not a power of two in 16 .. 256"
        )
    scale = 1.0 / math.sqrt(dim)
    head_of_q = pl.BlockSpec((None, probes, None, dim), lambda j, a, r: (r, 0, a, 0))
    head_of_k = pl.BlockSpec((None, num_keys, None, dim), lambda j, a, r: (r, 0, a, 0))
    of_probes = pl.BlockSpec((None, None, probes), lambda j, a, r: (r, a, 0))
    of_keys = pl.BlockSpec((None, None, num_keys), lambda j, a, r: (r, a, 0))
    counts = pl.BlockSpec((probes,), lambda j, a, r: (0,))
    call = functools.partial(
        pl.pallas_call,
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=3),
        interpret=interpret,
    )
    if lse is None:
        lse = call(
            functools.partial(_lse_kernel, scale=scale),
            grid=(pl.cdiv(probes, PROBES), heads, rows),
            in_specs=[head_of_q, head_of_k, counts],
            out_specs=of_probes,
            out_shape=jax.ShapeDtypeStruct((rows, heads, probes), jnp.float32),
            name="probe_lse",
        )(q, k, visible)
    else:
        lse = lse.swapaxes(1, 2)
    sums = call(
        functools.partial(_sum_kernel, scale=scale),
        grid=(pl.cdiv(num_keys, KEYS), heads, rows),
        in_specs=[head_of_q, head_of_k, counts, of_probes],
        out_specs=of_keys,
        out_shape=jax.ShapeDtypeStruct((rows, heads, num_keys), jnp.float32),
        name="key_importance",
    )(q, k, visible, lse)
    return sums.sum(1)


def _take(ref, block, size):
    """Rows `block * size` and on of [n] or [n, K], zeros beyond n, and their numbers."""
    at = block * size + jnp.arange(size)
    mask = at < ref.shape[0]
    if len(ref.shape) == 1:
        return plgpu.load(ref.at[pl.ds(block * size, size)], mask=mask, other=0), at, mask
    mask = mask[:, None]
    return plgpu.load(ref.at[pl.ds(block * size, size), :], mask=mask, other=0), at, mask


def _lse_kernel(q_ref, k_ref, visible_ref, lse_ref, *, scale):
    block = pl.program_id(0)
    q, _, _ = _take(q_ref, block, PROBES)
    visible, _, inside = _take(visible_ref, block, PROBES)

    def step(j, carry):
        peak, total = carry
        k, key, _ = _take(k_ref, j, KEYS)
        seen = key[None, :] < visible[:, None]
        logits = jnp.where(seen, plgpu.dot(q, k.T) * scale, _MASKED)
        higher = jnp.maximum(peak, logits.max(1))
        weights = jnp.where(seen, jnp.exp(logits - higher[:, None]), 0.0)
        return higher, total * jnp.exp(peak - higher) + weights.sum(1)

    start = (jnp.full(PROBES, _MASKED, jnp.float32), jnp.zeros(PROBES, jnp.float32))
    blocks = pl.cdiv(k_ref.shape[0], KEYS)
    peak, total = jax.lax.fori_loop(0, blocks, step, start)
    lse = peak + jnp.log(jnp.where(total == 0.0, 1.0, total))
    plgpu.store(lse_ref.at[pl.ds(block * PROBES, PROBES)], lse, mask=inside)


def _sum_kernel(q_ref, k_ref, visible_ref, lse_ref, out_ref, *, scale):
    block = pl.program_id(0)
    k, key, inside = _take(k_ref, block, KEYS)

    def step(i, sums):
        q, _, _ = _take(q_ref, i, PROBES)
        visible, _, _ = _take(visible_ref, i, PROBES)
        lse, _, _ = _take(lse_ref, i, PROBES)
        weights = jnp.exp(plgpu.dot(k, q.T) * scale - lse[None, :])
        # Added tile by tile in registers; a sum over probes in here would cross threads each time.
        return sums + jnp.where(key[:, None] < visible[None, :], weights, 0.0)

    blocks = pl.cdiv(q_ref.shape[0], PROBES)
    sums = jax.lax.fori_loop(0, blocks, step, jnp.zeros((KEYS, PROBES), jnp.float32))
    plgpu.store(out_ref.at[pl.ds(block * KEYS, KEYS)], sums.sum(1), mask=inside[:, 0])
