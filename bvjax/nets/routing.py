"""Attention in which queries choose what of their context they look at (Mixture of Contexts, arXiv 2508.21058)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bvjax.nets.attend import AttendedRows
from kernels_pallas.attention import attention


@dataclasses.dataclass(frozen=True)
class Route:
    """Routing by which the queries of each block of `block` tokens see `top` of `entries` entries, head by head."""

    top: int
    entries: int
    block: int


def chosen_entries(
    route: Route,
    q: Float[Array, "b c n a k"],
    keys: Float[Array, "b c s a k"],
    owner: Int[Array, "b c s"],
) -> Bool[Array, "b c j a e"]:
    """The `top` entries of each block and head: those with the largest product of mean query and mean key.

    Of equal ones the earlier; never one without rows.
    """
    of_entry = owner[..., None] == jnp.arange(route.entries)
    count = of_entry.sum(2)
    total = jnp.einsum("bcse,bcsak->bceak", of_entry.astype(jnp.float32), keys.astype(jnp.float32))
    mean_key = total / jnp.maximum(count, 1)[..., None, None]
    batch, chunks, _, heads, width = q.shape
    blocks = q.reshape(batch, chunks, -1, route.block, heads, width)
    mean_query = blocks.astype(jnp.float32).mean(3)
    scores = jnp.einsum("bcjak,bceak->bcjae", mean_query, mean_key)
    there = jnp.broadcast_to((count > 0)[:, :, None, None], scores.shape)
    order = jnp.argsort(-jnp.where(there, scores, -jnp.inf), axis=-1, stable=True)
    rank = jnp.argsort(order, axis=-1)
    return there & (rank < route.top)


def routed_attention(
    route: Route,
    q: Float[Array, "b c n a k"],
    own: AttendedRows,
    context: AttendedRows,
    owner: Int[Array, "b c s"],
    implementation: str = "auto",
) -> Float[Array, "b c n a k"]:
    """Attention to all `own` rows and to those of the context whose entries are chosen; on one device.

    Keys are rotated.  Heads and blocks become rows of a batch, so that each has a mask of its own: keys are copied for
    each block.
    """
    batch, chunks, tokens, heads, width = q.shape
    blocks = tokens // route.block
    chosen = chosen_entries(route, q, context.keys, owner)
    chosen = jnp.pad(chosen, [(0, 0)] * 4 + [(0, 1)])  # rows of no entry
    index = jnp.broadcast_to(owner[:, :, None, None], (*chosen.shape[:4], owner.shape[2]))
    seen = jnp.take_along_axis(chosen, index, axis=-1)  # [b, c, j, a, s]
    mask = jnp.pad(seen, [(0, 0)] * 4 + [(own.keys.shape[2], 0)], constant_values=True)

    def by_head(rows):  # [b, c, s, a, k] -> [b * a, c * j, s, 1, k]
        rows = jnp.moveaxis(rows, 3, 1)[:, :, :, None]
        shape = (batch, heads, chunks, blocks, *rows.shape[4:])
        rows = jnp.broadcast_to(rows, shape)
        return rows.reshape(batch * heads, chunks * blocks, -1, 1, width)

    keys, values = (
        by_head(jnp.concatenate([getattr(part, name) for part in (own, context)], axis=2))
        for name in ("keys", "values")
    )
    queries = q.reshape(batch, chunks, blocks, -1, heads, width)
    queries = jnp.moveaxis(queries, 4, 1).reshape(batch * heads, chunks * blocks, -1, 1, width)
    mask = jnp.moveaxis(mask, 3, 1).reshape(batch * heads, chunks * blocks, -1)
    out: Any = attention(queries, keys, values, kv_mask=mask, implementation=implementation)
    out = out.reshape(batch, heads, chunks, tokens, width)
    return jnp.moveaxis(out, 1, 3)
