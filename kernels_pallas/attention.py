"""Attention over rows of packed keys: one entry point, one form per kind of machine.

| form | where | file |
|---|---|---|
| `mapped` | CPU | `attention_xla.py`: one (row, head) after the other |
| `xla` | anywhere; on a CPU where there are few logits | `attention_xla.py`: all rows and heads together |
| `splash` | TPU | `attention_tpu.py`: jax's splash attention |
| `cudnn` | NVIDIA | `attention_gpu.py`: cuDNN's, through `jax.nn` |
| `triton` | NVIDIA | `attention_gpu.py`: jax's Pallas kernel, where cuDNN is missing |

The kernels are made elsewhere; what is done here is to give them all the same meaning.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from kernels_pallas import attention_gpu, attention_tpu, attention_xla
from kernels_pallas.platforms import resolve

# Logits of a row and head up to which a CPU takes all rows together: with 240 rows of 16 x 16 forward + backward took
# 1 / 2.8 of the mapped form's CPU time, with 72 of 64 x 33 1 / 1.7, with 15 of 128 x 128 as long.
_FEW_LOGITS = 128 * 64
FORMS = {"cpu": "mapped", "gpu": "cudnn", "tpu": "splash", "xla": "xla", "triton": "triton"}
_RUN = {
    "mapped": attention_xla.mapped,
    "xla": attention_xla.batched,
    "splash": attention_tpu.splash,
    "cudnn": attention_gpu.cudnn,
    "triton": attention_gpu.triton,
}


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    kv_length: jax.Array | None = None,
    kv_mask: jax.Array | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    last_count: int = 1,
    most_keys: int | None = None,
    implementation: str = "auto",
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """softmax(scale q k^T) v with the softmax in float32.

    Keys and values that are not seen must be finite all the same.

    Args:
      q: [..., N, A, K] queries.
      k: [..., S, A, K] keys.
      v: [..., S, A, K] values.
      kv_length: int [...], the first `kv_length` keys of a row are valid; the rest are not seen.
        The kernels skip blocks of keys past it.
      kv_mask: bool [..., S], the keys that are seen.  Both may be given; a key must pass both.
      scale: 1 / sqrt(K) when None.
      last_count: the last key and value count as so many equal ones (the padding of a text, say).
      most_keys: promises that no row of `kv_mask` lets more keys be seen; of more keys than that the
        seen ones are moved to the front, and the others not multiplied.
      return_lse: also return the log-sum-exp of the scaled, masked logits.  Only `mapped` and
        `xla` have a gradient then.
      implementation: see `platforms.resolve`; `auto` is `mapped` or `xla` on a CPU, `splash` on a TPU and
        `cudnn` on a GPU.  `cudnn` and `triton` multiply 16-bit numbers: what they do not take,
        float32 foremost, runs as `xla`, and the log says so once.

    Returns:
      [..., N, A, K] in the dtype of `v`; with `return_lse` also float32 [..., N, A].  A row without
      a valid key gives zeros and a log-sum-exp of about -1e30.

    Raises:
      ValueError: `implementation` is unknown, `last_count` is below 1, or a gradient is asked for through a kernel that
        also returns the log-sum-exp.
    """
    if last_count < 1:
        raise ValueError(f"last_count is {last_count}; it must be 1 or more")
    form = resolve("attention", implementation, FORMS)
    if implementation in ("auto", "cpu") and form == "mapped":
        form = "xla" if q.shape[-3] * k.shape[-3] <= _FEW_LOGITS else form
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    rows, heads = q.shape[:-3], q.shape[-2]
    q, k, v = (x.reshape(-1, *x.shape[-3:]) for x in (q, k, v))
    if kv_length is not None:
        kv_length = jnp.broadcast_to(jnp.asarray(kv_length, jnp.int32), rows).reshape(-1)
    if kv_mask is not None:
        kv_mask = jnp.broadcast_to(kv_mask, (*rows, k.shape[1])).reshape(-1, k.shape[1])
    if return_lse and form not in ("mapped", "xla"):
        q, k, v = _forward_only((q, k, v))
    if kv_mask is not None and most_keys is not None and most_keys < k.shape[1]:
        k, v, kv_length = attention_xla.seen_first(k, v, kv_length, kv_mask, most_keys)
        kv_mask = None
    options = {}
    if last_count > 1 and form in ("mapped", "xla"):
        options["bias"] = jnp.zeros(k.shape[1]).at[-1].set(math.log(last_count))
    elif last_count > 1:
        k, v, kv_length, kv_mask = _repeated(k, v, kv_length, kv_mask, last_count)
    out, lse = _RUN[form](q, k, v, kv_length, kv_mask, scale, return_lse, **options)
    out = out.reshape(*rows, *out.shape[1:])
    return (out, lse.reshape(*rows, -1, heads)) if return_lse else out


def _repeated(k, v, length, mask, count):
    """The last key and value as `count` rows: kernels add nothing to logits."""
    num_keys = k.shape[1]
    repeat = lambda x: jnp.concatenate([x, jnp.repeat(x[:, -1:], count - 1, axis=1)], axis=1)
    if length is not None:
        length = jnp.where(length >= num_keys, num_keys + count - 1, length)
    return repeat(k), repeat(v), length, None if mask is None else repeat(mask)


@jax.custom_jvp
def _forward_only(x):
    return x


@_forward_only.defjvp
def _refuse(primals, tangents):
    raise ValueError(
        "attention with return_lse=True has a gradient in the forms mapped and xla only; "
        "ask for the output alone, or for one of these"
    )
