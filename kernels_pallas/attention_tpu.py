"""Attention on TPUs: jax's splash attention, with padding, key masks and lengths that skip work.

The kernel wants queries and keys in whole blocks and knows two kinds of masks.  Segment ids say
which keys are seen, and cost the same time.  Its table of blocks says which blocks are visited at
all; jax makes it from static masks, but it is an input like any other, so here it is computed from
each row's valid length: what lies past it is neither fetched nor multiplied.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import BlockSizes, SegmentIds
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo

from kernels_pallas.attention_xla import UNSEEN, valid_keys

LANES, SUBLANES = 128, 16  # units of blocks of keys; of queries in 16 bits
MAX_QUERIES, MAX_KEYS, MAX_COMPUTE = 1024, 2048, 512
_MAX_PADDING = 0.04  # of an axis, where its length allows
# Rows whose work is guessed to take as long as going to the next block, and as rescaling what the
# blocks before have given.
_STEP, _RESCALE = 24, 64
_EVERYTHING = MaskInfo(*(None,) * 5)


def splash(q, k, v, length, mask, scale, return_lse, *, interpret=False):
    """See `attention_xla` for the arguments; `interpret` runs the kernel without a TPU.

    Matmuls are as precise as `jax.default_matmul_precision` makes them on the machine: by default
    float32 inputs are multiplied in bfloat16.
    """
    seen = valid_keys(k.shape[1], length, mask)
    q = (q.astype(jnp.float32) * scale).astype(k.dtype)  # the kernel knows no scale
    skip = length is not None
    if return_lse:
        one_row = functools.partial(_forward, skip, True, interpret)
    else:
        one_row = functools.partial(_with_gradient, skip, interpret)
    if skip:  # a table per row: rows go one after the other in any case, and save memory so
        outputs = jax.lax.map(lambda row: one_row(*row), (q, k, v, seen))
    else:
        outputs = jax.vmap(one_row)(q, k, v, seen)
    out, lse = outputs if return_lse else (outputs, None)
    if seen is not None:
        has_key = seen.any(axis=1)[:, None, None]
        out = jnp.where(has_key[..., None], out, 0)
        lse = None if lse is None else jnp.where(has_key, lse, UNSEEN)
    return out, lse


def query_block(size: int, unit: int) -> int:
    """Queries per block for `size` of them, a multiple of `unit`."""
    return _cheapest(size, unit, MAX_QUERIES, lambda block: _STEP / block)


def key_block(size: int, largest: int) -> int:
    """Keys per block for `size` of them."""
    return _cheapest(
        size, LANES, largest, lambda block: _STEP / block + _RESCALE / compute_block(block)
    )


def compute_block(block: int) -> int:
    """The part of a block of keys whose logits are made at a time: the largest that divides it."""
    parts = range(LANES, min(block, MAX_COMPUTE) + 1, LANES)
    return max(part for part in parts if block % part == 0)


def padding(num_queries: int, num_keys: int) -> float:
    """Returns what whole blocks add to the logits of `num_queries` x `num_keys`, as a share of them."""
    ratio = 1
    for size, block in (
        (num_queries, query_block(num_queries, SUBLANES)),
        (num_keys, key_block(num_keys, MAX_KEYS)),
    ):
        ratio *= -(-size // block) * block / size
    return ratio - 1


def _cheapest(size, unit, largest, overhead):
    """Long blocks have little overhead, short ones little padding."""
    candidates = range(unit, min(largest, -(-size // unit) * unit) + 1, unit)
    padded = {block: -(-size // block) * block for block in candidates}
    allowed = max((1 + _MAX_PADDING) * size, min(padded.values()))
    cost = {
        block: rows * (1 + overhead(block)) for block, rows in padded.items() if rows <= allowed
    }
    return min(cost, key=cost.get)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _with_gradient(skip, interpret, q, k, v, seen):
    return _forward(skip, False, interpret, q, k, v, seen)


def _with_gradient_fwd(skip, interpret, q, k, v, seen):
    return jax.vjp(functools.partial(_trained, interpret, seen), q, k, v)


def _with_gradient_bwd(skip, interpret, vjp, cotangent):
    return (*vjp(cotangent), None)


_with_gradient.defvjp(_with_gradient_fwd, _with_gradient_bwd)


def _forward(skip, return_lse, interpret, q, k, v, seen):
    """One row: [N, A, K] x [S, A, K], seen bool [S] or None.  Has no gradient."""
    block_q = query_block(q.shape[0], SUBLANES)
    block_kv = key_block(k.shape[0], MAX_KEYS)
    padded, ids = _padded(q, k, v, seen, block_q, block_kv)
    table = _EVERYTHING
    if skip:
        table = _blocks_to_visit(ids.kv, ids.q.size // block_q, block_kv)
    run = _kernel(
        BlockSizes(block_q, block_kv, compute_block(block_kv)),
        interpret,
        save_residuals=return_lse,
        fwd_mask_info=table,
    )
    if not return_lse:
        return _unpadded(run(*padded, ids), q)
    out, (lse,) = run(*padded, ids)
    return _unpadded(out, q), _unpadded(lse, q)


def _trained(interpret, seen, q, k, v):
    """The same with a gradient; its kernels hold queries in lanes and visit all blocks."""
    block_q = query_block(q.shape[0], LANES)
    block_kv = key_block(k.shape[0], MAX_KEYS // 2)
    compute = compute_block(block_kv)
    padded, ids = _padded(q, k, v, seen, block_q, block_kv)
    sizes = BlockSizes(
        block_q, block_kv, compute, block_q_dkv=block_q, block_kv_dkv=block_kv,
        block_kv_dkv_compute=compute, block_q_dq=block_q, block_kv_dq=compute,
    )  # fmt: skip
    all_of_it = dict(dq_mask_info=_EVERYTHING, dkv_mask_info=_EVERYTHING)
    return _unpadded(_kernel(sizes, interpret, **all_of_it)(*padded, ids), q)


def _kernel(
    sizes, interpret, *, save_residuals=False, fwd_mask_info=_EVERYTHING, dq_mask_info=None,
    dkv_mask_info=None,
):  # fmt: skip
    return kernel.SplashAttentionKernel(
        fwd_mask_info,
        dq_mask_info,
        dkv_mask_info,
        block_sizes=sizes,
        is_mqa=False,
        save_residuals=save_residuals,
        mask_value=kernel.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=None,
        residual_checkpoint_name=None,
        mask_function=None,
        interpret=interpret,
    )


def _padded(q, k, v, seen, block_q, block_kv):
    """Whole blocks, heads first; segment 1 is queries and what they see, None: no one is masked."""
    num_keys = k.shape[0]
    q = _pad(q.swapaxes(0, 1), 1, block_q)
    k, v = (_pad(x.swapaxes(0, 1), 1, block_kv) for x in (k, v))
    if seen is None:
        if k.shape[1] == num_keys:
            return (q, k, v), None
        seen = jnp.ones(num_keys, bool)
    ids = _pad(seen.astype(jnp.int32), 0, block_kv)
    return (q, k, v), SegmentIds(jnp.ones(q.shape[1], jnp.int32), ids)


def _pad(x, axis, block):
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % block)
    return jnp.pad(x, widths)


def _unpadded(x, q):
    """[A, rows, ...] back to [N, A, ...]."""
    return x[:, : q.shape[0]].swapaxes(0, 1)


def _blocks_to_visit(ids, num_query_blocks, block_kv):
    """The kernel's table: which block of keys to fetch at each step, and whether to work on it.

    A step without work names the block that is there already, so that nothing is fetched.  The
    first block is worked on even if nothing in it is seen: the kernel divides by the sum of its
    weights.
    """
    work = ids.reshape(-1, block_kv).any(axis=1).at[0].set(True)
    fetch = jax.lax.cummax(jnp.where(work, jnp.arange(work.size), 0))
    shape = (1, num_query_blocks, work.size)
    return MaskInfo(
        data_next=jnp.broadcast_to(fetch.astype(jnp.int32), shape),
        mask_next=None,
        block_mask=jnp.broadcast_to(2 * work.astype(jnp.int32), shape),  # 2: no mask of its own
        partial_mask_blocks=None,
        q_sequence=None,
    )
