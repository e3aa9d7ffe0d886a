"""Attention on NVIDIA GPUs: cuDNN's through `jax.nn`, or jax's Pallas kernel for Triton.

Both take a valid length per row and no mask of keys.  Attention does not care about the order of
keys, so under a mask those that are seen are moved to the front, and their number is the length.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.gpu import decode_attention

from kernels_pallas.attention_xla import UNSEEN, batched, valid_keys
from kernels_pallas.platforms import say_once

_BLOCK_Q, _BLOCK_KV, _WARPS = 128, 64, 8


def cudnn(q, k, v, length, mask, scale, return_lse):
    """See `attention_xla` for the arguments."""
    if not _takes("cudnn", (jnp.bfloat16, jnp.float16), 256, q, k, v):
        return batched(q, k, v, length, mask, scale, return_lse)
    k, v, length = _seen_first(k, v, length, mask)
    if length is None:
        return _cudnn(q, k, v, None, scale, return_lse)
    out, lse = _cudnn(q, k, v, jnp.maximum(length, 1), scale, return_lse)
    return _without_empty_rows(out, lse, length)


def triton(q, k, v, length, mask, scale, return_lse, *, interpret=False):
    """See `attention_xla` for the arguments; the backward pass is that of the form `xla`."""
    if not _takes("triton", (jnp.bfloat16,), 128, q, k, v):
        return batched(q, k, v, length, mask, scale, return_lse)
    k, v, length = _seen_first(k, v, length, mask)
    if length is None:
        length = jnp.full(k.shape[0], k.shape[1], jnp.int32)
    if return_lse:
        out, lse = _triton(q, k, v, length, scale, interpret)
    else:
        out, lse = _triton_with_gradient(scale, interpret, q, k, v, length), None
    return _without_empty_rows(out, lse, length)


def _takes(form, dtypes, largest_head, q, k, v):
    """Returns whether a kernel can do it; otherwise the log says what is done instead."""
    if not q.dtype == k.dtype == v.dtype or q.dtype not in dtypes:
        names = " and ".join(sorted({str(x.dtype) for x in (q, k, v)}))
        say_once(f"attention: xla in {names}, which {form} does not multiply")
        return False
    if q.shape[-1] % 8 or q.shape[-1] > largest_head:
        say_once(f"attention: xla for heads of {q.shape[-1]}, which {form} does not take")
        return False
    return True


def _seen_first(k, v, length, mask):
    """Keys and values with those that are seen in front, and how many they are."""
    if mask is None:
        return k, v, length
    seen = valid_keys(k.shape[1], length, mask)
    order = jnp.argsort(~seen, axis=1, stable=True)
    # unique, which spares the gradient its atomic additions
    take = jax.vmap(lambda x, at: x.at[at].get(unique_indices=True, mode="promise_in_bounds"))
    return take(k, order), take(v, order), seen.sum(axis=1, dtype=jnp.int32)


def _without_empty_rows(out, lse, length):
    some = (length > 0)[:, None, None]
    out = jnp.where(some[..., None], out, 0)
    return out, None if lse is None else jnp.where(some, lse, UNSEEN)


def _cudnn(q, k, v, length, scale, return_lse):
    if not return_lse:
        num_queries = q.shape[1]
        q, k, v, length = _even(q, k, v, length)
        out = jax.nn.dot_product_attention(
            q, k, v, scale=scale, key_value_seq_lengths=length, implementation="cudnn"
        )
        return out[:, :num_queries], None
    # jax.nn rounds the log-sum-exp to 16 bits, which near 8 has steps of 0.06
    from jax._src.cudnn.fused_attention_stablehlo import MaskType, dot_product_attention

    lengths = None, None
    if length is not None:
        lengths = jnp.full(q.shape[0], q.shape[1], jnp.int32), length
    kind = MaskType.NO_MASK if length is None else MaskType.PADDING
    out, lse = dot_product_attention(
        q, k, v, None, None, *lengths, scale=scale, mask_type=kind, return_residual=True
    )
    return out, lse.swapaxes(1, 2)


def _even(q, k, v, length):
    """The same with even numbers of queries and keys: cuDNN's backward pass takes no others.

    Of a mesh's shards one may be odd: 1,560 tokens over 8 devices are 195 each.
    """
    pad = lambda x: jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0)))
    if k.shape[1] % 2:
        if length is None:
            length = jnp.full(k.shape[0], k.shape[1], jnp.int32)
        k, v = pad(k), pad(v)
    return pad(q) if q.shape[1] % 2 else q, k, v, length


def _triton(q, k, v, length, scale, interpret):
    """jax's flash-decoding kernel with one split: its "heads" are our queries.

    jax's other kernel for Triton (`attention.mha`) has no lengths.
    """
    rows, num_queries, heads, head_dim = q.shape
    width = max(16, 1 << (head_dim - 1).bit_length())
    padded_keys = -k.shape[1] % _BLOCK_KV

    def heads_first(x, pad):
        x = jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, pad), (0, width - head_dim)))
        return x.reshape(rows * heads, -1, width)

    out, (total, peak) = decode_attention.mqa(
        heads_first(q, 0),
        heads_first(k, padded_keys),
        heads_first(v, padded_keys),
        kv_seq_len=jnp.repeat(length, heads),
        sm_scale=scale,
        block_h=_BLOCK_Q,
        block_k=_BLOCK_KV,
        k_splits=1,
        num_warps=_WARPS,
        return_residuals=True,
        normalize_output=False,
        interpret=interpret,
    )
    total = jnp.where(total > 0, total, 1.0)
    out = (out[..., :head_dim] / total[..., None]).astype(v.dtype)
    back = lambda x: x.reshape(rows, heads, num_queries, *x.shape[2:]).swapaxes(1, 2)
    return back(out), back(peak + jnp.log(total))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _triton_with_gradient(scale, interpret, q, k, v, length):
    return _triton(q, k, v, length, scale, interpret)[0]


def _triton_fwd(scale, interpret, q, k, v, length):
    return _triton(q, k, v, length, scale, interpret)[0], (q, k, v, length)


def _triton_bwd(scale, interpret, kept, cotangent):
    *qkv, length = kept
    _, vjp = jax.vjp(lambda *qkv: batched(*qkv, length, None, scale, False)[0], *qkv)
    return (*vjp(cotangent), None)


_triton_with_gradient.defvjp(_triton_fwd, _triton_bwd)
