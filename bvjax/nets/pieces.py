"""A long video through a causal network in one program whose memory does not grow with its length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Num

# (cache, piece, first) -> (new cache, what came of the piece)
Step = Callable[[Any, Num[Array, "b n ..."], bool], tuple[Any, Num[Array, "b m ..."]]]


def longest(units: int, most: int) -> int:
    """The largest divisor of `units` that is at most `most`, or 1."""
    return max(n for n in range(1, units + 1) if units % n == 0 and (n <= most or n == 1))


def in_pieces(
    step: Step,
    cache: Any,
    x: Num[Array | np.ndarray, "b f ..."],
    first: bool,
    *,
    unit: int,
    start: int,
    most: int,
) -> tuple[Any, Num[Array, "b m ..."]]:
    """Takes `x` through `step` piece by piece, in a loop on the device.

    Args:
        first: `x` begins the video: its first `start` frames go first and leave the first cache.
        unit: later pieces have a whole number of these frames;
        most: at most so many units; `x` goes in one piece if it has no more.

    Returns the last cache and what came of all pieces, put together.
    """
    units = (x.shape[1] - start * first) // unit + first
    if units <= most:
        return step(cache, x, first)
    done = []
    if first:
        cache, out = step(None, x[:, :start], True)
        done.append(out)
        x = x[:, start:]
    n = longest(units - first, most)
    pieces = jnp.moveaxis(x.reshape(x.shape[0], -1, n * unit, *x.shape[2:]), 1, 0)
    cache, out = lax.scan(lambda cache, piece: step(cache, piece, False), cache, pieces)
    out = jnp.moveaxis(out, 0, 1)
    done.append(out.reshape(out.shape[0], -1, *out.shape[3:]))
    return cache, jnp.concatenate(done, axis=1) if first else done[0]
