"""The forward pass of teacher forcing: clean chunks to entries, entries to contexts, noisy chunks to velocities.

A clip's clean chunks are encoded once, each alone (or, with `build.context="with"`, each seeing its own
context), exactly as the bank's entries are at generation time, and by the same passes of the network
(`bvjax.denoiser`).  An entry serves many targets, and a target costs little more than itself.

The keep set is a boolean key mask here and a gather at generation; for equal indices the two are equal.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.denoiser.passes import (
    chunk_positions,
    clean_pass,
    entry_times,
    network,
    predict_velocity,
)
from bvjax.losses.clip import Clip
from bvjax.losses.history import History, HistoryConfig, noise_history
from bvjax.memory.importance import keep_mask, probe_indices
from bvjax.nets.dit import ChunkKV, Context, SelfContext, WanDiT
from bvjax.nets.dit_layers import gather_context, per_row
from bvjax.nets.rope import angles, apply_rope
from bvjax.random import purpose_key
from bvjax.sharding import ONE_DEVICE, TOKENS, Layout


@struct.dataclass
class ClipEntries:
    """Entries of all chunks of a batch of clips, and of their anchors."""

    kv: ChunkKV
    keep: Bool[Array, "y b c n"]
    anchor_kv: ChunkKV


@dataclasses.dataclass(frozen=True)
class TeacherForward:
    """The model applied to all chunks of clips at once.

    On a mesh videos are sharded over `data`, tokens and heads as in `WanDiT`.
    """

    model: ModelConfig
    layout: Layout = ONE_DEVICE

    @property
    def grid(self) -> ChunkGrid:
        return ChunkGrid.of(self.model)

    @property
    def dit(self) -> WanDiT:
        return network(self.model, self.layout)

    # ---- entries -------------------------------------------------------------------------------
    def entries(
        self, params: Any, clip: Clip, history: History, noise: HistoryConfig, key: Array
    ) -> ClipEntries:
        """Entries of the (slightly noised) clean chunks and of the anchor, under their own captions.

        Args:
            history: what each chunk sees with `build.context="with"`: as its first noisy copy.
            noise: how clean the chunks are.
        """
        noised, sigma = noise_history(purpose_key(key, "chunks"), clip.chunks, noise)
        anchor, anchor_sigma = noise_history(purpose_key(key, "anchor"), clip.anchor, noise)
        anchor_kv, _ = self.encode(
            params, anchor, anchor_sigma, clip.text[:, :1], purpose_key(key, "anchor probes")
        )
        extra = {}
        if self.model.build.context == "with":
            first = jax.tree.map(lambda x: x[:, : clip.chunks.shape[1]], history)
            ids = jnp.broadcast_to(jnp.arange(1, clip.chunks.shape[1] + 1), first.anchor.shape)
            entry_positions, start = self.positions(first, ids)
            extra = {
                "context": self.anchor_rows(anchor_kv, first.anchor),
                "self_context": SelfContext(
                    first.index,
                    first.valid,
                    entry_positions,
                    first.similarity,
                    first.dense,
                ),
                "start": start,
            }
        probes = purpose_key(key, "probes")
        kv, keep = self.encode(params, noised, sigma, clip.text, probes, **extra)
        return ClipEntries(kv, keep, anchor_kv)

    def encode(
        self,
        params: Any,
        chunks: Float[Array, "b c l h w z"],
        sigma: Float[Array, "b c"],
        text: Float[Array, "b c t dt"],
        key: Array,
        context: Context | None = None,
        self_context: SelfContext | None = None,
        start: Int[Array, "b c"] | int = 0,
    ) -> tuple[ChunkKV, Bool[Array, "y b c n"]]:
        """Entries of all chunks (Algorithm 2): keys, values and the keep mask of each layer.

        With `build.context="with"` chunks see the anchor (`context`) and each other (`self_context`), and
        `start` is the RoPE time of each chunk.
        """
        start = jnp.broadcast_to(jnp.asarray(start), chunks.shape[:2])
        positions = chunk_positions(self.model, chunks.shape[2], start)
        tokens, per_frame = positions.shape[-2], self.grid.tokens_per_latent
        probes = probe_indices(self.model.build, tokens, per_frame, key)
        capacity = self.model.memory.capacity

        def keep_fn(importance):
            return keep_mask(importance, probes[1], self.model.memory, capacity)[0]

        kv = clean_pass(
            self.dit, params, self.model, chunks, sigma, text, positions, context, probes,
            self_context, keep_fn,
        )  # fmt: skip
        return kv, keep_fn(kv.importance)

    # ---- contexts ------------------------------------------------------------------------------
    def context(
        self,
        entries: ClipEntries,
        history: History,
        target: Int[Array, "b m"],
        sees: Bool[Array, "b m e"] | None = None,
    ) -> tuple[Context, Int[Array, "b m"]]:
        """(K*, V*) of Eq. 9 for every target as masked rows [anchor | top-l | recent], and its RoPE time.

        Args:
            sees: entries of the history that are shown; None: all.  The others keep their times, as in the
                null branch of guidance by the memory.
        """
        kv = entries.kv
        valid = history.valid if sees is None else history.valid & sees
        entry_positions, start = self.positions(history, target)
        theta = self.model.dit.rope_theta
        keys, values, mask = jax.vmap(
            lambda *of_layer: gather_context(
                *of_layer,
                history.index,
                valid,
                entry_positions,
                theta,
                self.layout,
                history.dense,
            )
        )(kv.keys, kv.values, entries.keep)
        similarity = per_row(self.layout, history.similarity, kv.keys.shape[3])
        similarity = jnp.broadcast_to(similarity, mask.shape)
        rows = Context(keys=keys, values=values, mask=mask, similarity=similarity)
        anchor = self.anchor_rows(entries.anchor_kv, history.anchor)
        if anchor is not None:
            rows = self._joined(anchor, rows)
        return rows, start

    def _joined(self, anchor: Context, rows: Context) -> Context:
        """Returns both concatenated; on a mesh each device joins its own shards, without collectives."""
        join = functools.partial(jax.tree.map, lambda a, b: jnp.concatenate([a, b], axis=3))
        if self.layout.mesh is None:
            return join(anchor, rows)
        lead = None, self.layout.rows(rows.mask.shape[1]), None, TOKENS
        heads, alone = PartitionSpec(*lead, "tensor"), PartitionSpec(*lead)
        specs = Context(keys=heads, values=heads, mask=alone, similarity=alone)
        return self.layout.manual(join, (specs, specs), specs)(anchor, rows)

    def anchor_rows(self, anchor_kv: ChunkKV, visible: Bool[Array, "b m"]) -> Context | None:
        """The anchor's rows, at time 0 for every target that is shown them; None when it is off."""
        if not self.model.memory.anchor:
            return None
        positions = jnp.asarray(self.grid.positions(1))
        keys = anchor_kv.keys
        rotation = angles(positions, keys.shape[-1], self.model.dit.rope_theta)
        keys = apply_rope(keys, rotation, self.layout.kernels)
        mask_shape = (keys.shape[0], *visible.shape, positions.shape[0])

        def broadcast(rows):
            return jnp.broadcast_to(rows, (*mask_shape, *rows.shape[-2:]))

        mask = jnp.broadcast_to(visible[None, ..., None], mask_shape)
        return Context(
            keys=broadcast(keys),
            values=broadcast(anchor_kv.values),
            mask=mask,
            similarity=jnp.zeros(mask_shape),
        )

    def positions(
        self, history: History, target: Int[Array, "b m"]
    ) -> tuple[Int[Array, "b m e n 3"], Int[Array, "b m"]]:
        """RoPE positions of the entries' tokens as each target sees them, and the time of each target."""
        flat = history.index.reshape(-1, history.index.shape[-1])
        valid = history.valid.reshape(flat.shape)

        def times(ids, valid, chunk):
            entry, target_start = entry_times(
                self.model, ids[None], valid[None], chunk, anchor=False
            )
            return entry[0], target_start[0]

        entry_start, start = jax.vmap(times)(flat + 1, valid, target.reshape(-1))
        shifted = chunk_positions(self.model, self.grid.latents_per_chunk, entry_start)
        return shifted.reshape(*history.index.shape, *shifted.shape[-2:]), start.reshape(
            target.shape
        )

    # ---- velocities ----------------------------------------------------------------------------
    def velocity(
        self,
        params: Any,
        noisy: Float[Array, "b m l h w z"],
        sigma: Float[Array, "b m"],
        text: Float[Array, "b m t dt"],
        context: Context | None,
        start: Int[Array, "b m"] | int,
    ) -> Float[Array, "b m l h w z"]:
        """Velocity of noisy chunks that begin at RoPE time `start`, given their context."""
        start = jnp.broadcast_to(jnp.asarray(start), noisy.shape[:2])
        positions = chunk_positions(self.model, noisy.shape[2], start)
        return predict_velocity(
            self.dit, params, self.model, noisy, sigma, text, positions, context
        )
