"""The kernels compile for accelerators at the sizes of Wan 1.3B, and copy no bank.

480x832 pixels: a chunk of 24 latents has 37,440 tokens, and a slot keeps half of a chunk.
"""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from kernels_pallas.importance import key_importance
from kernels_pallas.kv_gather import pack, take_rows, write_rows
from kernels_pallas.platforms import platform_of

CHIPS = ("v5e:2x2", "v5p:2x2x1", "v6e:2x2", "h100:1x1", "h200:1x1")
TOKENS, HEADS, DIM = 37440, 12, 128
LAYERS, BATCH, SLOTS, CAPACITY, ENTRIES = 4, 1, 16, 18944, 5
LEAD, ROWS = (LAYERS, BATCH), ENTRIES * CAPACITY
MIB = 2**20
chips = pytest.mark.parametrize("chip", CHIPS)


def array(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype)


int32 = functools.partial(array, dtype=jnp.int32)
float32 = functools.partial(array, dtype=jnp.float32)


def compiled(device, fn, *arguments, donate=()):
    """The program of one device, and its memory."""
    place = SingleDeviceSharding(device)
    arguments = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place) for a in arguments]
    program = jax.jit(fn, donate_argnums=donate).lower(*arguments).compile()
    return program, program.memory_analysis()


def is_kernel(program) -> bool:
    return bool(re.search(r"tpu_custom_call|\$xla\.gpu\.triton", program.as_text()))


def size_of(x) -> int:
    return x.size * x.dtype.itemsize


@pytest.mark.parametrize("given", [False, True], ids=["own lse", "given lse"])
@chips
def test_all_tokens_as_probes(devices, chip, given):
    device = devices(chip)[0]
    rows = array(BATCH, 1, TOKENS, HEADS, DIM)
    arguments = [rows, rows, int32(TOKENS)]
    arguments += [float32(BATCH, 1, TOKENS, HEADS)] if given else []

    def run(q, k, visible, lse=None):
        return key_importance(q, k, visible, lse=lse, implementation=platform_of(device))

    program, memory = compiled(device, run, *arguments)
    assert is_kernel(program)
    # The weights would be 67 GB; a sum by head is 1.8 MB.
    assert memory.temp_size_in_bytes < 8 * MIB


@chips
def test_few_probes_take_no_kernel(devices, chip):
    device = devices(chip)[0]
    run = functools.partial(key_importance, implementation=platform_of(device))
    arguments = array(1, 128, HEADS, DIM), array(1, TOKENS, HEADS, DIM), int32(128)
    program, memory = compiled(device, run, *arguments)
    assert not is_kernel(program) and memory.temp_size_in_bytes < 300 * MIB


def bank(dtype=jnp.bfloat16, heads=HEADS):
    return array(*LEAD, SLOTS, CAPACITY, heads, DIM, dtype=dtype)


def new_rows(tokens=TOKENS, dtype=jnp.bfloat16, heads=HEADS):
    """What goes into a slot of `bank`."""
    x = array(*LEAD, tokens, heads, DIM, dtype=dtype)
    return x, int32(*LEAD, CAPACITY), int32(*LEAD), int32(BATCH)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int8], ids=lambda d: d.__name__)
@chips
def test_a_slot_is_written_in_place(devices, chip, dtype):
    device, slots = devices(chip)[0], bank(dtype)
    run = functools.partial(write_rows, implementation=platform_of(device))
    program, memory = compiled(device, run, slots, *new_rows(dtype=dtype), donate=0)
    assert is_kernel(program)
    assert memory.alias_size_in_bytes == size_of(slots)
    assert memory.temp_size_in_bytes < 4 * MIB


@pytest.mark.parametrize("heads", [12, 40], ids=["1.3B", "14B"])
@chips
def test_the_twin_copies_no_bank_either(devices, chip, heads):
    slots = bank(heads=heads)
    run = functools.partial(write_rows, implementation="xla")
    program, memory = compiled(devices(chip)[0], run, slots, *new_rows(heads=heads), donate=0)
    assert not is_kernel(program)
    assert memory.alias_size_in_bytes == size_of(slots)
    assert memory.temp_size_in_bytes < size_of(slots) / 8  # rows of one layer


def test_merged_axes_would_copy_the_bank(devices):
    """What the two tests above would find if the leading axes of a bank were merged."""

    def merged(slots, x, index, length, slot):
        flat, x, index, length = (
            a.reshape(LAYERS * BATCH, *a.shape[2:]) for a in (slots, x, index, length)
        )
        rows = take_rows(x, index, length)
        at = jnp.arange(LAYERS * BATCH), jnp.tile(slot, LAYERS)
        return flat.at[at].set(rows, mode="drop").reshape(slots.shape)

    _, memory = compiled(devices("v5p:2x2x1")[0], merged, bank(), *new_rows(), donate=0)
    assert memory.temp_size_in_bytes > size_of(bank()) / 2


@chips
def test_a_context_is_packed_without_a_copy(devices, chip):
    device, slots = devices(chip)[0], bank()
    run = functools.partial(pack, implementation=platform_of(device))
    entries = int32(*LEAD, ENTRIES), int32(BATCH, ENTRIES)
    program, memory = compiled(device, run, slots, *entries)
    assert is_kernel(program)
    assert memory.temp_size_in_bytes < 4 * MIB


@chips
def test_rope_on_the_way_costs_its_table(devices, chip):
    device, slots, count = devices(chip)[0], bank(), ROWS // 4

    def run(slots, lengths, order, angles, first):
        options = dict(window=(first, count), implementation=platform_of(device))
        return pack(slots, lengths, order, angles=angles, **options)

    angles = float32(*LEAD, count, DIM // 2)
    entries = int32(*LEAD, ENTRIES), int32(BATCH, ENTRIES)
    program, memory = compiled(device, run, slots, *entries, angles, int32())
    assert is_kernel(program)
    # A TPU is given cos and sin of each angle, laid out by lanes.
    assert memory.temp_size_in_bytes < 5 * size_of(angles) + 4 * MIB


@pytest.mark.parametrize("tokens", [1560, 4680], ids=["anchor", "3 latents"])
@pytest.mark.parametrize("chip", ["v5e:2x2", "h100:1x1"])
def test_other_chunks(devices, chip, tokens):
    """Tokens that are no multiple of a block."""
    device, slots = devices(chip)[0], bank(jnp.int8)
    run = functools.partial(write_rows, implementation=platform_of(device))
    program, memory = compiled(device, run, slots, *new_rows(tokens, jnp.int8), donate=0)
    assert is_kernel(program) and memory.alias_size_in_bytes == size_of(slots)


@pytest.mark.parametrize("heads", [3, 10])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=lambda d: d.__name__)
def test_a_share_of_the_heads(devices, heads, dtype):
    """Heads cut over devices: 12 by 4 and 40 by 4."""
    device = devices("v5p:2x2x1")[0]
    slots = bank(dtype, heads)
    run = functools.partial(write_rows, implementation="tpu")
    program, memory = compiled(device, run, slots, *new_rows(dtype=dtype, heads=heads), donate=0)
    assert is_kernel(program) and memory.temp_size_in_bytes < 4 * MIB
