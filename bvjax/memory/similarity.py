"""Cosine similarity of caption embeddings, bit-equal for equal embeddings."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def cosine(a: Float[Array, "*#rows d"], b: Float[Array, "*#rows d"]) -> Float[Array, "*rows"]:
    """cos(a, b) in float32 over the last axis, with broadcasting (Eq. 8); 0 where a vector is 0.

    An elementwise product and a sum instead of a matmul: a matmul may add up rows in different orders, and then
    two entries with the same caption would not tie.
    """
    return jnp.sum(_unit(a) * _unit(b), axis=-1)


def _unit(x: Float[Array, "*rows d"]) -> Float[Array, "*rows d"]:
    x = x.astype(jnp.float32)
    norm = jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True))
    return x / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny)
