"""Counter-based random keys: every draw is keyed by (seed, purpose, counters) and by nothing else.

A key made this way does not depend on the order of draws, on the mesh, or on where a run was cut,
so a resumed or streamed video gets the very noise of an uninterrupted one.
"""

from __future__ import annotations

import math
import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


def fold_in_str(key: Key[Array, ""], name: str) -> Key[Array, ""]:
    """`key` with `name` folded in.

    CRC-32 of the UTF-8 bytes is used because it is the same in every process, unlike `hash`.
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode("utf-8")))


def purpose_key(
    key: Key[Array, ""], purpose: str, *counters: int | Int[Array, ""]
) -> Key[Array, ""]:
    """Key for one use of a seed, for example `purpose_key(seed, "probes", chunk)`.

    Args:
        key: the seed.
        purpose: what the numbers are for; two purposes never share numbers.
        counters: non-negative integers, traced or not, folded in from left to right.
    """
    key = fold_in_str(key, purpose)
    for counter in counters:
        key = jax.random.fold_in(key, counter)
    return key


def normal(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Standard normal numbers, the same as `jax.random.normal` draws.

    They are drawn flat: XLA:CPU compiles a draw of five axes seven times as long as a flat one.
    """
    return jax.random.normal(key, (math.prod(shape),), jnp.float32).reshape(shape)
