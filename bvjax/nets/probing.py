"""Importances of a chunk's keys by the probes' attention (Algorithm 2, lines 8-9), and the keep sets made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from bvjax.nets.attend import AttendedRows, importance, row_masks
from bvjax.nets.source_rows import gather_context, per_row
from bvjax.sharding import Layout

if TYPE_CHECKING:  # which imports this
    from bvjax.nets.dit_layers import Conditioning


@dataclasses.dataclass(frozen=True)
class Probing:
    """Form of the importances that are made of the probes' attention."""

    over_all: bool = False  # it is shared among all keys that a chunk sees, not its own alone
    by_head: bool = False


OWN_KEYS = Probing()  # Algorithm 2


def probe_importance(
    layout: Layout,
    q: Float[Array, "b c n a k"],
    k: Float[Array, "b c n a k"],
    cond: Conditioning,
    seen: tuple[AttendedRows, ...] = (),
) -> Float[Array, "b c *n"]:
    """`attend.importance` of chunks' own keys by the probes of `cond`; rows of `seen` share the attention."""
    assert cond.probe_index is not None
    others = None
    if seen:
        keys = jnp.concatenate([part.keys for part in seen], axis=2)
        others = AttendedRows(keys, keys, row_masks(seen))
    return importance(
        layout, q, k, cond.probe_index, cond.probe_visible, others, cond.probing.by_head
    )


def kept_in_order(
    layout: Layout,
    theta: float,
    keep_fn: Callable[[Array], Array] | None,
    q: Float[Array, "b c n a k"],
    k: Float[Array, "b c n a k"],
    rotated: Float[Array, "b c n a k"],
    seen: tuple[AttendedRows, ...],
    cond: Conditioning,
    similarity_key: Float[Array, "a k"] | None,
) -> tuple[Float[Array, "b c *n"], Bool[Array, "b c *n"]]:
    """Importances and kept rows of chunks that see each other (`cond.self_context`), one chunk after the other: what
    a chunk sees of those before it shares its probes' attention.

    Args:
      q, rotated: rotated queries and keys; `k` are the keys before that.
      seen: rows that chunks see besides each other.
      similarity_key: as of `added_similarity`; None: nothing is added.
    """
    source = cond.self_context
    assert source is not None and keep_fn is not None
    similarity = None
    if similarity_key is not None and source.similarity is not None:
        similarity = per_row(layout, source.similarity, k.shape[2])
    q, k, rotated, seen, similarity_key = jax.lax.stop_gradient(
        (q, k, rotated, seen, similarity_key)
    )

    def of_chunk(kept, i):
        at = lambda tree: jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, i, 1, axis=1), tree
        )
        keys, _, mask = gather_context(
            k, k, kept, at(source.index), at(source.valid), at(source.entry_positions), theta,
            layout, at(source.dense),
        )  # fmt: skip
        if similarity is not None:
            keys = added_similarity(keys, at(similarity), similarity_key)
        rows = (*at(seen), AttendedRows(keys, keys, mask))
        own = probe_importance(layout, at(q), at(rotated), cond, rows)
        return jax.lax.dynamic_update_slice_in_dim(kept, keep_fn(own), i, axis=1), own[:, 0]

    heads = k.shape[3:4] if cond.probing.by_head else ()
    none = jnp.zeros((*k.shape[:2], *heads, k.shape[2]), bool)
    kept, own = jax.lax.scan(of_chunk, none, jnp.arange(k.shape[1]))
    return jnp.moveaxis(own, 0, 1), kept


def added_similarity(
    keys: Float[Array, "b c s a k"],
    similarity: Float[Array, "b c s"],
    similarity_key: Float[Array, "a k"],
) -> Float[Array, "b c s a k"]:
    """Keys with `similarity_key` times the similarity of their entry's caption added."""
    return keys + (similarity[..., None, None] * similarity_key).astype(keys.dtype)
