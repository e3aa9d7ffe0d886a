"""Attention over rows of packed keys: one entry point, one form per kind of machine.

| form | where | file |
|---|---|---|
| `mapped` | CPU | `attention_xla.py`: one (row, head) after the other |
| `xla` | anywhere | `attention_xla.py`: all rows and heads together |
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
      return_lse: also return the log-sum-exp of the scaled, masked logits.  Only `mapped` and
        `xla` have a gradient then.
      implementation: see `platforms.resolve`; `auto` is `mapped` on a CPU, `splash` on a TPU and
        `cudnn` on a GPU.  `cudnn` and `triton` multiply 16-bit numbers: what they do not take,
        float32 foremost, runs as `xla`, and the log says so once.

    Returns:
      [..., N, A, K] in the dtype of `v`; with `return_lse` also float32 [..., N, A].  A row without
      a valid key gives zeros and a log-sum-exp of about -1e30.

    Raises:
      ValueError: `implementation` is unknown, or a gradient is asked for through a kernel that
        also returns the log-sum-exp.
    """
    form = resolve("attention", implementation, FORMS)
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    rows, heads = q.shape[:-3], q.shape[-2]
    q, k, v = (x.reshape(-1, *x.shape[-3:]) for x in (q, k, v))
    if kv_length is not None:
        kv_length = jnp.broadcast_to(jnp.asarray(kv_length, jnp.int32), rows).reshape(-1)
    if kv_mask is not None:
        kv_mask = jnp.broadcast_to(kv_mask, (*rows, k.shape[1])).reshape(-1, k.shape[1])
    if return_lse and form not in ("mapped", "xla"):
        q, k, v = _forward_only((q, k, v))
    out, lse = _RUN[form](q, k, v, kv_length, kv_mask, scale, return_lse)
    out = out.reshape(*rows, *out.shape[1:])
    return (out, lse.reshape(*rows, -1, heads)) if return_lse else out


@jax.custom_jvp
def _forward_only(x):
    return x


@_forward_only.defjvp
def _refuse(primals, tangents):
    raise ValueError(
        "attention with return_lse=True has a gradient in the forms mapped and xla only; "
        "ask for the output alone, or for one of these"
    )
