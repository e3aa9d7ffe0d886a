"""A sink that takes in what leaves the window: Reward Forcing's exponential moving average of keys and values."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bvjax.memory.bank import KVBank


def absorb(bank: KVBank, chunk_id: Int[Array, ""], tokens: int, sink: int, decay: float) -> KVBank:
    """The bank whose entry in slot 0 is decay times itself plus 1 - decay times entry `chunk_id`.

    Both are whole, their rows in order.  Where the chunk has several times the sink's rows, as a chunk of latent frames has
    where the sink is one, its parts are taken in one after the other.  Keys are before RoPE, so those of the sink stay
    where they are.  Nothing changes where the bank does not hold the chunk.

    Args:
      tokens: rows of a chunk; static.
      sink: rows of the entry in slot 0, which divide them; static.
    """
    match = bank.valid & (bank.chunk_id == chunk_id)
    found, slot = match.any(-1), match.argmax(-1)

    def mixed(rows: Float[Array, "Y B slot cap A K"]) -> Float[Array, "Y B slot cap A K"]:
        leaving = jnp.take_along_axis(rows, slot[None, :, None, None, None, None], axis=2)[:, :, 0]
        parts = leaving[:, :, :tokens].reshape(*rows.shape[:2], -1, sink, *rows.shape[4:])
        old = rows[:, :, 0, :sink].astype(jnp.float32)
        take = lambda mean, part: (decay * mean + (1.0 - decay) * part, None)
        mean, _ = jax.lax.scan(take, old, jnp.moveaxis(parts, 2, 0).astype(jnp.float32))
        mean = jnp.where(found[None, :, None, None, None], mean, old)
        return rows.at[:, :, 0, :sink].set(mean.astype(rows.dtype))

    return dataclasses.replace(bank, keys=mixed(bank.keys), values=mixed(bank.values))
