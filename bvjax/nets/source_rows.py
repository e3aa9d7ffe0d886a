"""Rows of chunks as other chunks see them, gathered layer by layer and rotated at the positions they have there."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Real

from bvjax.nets.rope import angles, apply_rope
from bvjax.sharding import ONE_DEVICE, TOKENS, Layout


def gather_context(
    keys: Float[Array, "b c n a k"],
    values: Float[Array, "b c n a k"],
    keep: Bool[Array, "b c *n"],
    index: Int[Array, "b m e"] | None,
    valid: Bool[Array, "b m e"],
    entry_positions: Real[Array, "b m e n 3"],
    theta: float,
    layout: Layout = ONE_DEVICE,
    dense: Bool[Array, "b m e"] | None = None,
) -> tuple[Float[Array, "b m s a k"], Float[Array, "b m s a k"], Bool[Array, "b m *s"]]:
    """Rows of the source chunks of each target, rotated at the positions they have for that target.

    Returns keys, values and the mask of visible rows (kept by their source, or any of an entry that is
    `dense`, and of a valid entry), with s = e * n; of each head where `keep` is [b c a n].  One layer.
    Without `index` c is m * e: the sources are those of the first target, then those of the second, ...
    On a mesh each device makes the rows of those tokens and heads that it has, and nothing moves:
    their order is another one, which attention does not see.
    """
    if dense is None:
        dense = jnp.zeros_like(valid)
    arrays = keys, values, keep, index, valid, dense, entry_positions
    if layout.mesh is None:
        return _gathered("auto", theta, *arrays)
    batch = layout.rows(keys.shape[0])
    rows, mask_spec = P(batch, None, TOKENS, "tensor"), P(batch, None, TOKENS)
    gather = layout.manual(
        functools.partial(_gathered, layout.kernels, theta),
        (
            *(rows, rows, mask_spec),
            *(None if index is None else P(batch), P(batch), P(batch)),
            P(batch, None, None, TOKENS),
        ),
        (rows, rows, mask_spec),
    )
    return gather(*arrays)


def per_row(
    layout: Layout, entries: Float[Array, "*l b m e"], tokens: int
) -> Float[Array, "*l b m s"]:
    """A number of each entry at each of its `tokens` rows, in the order of `gather_context`."""
    devices = layout.size(*TOKENS)
    rows = jnp.repeat(entries, tokens // devices, axis=-1)
    return rows if devices == 1 else jnp.tile(rows, devices)


def _gathered(implementation, theta, keys, values, keep, index, valid, dense, entry_positions):
    def pick(source):
        if index is None:
            return source.reshape(*valid.shape, *source.shape[2:])
        # A matmul with one-hot rows, not an indexed read: the gradient of a read is a scatter, which
        # XLA:CPU does one element at a time.
        one_hot = jax.nn.one_hot(index, source.shape[1], dtype=source.dtype)
        flat = source.reshape(*source.shape[:2], -1)
        return jnp.einsum("bmec,bcf->bmef", one_hot, flat).reshape(*index.shape, *source.shape[2:])

    rotation = angles(entry_positions, keys.shape[-1], theta)
    gathered = apply_rope(pick(keys), rotation, implementation)
    kept = pick(keep) if index is None else jax.vmap(lambda row, i: row[i])(keep, index)
    lead, rows = valid.shape[:2], valid.shape[2] * keys.shape[2]
    if kept.ndim > 4:
        kept, mask_shape = jnp.moveaxis(kept, 3, 2), (*lead, -1, rows)
        dense, valid = dense[:, :, None], valid[:, :, None]
    else:
        mask_shape = (*lead, rows)
    mask = (kept | dense[..., None]) & valid[..., None]
    return (
        gathered.reshape(*lead, rows, *keys.shape[3:]),
        pick(values).reshape(*lead, rows, *values.shape[3:]),
        mask.reshape(mask_shape),
    )
