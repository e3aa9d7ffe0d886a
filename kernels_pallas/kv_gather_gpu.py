"""`kv_gather` on NVIDIA GPUs: Pallas through Triton.

One kernel copies rows by index, [A, K] values each, turns them by RoPE's angles on the way if
asked to, and leaves them in a slot of a larger array, which may be its own input.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

ROWS = 32  # that one program moves


def fits(slots: jax.Array) -> bool:
    """Returns whether `slots` [..., slot, R, A, K] can be used: K is a power of two, as Triton wants.

    Pallas counts offsets in arrays of up to 4 GiB with 32 signed bits, too few for half of those
    whose values have 8 bits.
    """
    dim, size, item = slots.shape[-1], slots.size, slots.dtype.itemsize
    signed = not 2**31 <= size < 2**32 // item + 1
    return slots.ndim >= 4 and 16 <= dim <= 512 and dim & (dim - 1) == 0 and signed


def write_rows(
    slots: jax.Array,
    x: jax.Array,
    index: jax.Array,
    length: jax.Array,
    slot: jax.Array,
    interpret: bool = False,
) -> jax.Array:
    """Does what `kv_gather.write_rows` does, with one leading axis: slots [G, S, C, A, K], x [G, N, A, K]."""
    valid = jnp.arange(index.shape[-1]) < length[:, None]
    source = jnp.where(valid, jnp.clip(index, 0, x.shape[1] - 1), -1)
    return _copy(x, source, slot, None, slots, slots.shape, interpret)


def pack(
    parts: jax.Array, source: jax.Array, angles: jax.Array | None, interpret: bool = False
) -> jax.Array:
    """[G, T, A, K]: parts [G, slot, R, A, K], rows of slots counted through, at source [G, T].

    A source of -1 gives zeros; angles float32 [G, T, K/2] or None.
    """
    groups, num_slots, rows, heads, dim = parts.shape
    flat = parts.reshape(groups, num_slots * rows, heads, dim)
    shape = (groups, 1, source.shape[1], heads, dim)
    zero = jnp.zeros(groups, jnp.int32)
    return _copy(flat, source, zero, angles, None, shape, interpret)[:, 0]


def _copy(x, source, slot, angles, out, shape, interpret):
    """Rows x [G, M, A, K] at source [G, C] into slot [G] of `out` [G, S, C, A, K] or a new array."""
    groups, _, count, heads, dim = shape
    inputs = [x, source, slot]
    specs = [
        pl.BlockSpec((None, *x.shape[1:]), lambda c, g: (g, 0, 0, 0)),
        pl.BlockSpec((None, count), lambda c, g: (g, 0)),
        pl.BlockSpec((None,), lambda c, g: (g,)),
    ]
    if angles is not None:
        inputs.append(angles)
        specs.append(pl.BlockSpec((None, count, dim // 2), lambda c, g: (g, 0, 0)))
    out_spec = pl.BlockSpec((None, *shape[1:]), lambda c, g: (g, 0, 0, 0, 0))
    aliases = {}
    if out is not None:
        aliases = {len(inputs): 0}
        inputs.append(out)
        specs.append(out_spec)
    return pl.pallas_call(
        functools.partial(_copy_kernel, rotate=angles is not None),
        grid=(pl.cdiv(count, ROWS), groups),
        in_specs=specs,
        out_specs=out_spec,
        out_shape=jax.ShapeDtypeStruct(shape, x.dtype),
        input_output_aliases=aliases,
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name="kv_gather",
    )(*inputs)


def _copy_kernel(x_ref, source_ref, slot_ref, *refs, rotate):
    out_ref = refs[-1]
    num_slots, count, heads, dim = out_ref.shape
    begin = pl.program_id(0) * ROWS
    inside = begin + jnp.arange(ROWS) < count
    source = plgpu.load(source_ref.at[pl.ds(begin, ROWS)], mask=inside, other=-1)
    in_range = (source >= 0)[:, None]
    tile = (ROWS, dim)
    source = jnp.broadcast_to(jnp.maximum(source, 0)[:, None], tile)
    column = jnp.broadcast_to(jnp.arange(dim)[None], tile)
    slot = slot_ref[...]
    store = (inside & (slot < num_slots))[:, None]
    if rotate:
        angles = plgpu.load(refs[0].at[pl.ds(begin, ROWS), :], mask=inside[:, None], other=0.0)
        cos, sin = jnp.cos(angles)[..., None], jnp.sin(angles)[..., None]

    def one_head(head, carry):
        at = (source, jnp.full(tile, head), column)
        x = plgpu.load(x_ref.at[at], mask=in_range, other=0)
        if rotate:
            pairs = x.astype(jnp.float32).reshape(ROWS, dim // 2, 2)
            even, odd = jnp.split(pairs, 2, axis=-1)
            pairs = jnp.concatenate([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
            x = pairs.reshape(ROWS, dim).astype(x.dtype)
        plgpu.store(out_ref.at[slot, pl.ds(begin, ROWS), head, :], x, mask=store)
        return carry

    jax.lax.fori_loop(0, heads, one_head, None)
