"""`key_importance` on TPUs: Pallas through Mosaic.

Logits are made as [keys, probes], so that what belongs to a probe (log-sum-exp, how many keys it
sees) lies along lanes.  The sums of a block of keys stay in VMEM over all heads and probes and
leave once.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

_MASKED = -1e30
KEYS, PROBES, LANES = 1024, 512, 128


def key_importance(
    q: jax.Array,
    k: jax.Array,
    visible: jax.Array,
    lse: jax.Array | None,
    interpret: bool | pltpu.InterpretParams = False,
) -> jax.Array:
    """Float32 [R, N] of q [R, P, A, K], k [R, N, A, K], visible int32 [P] <= N, lse [R, P, A].

    `lse` None: computed here first.  `interpret` runs the kernels' bodies as plain XLA.
    """
    rows, probes, heads, dim = q.shape
    num_keys, scale = k.shape[1], 1.0 / math.sqrt(dim)
    q, k = q.swapaxes(1, 2), k.swapaxes(1, 2)  # heads outside rows, as XLA keeps them anyway
    bq, bk = min(PROBES, probes), min(KEYS, num_keys)
    nq, nk = pl.cdiv(probes, bq), pl.cdiv(num_keys, bk)
    # Probes of a ragged last block see nothing, whatever lies in memory behind the last real one.
    visible = jnp.pad(visible, (0, nq * bq - probes))
    reach = visible.reshape(nq, bq).max(1)  # blocks of keys that no probe of a block sees: skipped
    visible = visible[None]

    def call(kernel, grid, order, specs, out_spec, out_shape, scratch, arguments, name):
        """`order` says which grid axes are (row, head, block of probes, block of keys)."""

        def spec(shape, axes):
            picked = [None if axis is None else order[axis] for axis in axes]
            return pl.BlockSpec(
                shape, lambda *at: tuple(0 if axis is None else at[axis] for axis in picked)
            )

        return pl.pallas_call(
            kernel,
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=1,
                grid=grid,
                in_specs=[spec(*s) for s in specs],
                out_specs=spec(*out_spec),
                scratch_shapes=scratch,
            ),
            out_shape=out_shape,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary")
            ),
            interpret=interpret,
            name=name,
        )(reach, *arguments)

    row, head, probe, key = range(4)
    q_spec = ((None, None, bq, dim), (row, head, probe, None))
    k_spec = ((None, None, bk, dim), (row, head, key, None))
    visible_spec = ((1, bq), (None, probe))
    lse_spec = ((None, None, 1, bq), (row, head, None, probe))
    if lse is None:
        lse = call(
            functools.partial(_lse_kernel, scale=scale, bk=bk),
            (rows, heads, nq, nk),
            (0, 1, 2, 3),
            [q_spec, k_spec, visible_spec],
            lse_spec,
            jax.ShapeDtypeStruct((rows, heads, 1, probes), jnp.float32),
            [pltpu.VMEM((1, bq), jnp.float32), pltpu.VMEM((1, bq), jnp.float32)],
            (q, k, visible),
            "probe_lse",
        )
    else:
        lse = lse.swapaxes(1, 2)[:, :, None]
    lanes = LANES if bq % LANES == 0 else bq
    sums = call(
        functools.partial(_sum_kernel, scale=scale, bk=bk),
        (rows, nk, heads, nq),
        (0, 2, 3, 1),
        [q_spec, k_spec, visible_spec, lse_spec],
        ((None, 1, bk), (row, None, key)),
        jax.ShapeDtypeStruct((rows, 1, num_keys), jnp.float32),
        [pltpu.VMEM((bk, lanes), jnp.float32)],
        (q, k, visible, lse),
        "key_importance",
    )
    return sums[:, 0]


def _logits(q_ref, k_ref, visible_ref, block, scale, bk):
    """[keys, probes] and which of them are seen."""
    contract = (((1,), (1,)), ((), ()))
    logits = jax.lax.dot_general(
        k_ref[...], q_ref[...], contract, preferred_element_type=jnp.float32
    )
    key = block * bk + jax.lax.broadcasted_iota(jnp.int32, logits.shape, 0)
    return logits * scale, key < visible_ref[...]


def _lse_kernel(reach_ref, q_ref, k_ref, visible_ref, lse_ref, peak_ref, total_ref, *, scale, bk):
    probe, key = pl.program_id(2), pl.program_id(3)

    @pl.when(key == 0)
    def _():
        peak_ref[...] = jnp.full_like(peak_ref, _MASKED)
        total_ref[...] = jnp.zeros_like(total_ref)

    @pl.when(key * bk < reach_ref[probe])
    def _():
        logits, seen = _logits(q_ref, k_ref, visible_ref, key, scale, bk)
        logits = jnp.where(seen, logits, _MASKED)
        peak = peak_ref[...]
        higher = jnp.maximum(peak, logits.max(0, keepdims=True))
        weights = jnp.where(seen, jnp.exp(logits - higher), 0.0)
        total_ref[...] = total_ref[...] * jnp.exp(peak - higher) + weights.sum(0, keepdims=True)
        peak_ref[...] = higher

    @pl.when(key == pl.num_programs(3) - 1)
    def _():
        total = total_ref[...]
        lse_ref[...] = peak_ref[...] + jnp.log(jnp.where(total == 0.0, 1.0, total))


def _sum_kernel(reach_ref, q_ref, k_ref, visible_ref, lse_ref, out_ref, sum_ref, *, scale, bk):
    key, head, probe = pl.program_id(1), pl.program_id(2), pl.program_id(3)

    @pl.when((head == 0) & (probe == 0))
    def _():
        sum_ref[...] = jnp.zeros_like(sum_ref)

    @pl.when(key * bk < reach_ref[probe])
    def _():
        logits, seen = _logits(q_ref, k_ref, visible_ref, key, scale, bk)
        weights = jnp.where(seen, jnp.exp(logits - lse_ref[...]), 0.0)
        lanes = sum_ref.shape[1]
        # Lane by lane here; the sum across lanes is expensive and comes once, at the end.
        sum_ref[...] += sum(weights[:, at : at + lanes] for at in range(0, weights.shape[1], lanes))

    @pl.when((head == pl.num_programs(2) - 1) & (probe == pl.num_programs(3) - 1))
    def _():
        # A matmul with ones adds up lanes and lays the result along them.
        contract = (((1,), (1,)), ((), ()))
        ones = jnp.ones((8, sum_ref.shape[1]), jnp.float32)
        sums = jax.lax.dot_general(
            ones,
            sum_ref[...],
            contract,
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        out_ref[...] = sums[:1]
