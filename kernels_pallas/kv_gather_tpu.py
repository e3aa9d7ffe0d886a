"""`kv_gather` on TPUs: Pallas through Mosaic.

XLA keeps rows [.., C, A, K] of a TPU with heads outside rows when A is no multiple of 8, because
the other way pads heads to 8.  A row is then spread over A tiles of 8 rows each, so rows are moved
a block at a time and shifted into place on chip; a copy by rows would first copy the whole bank to
another layout.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES, SUBLANES = 128, 8
TILE = 32  # rows of the largest tile in memory, that of values of 8 bits
div, rem = jax.lax.div, jax.lax.rem  # of numbers >= 0; `//` asks which device this machine has
DTYPES = ("float32", "bfloat16", "int8", "float8_e4m3fn")


def fits(slots: jax.Array) -> bool:
    """Returns whether `slots` [..., slot, R, A, K] lies in memory with heads outside rows, in tiles."""
    heads, dim = slots.shape[-2:]
    tiled = slots.ndim >= 4 and dim % LANES == 0 and heads % SUBLANES != 0
    return tiled and slots.dtype.name in DTYPES


def _block(rows: int, heads: int, dtype: np.dtype) -> int:
    """Rows of a block: several of them fit into VMEM, in float32 too."""
    return rows if rows < 256 else 256 if heads * dtype.itemsize <= 32 else 128


def write_rows(
    slots: jax.Array,
    x: jax.Array,
    index: jax.Array,
    length: jax.Array,
    slot: jax.Array,
    interpret: bool | pltpu.InterpretParams = False,
) -> jax.Array:
    """Does what `kv_gather.write_rows` does, with one leading axis: slots [G, S, C, A, K], x [G, N, A, K].

    A block of a slot is the matmul of a one-hot matrix and each block of `x` that it has rows of:
    exact, and quick where `index` ascends, as that of kept tokens does.  A NaN in a row of `x`
    that is not taken would spread to the rows taken from the same block.
    """
    groups, num_slots, capacity, heads, dim = slots.shape
    size, source_block = (
        _block(capacity, heads, slots.dtype),
        _block(x.shape[1], heads, slots.dtype),
    )
    source_block = pl.cdiv(source_block, TILE) * TILE
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % TILE), (0, 0), (0, 0)]).swapaxes(1, 2)
    valid = jnp.arange(capacity) < length[:, None]
    source = jnp.where(valid, index, -1)
    blocks = pl.cdiv(capacity, size)
    by_block = jnp.pad(source, [(0, 0), (0, -capacity % size)], constant_values=-1)
    by_block = by_block.reshape(groups, blocks, size)
    has_source = by_block >= 0
    low = jnp.where(has_source, by_block, x.shape[2]).min(-1) // source_block
    high = jnp.where(has_source.any(-1), by_block.max(-1) // source_block + 1, low)  # exclusive

    def target(g, b, slot, low, high):
        return g, jnp.minimum(slot[g], num_slots - 1), 0, b, 0

    def kept(g, b, slot, low, high):
        """Index map of the old block of a slot that is not to be written; read for no other."""
        at = target(g, b, slot, low, high)
        return tuple(jnp.where(slot[g] < num_slots, 0, i) for i in at)

    block = (None, None, heads, size, dim)
    out = pl.pallas_call(
        functools.partial(_write_kernel, num_slots=num_slots, blocks=blocks),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(groups, blocks),
            in_specs=[
                pl.BlockSpec((None, 1, size), lambda g, b, *_: (g, 0, b)),
                pl.BlockSpec(memory_space=pl.ANY),
                pl.BlockSpec(block, kept),
            ],
            out_specs=pl.BlockSpec(block, target),
            scratch_shapes=[
                pltpu.VMEM((heads, size, dim), jnp.float32),
                pltpu.VMEM((2, heads, source_block, dim), x.dtype),
                pltpu.SemaphoreType.DMA((2,)),
                pltpu.SMEM((1,), jnp.int32),
            ],
        ),
        out_shape=jax.ShapeDtypeStruct((groups, num_slots, heads, capacity, dim), slots.dtype),
        input_output_aliases={5: 0},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name="kv_write",
    )(slot, low.reshape(-1), high.reshape(-1), source[:, None], x, slots.swapaxes(2, 3))
    return out.swapaxes(2, 3)


def _write_kernel(
    slot_ref, low_ref, high_ref, source_ref, x_ref, kept_ref, out_ref,
    sum_ref, buffers, semaphores, count_ref, *, num_slots, blocks,
):  # fmt: skip
    g, b = pl.program_id(0), pl.program_id(1)
    at = g * blocks + b
    low, high = low_ref[at], high_ref[at]
    heads, source_block, _ = buffers.shape[1:]
    size = out_ref.shape[1]
    has_slot = slot_ref[g] < num_slots

    def fetch(block, buffer):
        begin = pl.multiple_of(
            jnp.minimum(block * source_block, x_ref.shape[2] - source_block), TILE
        )
        rows = x_ref.at[g, :, pl.ds(begin, source_block), :]
        return pltpu.make_async_copy(rows, buffers.at[buffer], semaphores.at[buffer])

    @pl.when(b == 0)
    def _():
        count_ref[0] = 0

        @pl.when(has_slot & (low < high))
        def _():
            fetch(low, 0).start()

    sum_ref[...] = jnp.zeros_like(sum_ref)
    # Rows that are taken stand in front, so a block after one without any has none either.
    after = jnp.minimum(at + 1, pl.num_programs(0) * blocks - 1)
    goes_on = (b + 1 < blocks) & (low_ref[after] < high_ref[after])

    def visit(block, carry):
        buffer = count_ref[0] & 1
        last = block + 1 == high

        @pl.when(~last | goes_on)
        def _():
            fetch(jnp.where(last, low_ref[after], block + 1), 1 - buffer).start()

        fetch(block, buffer).wait()
        begin = jnp.minimum(block * source_block, x_ref.shape[2] - source_block)
        row = begin + jax.lax.broadcasted_iota(jnp.int32, (source_block, size), 0)
        one_hot = (row == source_ref[...]) & (row >= block * source_block)
        narrow = sum_ref.dtype if x_ref.dtype == jnp.float32 else jnp.bfloat16
        one_hot = one_hot.astype(jnp.float32).astype(narrow)

        @pl.loop(0, heads)
        def _(head):
            sum_ref[head] += jax.lax.dot_general(
                one_hot,
                buffers[buffer, head].astype(narrow),
                (((0,), (0,)), ((), ())),
                precision=jax.lax.Precision.HIGHEST if narrow == jnp.float32 else None,
                preferred_element_type=jnp.float32,
            )

        count_ref[0] += 1
        return carry

    @pl.when(has_slot)
    def _():
        jax.lax.fori_loop(low, high, visit, 0)
        out_ref[...] = sum_ref[...].astype(_wide(out_ref.dtype)).astype(out_ref.dtype)

    @pl.when(~has_slot)
    def _():
        out_ref[...] = kept_ref[...]


def pack(
    parts: jax.Array,
    lengths: jax.Array,
    slots: jax.Array,
    angles: jax.Array | None,
    first: int | jax.Array,
    count: int,
    interpret: bool | pltpu.InterpretParams = False,
) -> jax.Array:
    """[G, count, A, K], as `kv_gather.pack` with one leading axis and a window.

    parts [G, slot, R, A, K], lengths and slots int32 [G, E], angles float32 [G, count, K/2] or
    None.  The grid walks over visits: stretches of packed rows that lie in one block of the result
    and come from one block of a slot.  Where they begin is worked out before, so the pipeline
    fetches the blocks of the next visits while one is shifted.
    """
    groups, _, rows, heads, dim = parts.shape
    size = _block(rows, heads, parts.dtype)
    plan = _visits(lengths, slots, first, count, rows, size)
    visits = plan[1].shape[1]
    blocks = pl.cdiv(rows, size)

    def source(g, v, begin, origin, delta):
        at = origin[g * visits + v]
        return g, div(at, blocks), 0, rem(at, blocks), 0

    def target(g, v, begin, origin, delta):
        return g, 0, div(jnp.minimum(begin[g * (visits + 1) + v], count - 1), size), 0

    inputs = [parts.swapaxes(2, 3)]
    specs = [pl.BlockSpec((None, None, heads, size, dim), source)]
    if angles is not None:  # cos and sin beside each other: a lane for each of a pair's two values
        table = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        inputs.append(table.reshape(groups, count, dim))
        specs.append(pl.BlockSpec((None, size, dim), lambda *at: target(*at)[::2] + (0,)))
    out = pl.pallas_call(
        functools.partial(_pack_kernel, visits=visits, count=count),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(groups, visits),
            in_specs=specs,
            out_specs=pl.BlockSpec((None, heads, size, dim), target),
            scratch_shapes=[pltpu.VMEM((heads, size, dim), _wide(parts.dtype))],
        ),
        out_shape=jax.ShapeDtypeStruct((groups, heads, count, dim), parts.dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name="kv_pack",
    )(*(x.reshape(-1) for x in plan), *inputs)
    return out.swapaxes(1, 2)


def _visits(lengths, slots, first, count, rows, size):
    """Returns for each visit: the packed row it begins at, the block it reads, and how far that is shifted.

    Begins [G, V + 1] ascend and end with `count`; those beyond the last visit are `count` too.
    """
    blocks = pl.cdiv(rows, size)
    ends = jnp.cumsum(lengths, axis=-1, dtype=jnp.int32) - first
    starts = ends - lengths
    inner = starts[..., None] + size * jnp.arange(blocks, dtype=jnp.int32)
    inside = (inner < ends[..., None]) & (inner >= 0) & (inner < count)
    inner = jnp.where(inside, inner, count).reshape(len(lengths), -1)
    outer = jnp.arange(0, count, size, dtype=jnp.int32)
    last = jnp.clip(ends[:, -1:], 0, count)  # zeros from there on
    parts = [jnp.broadcast_to(outer, (len(lengths), outer.size)), inner, last]
    begin = jnp.sort(jnp.concatenate(parts, axis=-1), axis=-1)

    entry = (begin[..., None] >= ends[:, None]).sum(-1, dtype=jnp.int32)
    empty = entry == lengths.shape[-1]
    entry = jnp.minimum(entry, lengths.shape[-1] - 1)
    row = jnp.where(empty, 0, begin - jnp.take_along_axis(starts, entry, -1))
    block = row // size
    origin = jnp.take_along_axis(slots, entry, -1) * blocks + block
    delta = jnp.where(empty, -size, row - block * size - begin % size)
    end = jnp.full((len(lengths), 1), count, jnp.int32)
    return jnp.concatenate([begin, end], axis=-1), origin, delta


def _wide(dtype):
    """Returns the dtype of 32 bits, in which rows can be shifted one by one."""
    return jnp.int32 if jnp.issubdtype(dtype, jnp.integer) else jnp.float32


def _pack_kernel(begin_ref, origin_ref, delta_ref, x_ref, *refs, visits, count):
    del origin_ref
    out_ref, wide_ref = refs[-2:]
    heads, size, dim = x_ref.shape
    v = pl.program_id(1)
    at = pl.program_id(0) * (visits + 1) + v
    begin, end = begin_ref[at], begin_ref[at + 1]
    block = div(jnp.minimum(begin, count - 1), size)
    before = div(jnp.minimum(begin_ref[jnp.maximum(at - 1, 0)], count - 1), size)
    delta = delta_ref[at - pl.program_id(0)]

    @pl.when((v == 0) | (block != before))
    def _():
        wide_ref[...] = jnp.zeros_like(wide_ref)

    @pl.when((end > begin) & (delta > -size))
    def _():
        row = block * size + jax.lax.broadcasted_iota(jnp.int32, (size, dim), 0)
        in_visit = (row >= begin) & (row < end)
        shift = rem(size - delta, size)

        @pl.loop(0, heads)
        def _(head):
            moved = pltpu.roll(x_ref[head].astype(wide_ref.dtype), shift, 0)
            wide_ref[head] = jnp.where(in_visit, moved, wide_ref[head])

    @pl.when((v == visits - 1) | (div(jnp.minimum(end, count - 1), size) != block))
    def _():
        if len(refs) == 2:
            out_ref[...] = wide_ref[...].astype(out_ref.dtype)
            return
        table = refs[0][...]
        even = jax.lax.broadcasted_iota(jnp.int32, (size, dim), 1) & 1 == 0
        cos = jnp.where(even, table, pltpu.roll(table, 1, 1))
        sin = jnp.where(even, -pltpu.roll(table, dim - 1, 1), table)

        @pl.loop(0, heads)
        def _(head):
            x = wide_ref[head]
            other = jnp.where(even, pltpu.roll(x, dim - 1, 1), pltpu.roll(x, 1, 1))
            out_ref[head] = (x * cos + other * sin).astype(out_ref.dtype)
