"""Row gathers of the KV bank: kept tokens into a slot, and retrieved slots into one context.

Both are a gather of whole [A, K] rows by an index that is small (int32 per row), so they move each
kept byte once.  Lengths are arrays: nothing here recompiles when they change.  Rows beyond a length
are zeros.  The arrays may have any trailing axes, so token positions [..., N, 3] move the same way.

A bank is large (56 GB for a story at Wan 1.3B), so no form may copy it.  `xla` keeps the leading
axes of a bank apart for that reason: merged, XLA copies the bank to a layout of its own choice.
`mosaic` (TPU) and `triton` (NVIDIA) are Pallas kernels; `auto` takes them for rows that they can
hold, and `xla` for others and on a CPU.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from kernels_pallas import kv_gather_gpu, kv_gather_tpu
from kernels_pallas.platforms import PLATFORMS, resolve
from kernels_pallas.rope import rotate


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


def write_rows(
    slots: jax.Array,
    x: jax.Array,
    index: jax.Array,
    length: jax.Array,
    slot: jax.Array,
    *,
    implementation: str = "auto",
) -> jax.Array:
    """`slots` with `take_rows(x, index, length)` in one slot, in place where `slots` is donated.

    Args:
      slots: [..., S, C, A, K] (any trailing axes).
      x: [..., N, A, K] rows, cast to the dtype of `slots`.
      index: int32 [..., C], the row of `x` for each row of the slot, within 0 .. N - 1.
      length: int32 [...], rows from there on become zeros.
      slot: int32 [...] or fewer leading axes, broadcast; S or more writes nothing.
      implementation: auto, a platform, or one of xla, mosaic, triton.

    Raises:
      ValueError: `implementation` is unknown, or that kernel cannot hold such rows.
    """
    lead, x = index.shape[:-1], x.astype(slots.dtype)
    slot = jnp.broadcast_to(slot, lead).astype(jnp.int32)
    form = _form("write_rows", implementation, slots)
    write = _write_differentiably if jnp.issubdtype(slots.dtype, jnp.inexact) else _write
    return write(form, slots, x, index, length, slot)


def _write(form, slots, x, index, length, slot):
    if form == "xla":
        return _write_in_a_loop(slots, x, index, length, slot)
    kernel = kv_gather_tpu.write_rows if form == "mosaic" else kv_gather_gpu.write_rows
    flat = _flat(index.ndim - 1, slots, x, index, length, slot)
    return kernel(*flat).reshape(slots.shape)


# Neither a loop that writes in place nor a kernel has a derivative of its own.
_write_differentiably = jax.custom_vjp(_write, nondiff_argnums=(0,))


def _write_forward(form, slots, x, index, length, slot):
    # Of `x` only the shape is needed: an array without elements holds it.
    return _write(form, slots, x, index, length, slot), (x[..., None][..., :0], index, length, slot)


def _write_backward(form, residuals, cotangent):
    """Returns the cotangents: of `slots` all but the slot written, of `x` the rows written there."""
    like, index, length, slot = residuals
    lead = index.ndim - 1
    trailing = (1,) * (cotangent.ndim - lead - 1)
    slots = jnp.arange(cotangent.shape[lead])
    slots_cotangent = jnp.where(
        (slots == slot[..., None]).reshape(*slot.shape, -1, *trailing), 0, cotangent
    )
    at = jnp.clip(slot, 0, len(slots) - 1).reshape(*slot.shape, 1, *trailing)
    rows = jnp.take_along_axis(cotangent, at, axis=lead).squeeze(lead)
    valid = (jnp.arange(index.shape[-1]) < length[..., None]) & (slot < len(slots))[..., None]
    rows = jnp.where(valid.reshape(*valid.shape, *trailing[1:]), rows, 0)
    where = (*jnp.indices(index.shape, sparse=True)[:-1], index)
    return (
        slots_cotangent,
        jnp.zeros(like.shape[:-1], like.dtype).at[where].add(rows),
        None,
        None,
        None,
    )


_write_differentiably.defvjp(_write_forward, _write_backward)


def _write_in_a_loop(slots, x, index, length, slot):
    """A slice of one slot at a time: a scatter of all would hold all new rows beside the bank."""
    lead, (num_slots, *shape) = index.shape[:-1], slots.shape[index.ndim - 1 :]

    def write_slot(i, slots):
        at = tuple(part.astype(jnp.int32) for part in jnp.unravel_index(i, lead))

        def pick(a):
            sizes = (1,) * len(lead) + a.shape[len(lead) :]
            start = at + (jnp.int32(0),) * (a.ndim - len(lead))
            return jax.lax.dynamic_slice(a, start, sizes).reshape(a.shape[len(lead) :])

        rows = take_rows(pick(x), pick(index), pick(length))
        target = pick(slot).astype(jnp.int32)
        start = (*at, jnp.clip(target, 0, num_slots - 1), *(jnp.int32(0),) * len(shape))
        old = jax.lax.dynamic_slice(slots, start, (1,) * (len(lead) + 1) + tuple(shape))
        new = jnp.where(target < num_slots, rows.reshape(old.shape), old)
        return jax.lax.dynamic_update_slice(slots, new, start)

    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(math.prod(lead)), write_slot, slots)


def pack(
    parts: jax.Array,
    lengths: jax.Array,
    slots: jax.Array | None = None,
    *,
    angles: jax.Array | None = None,
    window: tuple[int | jax.Array, int] | None = None,
    implementation: str = "auto",
) -> tuple[jax.Array, jax.Array]:
    """The valid rows of several entries concatenated, without gaps (CONCATKV of Eq. 9).

    Args:
      parts: [..., E, R, A, K] entries of up to R rows, or [..., slot, R, A, K] with `slots` (any
        trailing axes).
      lengths: int32 [..., E], valid rows of each entry; they are a prefix of its R rows.
      slots: int32 [..., E], the slot of `parts` that each entry is read from.  Slots are then
        gathered and packed in one move, without a copy of the slots in between.
      angles: float32 [..., T, K/2] radians by which the pairs of each returned row are rotated
        (`rope.rotate`); None leaves rows as they are.
      window: (first row, number of rows) of the packed rows to return, the first may be traced,
        for packed rows that are sharded over devices; None returns all E*R.
      implementation: auto, a platform, or one of xla, mosaic, triton.

    Returns:
      packed [..., T, A, K], T = E*R or the window's rows, zeros after length; and length
      int32 [...], of all packed rows whatever the window.

    Raises:
      ValueError: `implementation` is unknown, or that kernel cannot hold such rows.
    """
    rows = parts.shape[lengths.ndim]
    first, count = window or (0, lengths.shape[-1] * rows)
    lengths = lengths.astype(jnp.int32)
    entry_slots = jnp.arange(lengths.shape[-1], dtype=jnp.int32) if slots is None else slots
    slots = jnp.broadcast_to(entry_slots, lengths.shape).astype(jnp.int32)
    length = lengths.sum(-1, dtype=jnp.int32)
    form = _form("pack", implementation, parts)
    if form == "xla":
        entry, row, valid = packed_rows(lengths, first, count)
        rows = _pack_in_one_gather(parts, jnp.take_along_axis(slots, entry, axis=-1), row, valid)
        if angles is None:
            return rows, length
        # A form of this kernel says nothing about that of the rotation.
        where = implementation if implementation in PLATFORMS else "auto"
        return rotate(rows, angles, where), length
    move = _pack_differentiably if jnp.issubdtype(parts.dtype, jnp.inexact) else _pack_by_kernel
    return move(form, count, parts, lengths, slots, angles, jnp.asarray(first, jnp.int32)), length


def _pack_by_kernel(form, count, parts, lengths, slots, angles, first):
    axis, rows = lengths.ndim - 1, parts.shape[lengths.ndim]
    if form == "mosaic":
        packed = kv_gather_tpu.pack(*_flat(axis, parts, lengths, slots, angles), first, count)
    else:
        entry, row, valid = packed_rows(lengths, first, count)
        slot = jnp.take_along_axis(slots, entry, axis=-1)
        source = jnp.where(valid, slot * rows + row, -1)
        packed = kv_gather_gpu.pack(*_flat(axis, parts, source, angles))
    return packed.reshape(*lengths.shape[:-1], count, *parts.shape[axis + 2 :])


# The kernels have no derivative of their own.
_pack_differentiably = jax.custom_vjp(_pack_by_kernel, nondiff_argnums=(0, 1))


def _pack_forward(form, count, parts, lengths, slots, angles, first):
    # Of `parts` only the shape is needed: an array without elements holds it.
    like = parts[..., None][..., :0]
    packed = _pack_by_kernel(form, count, parts, lengths, slots, angles, first)
    return packed, (like, lengths, slots, angles, first)


def _pack_backward(form, count, residuals, cotangent):
    """Returns the cotangent of `parts`: packed rows, turned back, where they came from; the angles have none."""
    like, lengths, slots, angles, first = residuals
    entry, row, valid = packed_rows(lengths, first, count)
    slot = jnp.take_along_axis(slots, entry, axis=-1)
    if angles is not None:
        cotangent = rotate(cotangent, -angles)
    valid = valid.reshape(*valid.shape, *(1,) * (cotangent.ndim - valid.ndim))
    rows = jnp.where(valid, cotangent, jnp.zeros((), cotangent.dtype))
    lead = jnp.indices(slot.shape, sparse=True)[:-1]
    parts = jnp.zeros(like.shape[:-1], like.dtype)
    at = parts.at[(*lead, slot, row)]
    no_angles = None if angles is None else jnp.zeros_like(angles)
    return at.add(rows, mode="drop"), None, None, no_angles, None


_pack_differentiably.defvjp(_pack_forward, _pack_backward)


def packed_rows(
    lengths: jax.Array, first: int | jax.Array, count: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(entry, row of the entry, whether there is one) of `count` packed rows from `first` on."""
    ends = jnp.cumsum(lengths, axis=-1, dtype=jnp.int32)
    target = first + jnp.arange(count, dtype=jnp.int32)
    # The entry that owns a target row is the number of entries that end at or before it.
    entry = (target[:, None] >= ends[..., None, :]).sum(-1, dtype=jnp.int32)
    entry = jnp.minimum(entry, lengths.shape[-1] - 1)
    row = target - jnp.take_along_axis(ends - lengths, entry, axis=-1)
    return entry, row, target < ends[..., -1:]


def _pack_in_one_gather(parts, slot, row, valid):
    lead = jnp.indices(slot.shape, sparse=True)[:-1]
    rows = parts.at[(*lead, slot, row)].get(mode="clip")
    valid = valid.reshape(*valid.shape, *(1,) * (rows.ndim - valid.ndim))
    return jnp.where(valid, rows, jnp.zeros((), rows.dtype))


def _flat(axes, *arrays):
    """The first `axes` axes of each as one; None stays."""
    return [
        None if a is None else a.reshape(math.prod(a.shape[:axes]), *a.shape[axes:]) for a in arrays
    ]


def _form(kernel, implementation, slots):
    """`slots` [..., slot, R, *row]; the two kernels know rows [A, K] only."""
    return resolve(
        kernel,
        implementation,
        {
            "cpu": "xla",
            "gpu": "triton" if kv_gather_gpu.fits(slots) else "xla",
            "tpu": "mosaic" if kv_gather_tpu.fits(slots) else "xla",
            "mosaic": "mosaic",
            "triton": "triton",
        },
    )
