"""RoPE time of a chunk and of the entries it sees: a position map and nothing else."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from bvjax.errors import UserError
from bvjax.memory.bank import ROPE_MODES


def time_bases(
    mode: str,
    chunk_id: Int[Array, "B E"],
    valid: Bool[Array, "B E"],
    target_chunk: Int[Array, ""],
    *,
    latents: int,
    first_latents: int,
    num_recent: int,
    num_retrieved: int,
    anchor: bool,
) -> tuple[Int[Array, "B E"], Int[Array, "B"]]:
    """Latent-frame index at which each context entry and the target chunk begin.

    absolute  where they are in the video: 0 for id 0, else first_latents + (id - 1) * latents.
    local     every chunk, and the target, right behind the anchor: first_latents.
    window    the target behind a full window, first_latents + (num_retrieved + num_recent) * latents, and the r-th
              valid entry counted back from it r chunks earlier, so that a gap in time closes and no
              position exceeds what training saw, however long the story.
    packed    as window, but behind the entries that there are: a gap closes even while the window
              fills, so that until then the last chunks are where they are in the video.  This is
              the time of Infinity-RoPE (arXiv 2511.20649) and of LongLive's unbounded mode.
    The anchor, and a target with id 0, begin at 0 in every mode.

    Args:
      chunk_id, valid: the entries of a `Selection`, the anchor before all.
      latents: L, latent frames a chunk adds.
      first_latents: latent frames of the entry with id 0: 1, or L with chunk.first="joined".
      num_recent, num_retrieved, anchor: the sizes of the window.

    Raises:
      UserError: unknown `mode`.
    """
    target = jnp.broadcast_to(jnp.asarray(target_chunk, jnp.int32), chunk_id.shape[:1])
    if mode == "absolute":
        entry_base = first_latents + (chunk_id - 1) * latents
        target_base = first_latents + (target - 1) * latents
    elif mode == "local":
        entry_base = jnp.full_like(chunk_id, first_latents)
        target_base = jnp.full_like(target, first_latents)
    elif mode in ("window", "packed"):
        full = jnp.full_like(target, num_retrieved + num_recent)
        preceding = full if mode == "window" else valid[:, int(anchor) :].sum(-1, dtype=jnp.int32)
        target_base = first_latents + preceding * latents
        later = valid[:, None] & (chunk_id[:, None] >= chunk_id[..., None])
        back = later.sum(-1, dtype=jnp.int32)
        entry_base = target_base[:, None] - back * latents
    else:
        raise UserError(f"rope.mode is {mode!r}; it can be {', '.join(ROPE_MODES)}")
    if anchor:
        entry_base = entry_base.at[:, 0].set(0)
    if mode == "absolute":
        entry_base = jnp.where(chunk_id == 0, 0, entry_base)
    entry_base = jnp.where(valid, entry_base, 0)
    return entry_base.astype(jnp.int32), jnp.where(target == 0, 0, target_base).astype(jnp.int32)
