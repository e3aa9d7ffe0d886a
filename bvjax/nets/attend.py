"""Attention of a DiT on one device or on a mesh: keys and values are gathered, queries stay.

On a mesh each device has the queries of some tokens (`TOKENS`) and some heads (`tensor`).  Keys and
values of all rows are gathered along the tokens' axes, a layer at a time; no other thing moves but
the importances, which are summed over tokens and heads once per chunk and layer.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from bvjax.sharding import TOKENS, Layout
from kernels_pallas.attention import attention
from kernels_pallas.importance import key_importance, log_sum_exp


@struct.dataclass
class AttendedRows:
    """Keys, rotated, with their values, and which of them are seen; None: all."""

    keys: Float[Array, "b c s a k"]
    values: Float[Array, "b c s a k"]
    mask: Bool[Array, "b c s"] | Bool[Array, "b c a s"] | None = (
        None  # of each head its own, or one for all
    )


def row_masks(
    parts: tuple[AttendedRows, ...],
) -> Bool[Array, "b c s"] | Bool[Array, "b c a s"] | None:
    """The masks of all parts, one after the other; None where none has any."""
    masks = [part.mask for part in parts if part.mask is not None]
    if not masks:
        return None
    heads = max(mask.ndim for mask in masks) == 4

    def of_part(part: AttendedRows) -> Array:
        mask = jnp.ones(part.keys.shape[:3], bool) if part.mask is None else part.mask
        if not heads or mask.ndim == 4:
            return mask
        return jnp.broadcast_to(
            mask[:, :, None], (*mask.shape[:2], part.keys.shape[3], mask.shape[2])
        )

    return jnp.concatenate([of_part(part) for part in parts], axis=-1)


def attend(
    layout: Layout,
    q: Float[Array, "b c n a k"],
    parts: tuple[AttendedRows, ...],
    length: Int[Array, "b c"] | None = None,
    *,
    replicated: bool = False,
    joint: bool = False,
    last_count: int = 1,
    most_keys: int | None = None,
) -> Float[Array, "b c n a k"]:
    """Attention of all queries over the concatenated rows of all parts.

    Args:
      length: valid rows of all parts together; they are a prefix.  Not with masks.
      replicated: the rows are on every device already (text), and only their heads are sharded.
        Rows then may have fewer chunks than `q`, each for several that follow each other.
      joint: queries see the rows of all chunks, not only of their own.  Without lengths and masks.
      last_count: the last row counts as so many.
      most_keys: of all rows at most so many are seen, whatever the masks.
    """
    options = dict(last_count=last_count, most_keys=most_keys)
    form = functools.partial(_attend_jointly if joint else _attend, layout, options)
    if layout.mesh is None:
        return form(q, parts, length)
    batch = layout.rows(q.shape[0])
    tokens = P(batch, None, TOKENS, "tensor")
    rows = P(batch, None, None, "tensor") if replicated else tokens
    masks = P(batch, None, None if replicated else TOKENS)
    specs = tuple(AttendedRows(rows, rows, None if part.mask is None else masks) for part in parts)

    def local(q, parts, length):
        if not replicated:
            parts = jax.tree.map(lambda x: jax.lax.all_gather(x, TOKENS, axis=2, tiled=True), parts)
        return form(q, parts, length)

    return layout.manual(local, (tokens, specs, P(batch)), tokens)(q, parts, length)


def _attend_jointly(layout, options, q, parts, length):
    """Returns `_attend` with the chunks of each video as one.  On a mesh their rows are in another order."""
    one_row = lambda x: x.reshape(x.shape[0], 1, -1, *x.shape[3:])
    rows = jax.tree.map(one_row, parts)
    return _attend(layout, options, one_row(q), rows, length).reshape(q.shape)


def _attend(layout, options, q, parts, length):
    shape = q.shape
    if shape[1] != parts[0].keys.shape[1]:  # queries of all chunks that share rows, in one chunk
        q = q.reshape(shape[0], parts[0].keys.shape[1], -1, *shape[3:])
    masks = row_masks(parts)
    if len(parts) == 1:
        keys, values = parts[0].keys, parts[0].values
    else:
        keys = jnp.concatenate([part.keys for part in parts], axis=2)
        values = jnp.concatenate([part.values for part in parts], axis=2)
    by_head = masks is not None and masks.ndim == 4
    if masks is not None and by_head:  # heads become chunks of one head
        q, keys, values = (
            _heads_apart(x).reshape(shape[0], -1, x.shape[2], 1, x.shape[4])
            for x in (q, keys, values)
        )
        masks = masks.reshape(shape[0], -1, masks.shape[3])
    out = attention(
        q,
        keys,
        values,
        kv_length=length,
        kv_mask=masks,
        implementation=layout.kernels,
        **options,
    )
    if by_head:
        return out.reshape(*shape[:2], shape[3], shape[2], shape[4]).swapaxes(2, 3)
    return out.reshape(shape)


def _heads_apart(x: Float[Array, "b c n a k"]) -> Float[Array, "b c a n 1 k"]:
    return x.swapaxes(2, 3)[..., None, :]


def importance(
    layout: Layout,
    q: Float[Array, "b c n a k"],
    k: Float[Array, "b c n a k"],
    probe_index: Int[Array, "p"],
    probe_visible: Int[Array, "p"] | None,
    others: AttendedRows | None = None,
    by_head: bool = False,
) -> Float[Array, "b c n"] | Float[Array, "b c a n"]:
    """Importance of a chunk's own keys: the probes' attention to each, summed (Algorithm 2, lines 6-9).

    Both are rotated.  On a mesh each device takes all keys with those probes that it has, and the results are summed.

    Args:
      others: rows that share the probes' attention with the chunk's own; None: none do.
      by_head: the sum is over probes, of each head.  Not on a mesh.
    """
    if layout.mesh is None:
        return _importance(layout, q[:, :, probe_index], k, probe_visible, others, by_head)
    batch, num_probes, num_tokens = layout.rows(q.shape[0]), probe_index.shape[0], q.shape[2]
    tokens = P(batch, None, TOKENS, "tensor")
    if probe_visible is None:
        probe_visible = jnp.full(num_probes, num_tokens, jnp.int32)

    def local(q, k, index, visible, others):
        k, others = jax.tree.map(
            lambda x: jax.lax.all_gather(x, TOKENS, axis=2, tiled=True), (k, others)
        )
        first = jax.lax.axis_index(TOKENS) * q.shape[2]
        if num_probes == num_tokens:  # all of them, in order
            visible = jax.lax.dynamic_slice_in_dim(visible, first, q.shape[2])
        else:
            index = index - first
            is_local = (index >= 0) & (index < q.shape[2])
            q = q[:, :, jnp.clip(index, 0, q.shape[2] - 1)]
            visible = jnp.where(is_local, visible, 0)
        local_importance = _importance(layout, q, k, visible, others)
        return jax.lax.psum(local_importance, (*TOKENS, "tensor"))

    rows = jax.tree.map(lambda x: tokens if x.ndim == 5 else P(batch, None, TOKENS), others)
    return layout.manual(local, (tokens, tokens, P(), P(), rows), P(batch))(
        q, k, probe_index, probe_visible, others
    )


def _importance(layout, q, k, visible, others, by_head=False):
    lse = None
    if others is not None:
        rest = log_sum_exp(q, others.keys, mask=others.mask)
        lse = jnp.logaddexp(log_sum_exp(q, k, visible), rest)
    if by_head:
        q, k = _heads_apart(q), _heads_apart(k)
        lse = None if lse is None else lse.swapaxes(-1, -2)[..., None]
    return key_importance(q, k, visible, lse=lse, implementation=layout.kernels)
