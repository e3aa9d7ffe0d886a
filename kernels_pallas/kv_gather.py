"""Row gathers of the KV bank: kept tokens into a slot, and retrieved slots into one context.

Both are a gather of whole [A, K] rows by an index that is small (int32 per row), so they move each
kept byte once.  Lengths are arrays: nothing here recompiles when they change.  Rows beyond a length
are zeros.  The arrays may have any trailing axes, so token positions [..., N, 3] move the same way.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

IMPLEMENTATIONS = ("auto", "xla")


def compact(
    x: jax.Array, keep: jax.Array, capacity: int, *, implementation: str = "auto"
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Kept rows of a chunk, in position order, at the head of a slot (Algorithm 2, line 13).

    Args:
      x: [..., N, A, K] rows (any trailing axes).
      keep: bool [..., N], at most `capacity` of them true; with more, the first ones are taken.
      capacity: rows of the slot; may exceed N.
      implementation: one of `IMPLEMENTATIONS`.

    Returns:
      rows [..., capacity, A, K], zeros after length; index int32 [..., capacity] as `kept_first`
      orders it; length int32 [...].

    Raises:
      ValueError: `implementation` is unknown.
    """
    _check(implementation)
    index, length = kept_first(keep, capacity)
    return take_rows(x, index, length), index, length


def kept_first(keep: jax.Array, capacity: int) -> tuple[jax.Array, jax.Array]:
    """Token index of each row of a slot: the kept tokens in position order, then the others.

    Args:
      keep: bool [..., N].
      capacity: rows of the slot; rows that no token is left for point to token 0.

    Returns:
      index int32 [..., capacity] and the number of kept tokens among them, int32 [...].
    """
    order = jnp.argsort(~keep, axis=-1, stable=True).astype(jnp.int32)[..., :capacity]
    missing = capacity - order.shape[-1]
    index = jnp.pad(order, [(0, 0)] * (order.ndim - 1) + [(0, missing)])
    length = jnp.minimum(keep.sum(-1, dtype=jnp.int32), capacity)
    return index, length


def take_rows(x: jax.Array, index: jax.Array, length: jax.Array) -> jax.Array:
    """x [..., n, *row] at index [..., m], with zeros from row `length` [...] on: [..., m, *row]."""
    trailing = (1,) * (x.ndim - index.ndim)
    rows = jnp.take_along_axis(
        x, index.reshape(*index.shape, *trailing), axis=index.ndim - 1, mode="clip"
    )
    valid = jnp.arange(index.shape[-1]) < length[..., None]
    return jnp.where(valid.reshape(*valid.shape, *trailing), rows, jnp.zeros((), x.dtype))


def pack(
    parts: jax.Array,
    lengths: jax.Array,
    slots: jax.Array | None = None,
    *,
    implementation: str = "auto",
) -> tuple[jax.Array, jax.Array]:
    """The valid rows of several entries behind each other, without gaps (CONCATKV of Eq. 9).

    Args:
      parts: [..., E, R, A, K] entries of up to R rows, or [..., slot, R, A, K] with `slots` (any
        trailing axes).
      lengths: int32 [..., E], valid rows of each entry; they are a prefix of its R rows.
      slots: int32 [..., E], the slot of `parts` that each entry is read from.  Slots are then
        gathered and packed in one move, without a copy of the slots in between.
      implementation: one of `IMPLEMENTATIONS`.

    Returns:
      packed [..., E*R, A, K], zeros after length, and length int32 [...].

    Raises:
      ValueError: `implementation` is unknown.
    """
    _check(implementation)
    axis, entries = lengths.ndim - 1, lengths.shape[-1]
    num_slots, rows = parts.shape[axis : axis + 2]
    ends = jnp.cumsum(lengths, axis=-1, dtype=jnp.int32)
    target = jnp.arange(entries * rows, dtype=jnp.int32)
    # The entry that owns a target row is the number of entries that end at or before it.
    owner = (target[:, None] >= ends[..., None, :]).sum(-1, dtype=jnp.int32)
    owner = jnp.minimum(owner, entries - 1)
    source = target - jnp.take_along_axis(ends - lengths, owner, axis=-1)
    if slots is not None:
        owner = jnp.take_along_axis(jnp.broadcast_to(slots, lengths.shape), owner, axis=-1)
    flat = parts.reshape(*parts.shape[:axis], num_slots * rows, *parts.shape[axis + 2 :])
    length = ends[..., -1]
    return take_rows(flat, owner * rows + source, length), length


def _check(implementation: str) -> None:
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation={implementation!r} is unknown; use one of {', '.join(IMPLEMENTATIONS)}"
        )
