"""Counter-based random keys: every draw is keyed by (seed, purpose, counters) and by nothing else.

A key made this way does not depend on the order of draws, on the mesh, or on where a run was cut,
so a resumed or streamed video gets the very noise of an uninterrupted one.

In training each example of an update has a key of its own (`ExampleKeys`), so that neither the number of
micro batches nor that of devices or processes changes what is drawn for it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import overload

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key


@struct.dataclass
class ExampleKeys:
    """A key for each of b examples: fold_in(shared, number), of the number that it has in the batch of an update.

    Draws of `uniform`, `normal`, `randint` and `categorical` have examples along their first axis, or a multiple of
    them, neighbours of which belong to one example.  What all examples share is drawn from `shared`.
    """

    shared: Key[Array, ""]
    numbers: Int[Array, "b"]

    @property
    def each(self) -> Key[Array, "b"]:
        """The keys themselves."""
        return jax.vmap(jax.random.fold_in, (None, 0))(self.shared, self.numbers)


AnyKey = Key[Array, ""] | ExampleKeys


def fold_in_str(key: Key[Array, ""], name: str) -> Key[Array, ""]:
    """`key` with `name` folded in.

    CRC-32 of the UTF-8 bytes is used because it is the same in every process, unlike `hash`.
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode("utf-8")))


@overload
def purpose_key(key: ExampleKeys, purpose: str, *counters: int | Int[Array, ""]) -> ExampleKeys: ...
@overload
def purpose_key(
    key: Key[Array, ""], purpose: str, *counters: int | Int[Array, ""]
) -> Key[Array, ""]: ...
def purpose_key(key: AnyKey, purpose: str, *counters: int | Int[Array, ""]) -> AnyKey:
    """Key for one use of a seed, for example `purpose_key(seed, "probes", chunk)`.

    Args:
        key: the seed, or those of examples.
        purpose: what the numbers are for; two purposes never share numbers.
        counters: non-negative integers, traced or not, folded in from left to right.
    """
    if isinstance(key, ExampleKeys):
        shared = purpose_key(key.shared, purpose, *counters)
        return ExampleKeys(shared, key.numbers)
    key = fold_in_str(key, purpose)
    for counter in counters:
        key = jax.random.fold_in(key, counter)
    return key


def shared_key(key: AnyKey) -> Key[Array, ""]:
    """The key of what is drawn once for all examples."""
    return key.shared if isinstance(key, ExampleKeys) else key


def keys_of(key: AnyKey, batch: int) -> Key[Array, "b"]:
    """A key for each of `batch` rows: those of the examples, or fold_in(key, row) of a single key."""
    if isinstance(key, ExampleKeys):
        return key.each
    return ExampleKeys(key, jnp.arange(batch, dtype=jnp.int32)).each


def uniform(key: AnyKey, shape: tuple[int, ...], high: float = 1.0) -> Float[Array, "..."]:
    """Numbers of [0, high)."""
    return _draw(lambda k, s: jax.random.uniform(k, s, jnp.float32, maxval=high), key, shape)


def randint(key: AnyKey, shape: tuple[int, ...], low: int, high: int) -> Int[Array, "..."]:
    """Whole numbers, `low` to `high` - 1."""
    return _draw(lambda k, s: jax.random.randint(k, s, low, high), key, shape)


def categorical(
    key: AnyKey, logits: Float[Array, "..."], shape: tuple[int, ...]
) -> Int[Array, "..."]:
    """Places in the last axis of `logits`, whose other axes broadcast to `shape`."""
    if not isinstance(key, ExampleKeys):
        return jax.random.categorical(key, logits, shape=shape)
    gumbel = _draw(jax.random.gumbel, key, (*shape, logits.shape[-1]))
    return jnp.argmax(logits + gumbel, axis=-1)


def bernoulli(
    key: AnyKey, chance: float | Float[Array, ""], shape: tuple[int, ...]
) -> Bool[Array, "..."]:
    """True with a chance."""
    return uniform(key, shape) < chance


def normal(key: AnyKey, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Standard normal numbers, of a single key the same as `jax.random.normal` draws.

    They are drawn flat: XLA:CPU compiles a draw of five axes seven times as long as a flat one.
    """

    def flat(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        return jax.random.normal(key, (math.prod(shape),), jnp.float32).reshape(shape)

    return _draw(flat, key, shape)


def _draw(
    draw: Callable[[Key[Array, ""], tuple[int, ...]], Array], key: AnyKey, shape: tuple[int, ...]
) -> Array:
    if not isinstance(key, ExampleKeys):
        return draw(key, shape)
    rows = shape[0] // len(key.numbers)
    return jax.vmap(lambda one: draw(one, (rows, *shape[1:])))(key.each).reshape(shape)
