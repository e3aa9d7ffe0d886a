"""A window of latents as blocks along the chunk axis, each of which sees the earlier ones layer by layer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bvjax.nets.dit import Context, SelfContext


def split(
    frames: int,
    latents: Float[Array, "b 1 l h w z"],
    sigma: Float[Array, "b 1"] | Float[Array, "b 1 l"],
    text: Float[Array, "b 1 t d"],
    positions: Int[Array, "b 1 n 3"],
    context: Context | None = None,
) -> tuple[tuple[Any, ...], SelfContext]:
    """Inputs of `WanDiT` for one window whose blocks of `frames` latent frames see no later block.

    A token attends to all of its own block and of the blocks before it, in every layer: the causal mask
    of SkyReels-V2 (`flag_causal_attention`) and of block-causal training.  All blocks have the caption
    and the context of the window.  The window must be whole blocks and patches in time must not cross
    their borders.

    Returns:
        (latents, sigma, text, positions, context) with a chunk axis of C = l / frames blocks, and the
        `self_context` to go with them.  Velocities come back as [b, C, frames, h, w, z].
    """
    batch, _, length, *size = latents.shape
    blocks = length // frames

    def repeat(x: Array, axis: int = 1) -> Array:
        return jnp.repeat(x, blocks, axis=axis)

    latents = latents.reshape(batch, blocks, frames, *size)
    sigma = repeat(sigma) if sigma.ndim == 2 else sigma.reshape(batch, blocks, -1)
    positions = positions.reshape(batch, blocks, -1, 3)
    if context is not None:
        context = jax.tree.map(lambda x: repeat(x, 2), context)
    index = jnp.arange(blocks - 1, dtype=jnp.int32)
    shape = (batch, blocks, blocks - 1)
    sources = SelfContext(
        index=jnp.broadcast_to(index, shape),
        valid=jnp.broadcast_to(index < jnp.arange(blocks)[:, None], shape),
        entry_positions=jnp.broadcast_to(positions[:, None, :-1], (*shape, *positions.shape[2:])),
        # a block is no chunk of the past that a caption could name
        similarity=jnp.zeros(shape, jnp.float32),
    )
    return (latents, sigma, repeat(text), positions, context), sources
