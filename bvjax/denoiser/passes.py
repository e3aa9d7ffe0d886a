"""The two passes of the network over chunks, each on its own: denoising, and encoding clean latents.

Arrays have a batch and a chunk axis, [b, c, ...]: generation passes one chunk (or its two branches),
training all chunks of its clips at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Real

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.memory.positions import time_bases
from bvjax.nets.dit import ChunkKV, Context, Entries, PreviousLatent, Probing, SelfContext, WanDiT
from bvjax.sharding import Layout


def network(model: ModelConfig, layout: Layout) -> WanDiT:
    """The DiT of `model` on the mesh of `layout`."""
    return WanDiT(model.dit, model.text.dim, layout)


def chunk_positions(
    model: ModelConfig, latents: int, start: Int[Array, "*b"], first: int = 0
) -> Int[Array, "*b n 3"]:
    """RoPE positions (t, h, w) of chunks of so many latent frames; t counts from `start` + `first`."""
    local = jnp.asarray(ChunkGrid.of(model).positions(latents, first))
    positions = jnp.broadcast_to(local, (*start.shape, *local.shape))
    return positions.at[..., 0].add(start[..., None])


def entry_times(
    model: ModelConfig,
    chunk_id: Int[Array, "b e"],
    valid: Bool[Array, "b e"],
    target: Int[Array, ""],
    anchor: bool,
) -> tuple[Int[Array, "b e"], Int[Array, "b"]]:
    """RoPE time at which each entry that chunk `target` sees begins, and that of the chunk itself.

    Args:
        anchor: whether the first entry is the anchor.
    """
    grid, retrieval = ChunkGrid.of(model), model.retrieval
    return time_bases(
        model.rope.mode,
        chunk_id,
        valid,
        target,
        latents=grid.latents_per_chunk,
        first_latents=grid.first_entry_latents,
        num_recent=retrieval.num_recent,
        num_retrieved=retrieval.num_retrieved,
        anchor=anchor,
    )


def predict_velocity(
    net: WanDiT,
    params: Any,
    model: ModelConfig,
    latents: Float[Array, "b c l h w z"],
    sigma: Float[Array, "b c"] | Float[Array, "b c l"],
    text: Float[Array, "b ct t d"],
    positions: Real[Array, "b c n 3"],
    context: Context | None,
    self_context: SelfContext | None = None,
    entries: Entries | None = None,
    text_zeros: int = 0,
    keep_fn: Callable[[Float[Array, "b c n"]], Bool[Array, "b c n"]] | None = None,
    previous: PreviousLatent | None = None,
) -> Float[Array, "b c l h w z"]:
    """Velocity of noisy chunks given what they see; all arguments as `WanDiT` takes them."""
    inputs = (latents, sigma, text, positions, context)
    output: Any = net.apply(
        {"params": params},
        *inputs,
        self_context=self_context,
        entries=entries,
        previous=previous,
        keep_fn=keep_fn,
        fps=model.chunk.fps,
        text_zeros=text_zeros,
    )
    return output[0]


def clean_pass(
    net: WanDiT,
    params: Any,
    model: ModelConfig,
    latents: Float[Array, "b c l h w z"],
    sigma: Float[Array, "b c"],
    text: Float[Array, "b c t d"],
    positions: Int[Array, "b c n 3"],
    context: Context | None,
    probes: tuple[Int[Array, "p"], Int[Array, "p"]],
    self_context: SelfContext | None = None,
    keep_fn: Callable[[Float[Array, "b c n"]], Bool[Array, "b c n"]] | None = None,
    text_zeros: int = 0,
) -> ChunkKV:
    """Keys, values and importances of clean latents (Algorithm 2, lines 2-9).

    Args:
        sigma: the level that the network is told.
        probes: tokens and how many keys each sees (`importance.probe_indices`).
        self_context: chunks of the same sequence that each sees, through the rows that `keep_fn`
            keeps of them by their importances.
        text_zeros: as `WanDiT` takes it.
    """
    index, visible = probes
    output: Any = net.apply(
        {"params": params}, latents, sigma, text, positions, context, index, visible,
        return_kv=True, self_context=self_context, keep_fn=keep_fn,
        probing=Probing(model.build.softmax_over == "all", model.memory.granularity == "head"),
        fps=model.chunk.fps,
        text_zeros=text_zeros,
    )  # fmt: skip
    return output[1]
