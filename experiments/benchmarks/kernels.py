"""The probe scores and the moves of the memory against the bytes that they cannot but move:

python -m experiments.benchmarks.kernels                      (sizes of Wan 1.3B; --size=small on a CPU)

`bound` is the time that those bytes take at the rate at which this device copies a large array
(bytes read and written), measured first; `x bound` how many times longer the form named took.  All
tokens as probes are bound by arithmetic instead: TFLOP/s of the matmuls are printed.  The median of
--repeat turns of 0.3 s, after one call that compiles; arrays are on the device, one layer of scores
and --layers of the memory.  Not included: choosing what is kept, finding the angles.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys

import jax
import jax.numpy as jnp
from absl import app, flags

from experiments.benchmarks.interleave import seconds_per_call
from kernels_pallas.importance import key_importance
from kernels_pallas.kv_gather import kept_first, pack, write_rows
from kernels_pallas.platforms import platform_of

_SIZE = flags.DEFINE_enum("size", None, ["1.3b", "small"], "Default: small on a CPU.")
_LAYERS = flags.DEFINE_integer("layers", 4, "Layers of the memory.", lower_bound=1)
_REPEAT = flags.DEFINE_integer("repeat", 5, "Turns of each.", lower_bound=1)
_FORMS = flags.DEFINE_list("forms", None, "Implementations. Default: auto, and xla off a CPU.")


@dataclasses.dataclass(frozen=True)
class Size:
    tokens: int
    heads: int
    dim: int
    capacity: int
    slots: int
    entries: int
    dtype: str


SIZES = {
    "1.3b": Size(37440, 12, 128, 18944, 8, 5, "bfloat16"),
    "small": Size(1560, 4, 128, 768, 6, 5, "float32"),
}
FEW = 128


def copy_bandwidth(num_bytes: int) -> float:
    """Bytes read and written in a second by a copy that changes each value."""
    x = jnp.arange(num_bytes // 4, dtype=jnp.uint32)
    change = jax.jit(lambda x: x ^ 1)
    return 2 * x.nbytes / _seconds(lambda: change(x).block_until_ready())


def _seconds(call) -> float:
    call()
    return statistics.median(seconds_per_call(call) for _ in range(_REPEAT.value))


def importance(size: Size, probes: int, form: str) -> tuple[float, int, float]:
    """Seconds, bytes that must move, and operations of the matmuls of one layer."""
    keys = jax.random.split(jax.random.key(0), 2)
    rows = [(1, count, size.heads, size.dim) for count in (probes, size.tokens)]
    q, k = (jax.random.normal(*each, size.dtype) for each in zip(keys, rows, strict=True))
    run = jax.jit(lambda q, k: key_importance(q, k, implementation=form))
    seconds = _seconds(lambda: run(q, k).block_until_ready())
    # One matmul is enough where the weights can wait for their sums; the kernels make two.
    return seconds, q.nbytes + k.nbytes + 4 * size.tokens, 2.0 * q.size * size.tokens


def _bank(size: Size):
    shape = (_LAYERS.value, 1, size.slots, size.capacity, size.heads, size.dim)
    fill = jax.jit(lambda key: jax.random.normal(key, shape, size.dtype))
    return fill(jax.random.key(1))


def write(size: Size, form: str) -> tuple[float, int, float]:
    """A slot of every layer, half of a chunk's tokens drawn at random; the bank is donated."""
    key, lead = jax.random.key(2), (_LAYERS.value, 1)
    x = jax.random.normal(key, (*lead, size.tokens, size.heads, size.dim), size.dtype)
    keep = jax.random.uniform(key, (*lead, size.tokens)) < 0.45
    index, length = jax.jit(kept_first, static_argnums=1)(keep, size.capacity)
    write_slot = jax.jit(
        lambda slots, *args: write_rows(slots, *args, implementation=form), donate_argnums=0
    )
    bank = [_bank(size)]

    def call():
        bank[0] = write_slot(bank[0], x, index, length, jnp.zeros(1, jnp.int32))
        bank[0].block_until_ready()

    seconds = _seconds(call)
    row = x.nbytes // (_LAYERS.value * size.tokens)
    return seconds, row * (int(length.sum()) + _LAYERS.value * size.capacity), 0.0


def assemble(size: Size, rotate: bool, form: str) -> tuple[float, int, float]:
    """Entries of ragged lengths packed, and the rows rotated on the way."""
    lead, slots = (_LAYERS.value, 1), _bank(size)
    count = size.entries * size.capacity
    keys = jax.random.split(jax.random.key(3), 2)
    lengths = jax.random.randint(keys[0], (*lead, size.entries), 0, size.capacity + 1)
    order = jnp.arange(size.entries)[None] % size.slots
    angles = jax.random.uniform(keys[1], (*lead, count, size.dim // 2)) if rotate else None
    run = jax.jit(lambda *args: pack(*args[:3], angles=args[3], implementation=form)[0])
    seconds = _seconds(lambda: run(slots, lengths, order, angles).block_until_ready())
    row = slots.nbytes // (_LAYERS.value * size.slots * size.capacity)
    moved = row * (int(lengths.sum()) + _LAYERS.value * count)
    return seconds, moved + (angles.nbytes if rotate else 0), 0.0


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    device = jax.devices()[0]
    on_cpu = platform_of(device) == "cpu"
    size = SIZES[_SIZE.value or ("small" if on_cpu else "1.3b")]
    rate = copy_bandwidth(2**26 if on_cpu else 2**31)
    print(f"{device.device_kind}, jax {jax.__version__}; copies at {rate / 1e9:.0f} GB/s; {size}")
    print(f"{'':28} {'form':7} {'ms':>9} {'GB/s':>7} {'bound ms':>9} {'x bound':>8} {'TFLOP/s':>8}")
    cases = {
        f"importance, {FEW} probes": lambda form: importance(size, FEW, form),
        f"importance, {size.tokens} probes": lambda form: importance(size, size.tokens, form),
        "write a slot": lambda form: write(size, form),
        "pack": lambda form: assemble(size, False, form),
        "pack and turn": lambda form: assemble(size, True, form),
    }
    for name, case in cases.items():
        for form in _FORMS.value or (["auto"] if on_cpu else ["auto", "xla"]):
            seconds, moved, operations = case(form)
            bound = moved / rate
            print(
                f"{name:28} {form:7} {1e3 * seconds:9.3f} {moved / seconds / 1e9:7.1f} "
                f"{1e3 * bound:9.3f} {seconds / bound:8.2f} {operations / seconds / 1e12:8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main, argv=sys.argv)
