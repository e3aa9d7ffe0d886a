"""The forward pass of teacher forcing: clean chunks to entries, entries to contexts, noisy chunks to velocities.

A clip's clean chunks are encoded once, each alone (or, with `build.context="with"`, each seeing its own
context), exactly as the bank's entries are at generation time, and by the same passes of the network
(`bvjax.denoiser`).  Where targets are few, only the chunks that they see are encoded.

The rows that a target sees are gathered in each layer, where the backward pass gathers them again: no two layers'
contexts are there at a time.  The keep set is a boolean key mask here and a gather at generation; for equal indices
the two are equal.  Rows that cannot be seen are moved away before they are multiplied where a slot holds fewer
rows than a chunk has.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
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
from bvjax.errors import UserError
from bvjax.losses.clip import Clip
from bvjax.losses.history import History, HistoryConfig, drop_tokens, noise_history, noise_previous
from bvjax.losses.levels import LevelsConfig
from bvjax.memory.importance import keep_of_layer, keep_of_layers, probe_indices
from bvjax.nets.dit import ChunkKV, Context, Entries, PreviousLatent, SelfContext, WanDiT
from bvjax.nets.rope import angles, apply_rope
from bvjax.random import AnyKey, purpose_key, shared_key
from bvjax.sharding import ONE_DEVICE, Layout


@struct.dataclass
class ClipEntries:
    """Entries of chunks of a batch of clips, and of their anchors."""

    kv: ChunkKV
    keep: Bool[Array, "y b c *n"]
    anchor_kv: ChunkKV
    before: PreviousLatent | None = None  # of all chunks, for models that are told it
    # Whether they are those of the targets, target by target, and not all chunks of the clip.
    by_target: bool = struct.field(pytree_node=False, default=False)


@struct.dataclass
class TargetContext:
    """The memory as targets see it: entries, which of their rows, and the anchor."""

    entries: ClipEntries
    selection: SelfContext
    anchor: Bool[Array, "b m"]
    before: PreviousLatent | None = None  # of the targets


@dataclasses.dataclass(frozen=True)
class TeacherForward:
    """The model applied to all chunks of clips at once.

    On a mesh videos are sharded over `data`, tokens and heads as in `WanDiT`.
    """

    model: ModelConfig
    layout: Layout = ONE_DEVICE
    targets_at_once: int = 0  # 0: all; else as many go through the network at a time

    def __post_init__(self):
        if self.model.retrieval.route:
            raise UserError(
                f"retrieval.route is {self.model.retrieval.route}; it is of generation, and training shows targets "
                "all of their history: it must be 0"
            )

        memory = self.model.memory
        if memory.granularity == "model" and self.model.build.context == "with":
            raise UserError(
                "memory.granularity='model' knows what is kept of a chunk after its last layer, and training with "
                "build.context='with' needs it in each; use build.context='none'"
            )
        if memory.granularity == "head" and self.layout.mesh is not None:
            raise UserError("memory.granularity='head' is of one device, and training has a mesh")

    @property
    def grid(self) -> ChunkGrid:
        return ChunkGrid.of(self.model)

    def text_zeros(self, text: Float[Array, "b c t dt"]) -> int:
        """How many rows of zeros states of text lack at their end, which the network counts all the same."""
        return max(self.model.text.max_length - text.shape[2], 0)

    @property
    def dit(self) -> WanDiT:
        return network(self.model, self.layout)

    # ---- entries -------------------------------------------------------------------------------
    def entries(
        self,
        params: Any,
        clip: Clip,
        history: History,
        noise: HistoryConfig,
        key: AnyKey,
        levels: LevelsConfig | None = None,
    ) -> ClipEntries:
        """Entries of the (slightly noised) clean chunks and of the anchor, under their own captions.

        They are all chunks of the clip, or only those that the targets see if these are fewer.

        Args:
            history: what the targets see. With `build.context="with"` the first targets are all chunks, and what
                they see is what these chunks see when they are encoded.
            noise: how clean the chunks are, and which of their tokens are dropped.
            levels: with the role `context`, how clean the chunks are.
        """
        noised, sigma = noise_history(purpose_key(key, "chunks"), clip.chunks, noise, levels)
        text = clip.text
        sources = history.index.reshape(len(text), -1)
        by_target = self.model.build.context == "none" and 0 < sources.shape[1] < text.shape[1]
        if by_target:
            rows = jnp.arange(len(text))[:, None], sources
            noised, sigma, text = noised[rows], sigma[rows], text[rows]
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
        kv, keep = self.encode(params, noised, sigma, text, probes, **extra)
        before = self._before(clip, noise, purpose_key(key, "previous"))
        return ClipEntries(kv, drop_tokens(key, keep, noise), anchor_kv, before, by_target)

    def _before(self, clip: Clip, noise: HistoryConfig, key: AnyKey) -> PreviousLatent | None:
        """The last latent before each chunk of a clip, noised."""
        if not self.model.dit.previous_latent:
            return None
        latents = jnp.concatenate([clip.anchor[:, :, 0], clip.chunks[:, :-1, -1]], axis=1)
        noised = noise_previous(key, latents, self.model.dit.latent_std, noise.previous_noise)
        known = jnp.ones(latents.shape[:2], bool)
        if clip.joined is not None:
            known &= clip.joined > 0
        if clip.shot is not None:  # chunks are numbered from 1; the first follows the anchor
            number = jnp.arange(1, known.shape[1] + 1)
            known &= (clip.shot != number) | (number == 1)
        return PreviousLatent(noised, known)

    def encode(
        self,
        params: Any,
        chunks: Float[Array, "b c l h w z"],
        sigma: Float[Array, "b c"],
        text: Float[Array, "b c t dt"],
        key: AnyKey,
        context: Context | None = None,
        self_context: SelfContext | None = None,
        start: Int[Array, "b c"] | int = 0,
    ) -> tuple[ChunkKV, Bool[Array, "y b c *n"]]:
        """Entries of all chunks (Algorithm 2): keys, values and the keep mask of each layer.

        With `build.context="with"` chunks see the anchor (`context`) and each other (`self_context`), and
        `start` is the RoPE time of each chunk.
        """
        start = jnp.broadcast_to(jnp.asarray(start), chunks.shape[:2])
        positions = chunk_positions(self.model, chunks.shape[2], start)
        tokens, per_frame = positions.shape[-2], self.grid.tokens_per_latent
        probes = probe_indices(self.model.build, tokens, per_frame, shared_key(key))
        capacity = self.model.memory.capacity

        def keep_fn(importance):
            return keep_of_layer(importance, probes[1], self.model.memory, capacity)[0]

        kv = clean_pass(
            self.dit, params, self.model, chunks, sigma, text, positions, context, probes,
            self_context, keep_fn, self.text_zeros(text),
        )  # fmt: skip
        return kv, keep_of_layers(kv.importance, probes[1], self.model.memory, capacity)[0]

    # ---- contexts ------------------------------------------------------------------------------
    def context(
        self,
        entries: ClipEntries,
        history: History,
        target: Int[Array, "b m"],
        sees: Bool[Array, "b m e"] | None = None,
    ) -> tuple[TargetContext, Int[Array, "b m"]]:
        """(K*, V*) of Eq. 9 for every target, [anchor | top-l | recent], and its RoPE time.

        Args:
            sees: entries of the history that are shown; None: all.  The others keep their times, as in the
                null branch of guidance by the memory.
        """
        entry_positions, start = self.positions(history, target)
        selection = SelfContext(
            index=None if entries.by_target else history.index,
            valid=history.valid if sees is None else history.valid & sees,
            entry_positions=entry_positions,
            similarity=history.similarity,
            dense=history.dense,
            most_rows=self.most_rows(entries),
        )
        return TargetContext(
            entries, selection, history.anchor, self._before_targets(entries, history, target)
        ), start

    def _before_targets(
        self, entries: ClipEntries, history: History, target: Int[Array, "b m"]
    ) -> PreviousLatent | None:
        """The last latents before the targets; None where targets see no recent chunks."""
        if entries.before is None or not self.model.retrieval.num_recent:
            return None
        rows = jnp.arange(len(target))[:, None], target - 1
        before = jax.tree.map(lambda x: x[rows], entries.before)
        return before.replace(known=before.known & ~history.alone)

    def most_rows(self, entries: ClipEntries) -> int | None:
        """Rows that a target can see, its own among them; None where no slot holds less than a chunk."""
        tokens, retrieval = entries.kv.keys.shape[3], self.model.retrieval
        kept = self.model.memory.capacity
        if kept >= tokens:
            return None
        recent = tokens if retrieval.dense_recent else kept
        anchor = entries.anchor_kv.keys.shape[3] if self.model.memory.anchor else 0
        return tokens + anchor + retrieval.num_retrieved * kept + retrieval.num_recent * recent

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
        text: Float[Array, "b mt t dt"],
        context: TargetContext | None,
        start: Int[Array, "b m"] | int,
    ) -> Float[Array, "b m l h w z"]:
        """Velocity of noisy chunks that begin at RoPE time `start`, given their context.

        Chunks that follow each other may share a caption: m must be a multiple of mt.
        """
        start = jnp.broadcast_to(jnp.asarray(start), noisy.shape[:2])
        positions = chunk_positions(self.model, noisy.shape[2], start)
        inputs = noisy, sigma, text, positions
        if context is None:
            return predict_velocity(
                self.dit, params, self.model, *inputs, None, text_zeros=self.text_zeros(text)
            )
        kv = context.entries.kv
        entries = Entries(kv.keys, kv.values, context.entries.keep)

        def denoise(inputs, selection, anchor, before, entries, anchor_kv):
            return predict_velocity(
                self.dit, params, self.model, *inputs, self.anchor_rows(anchor_kv, anchor),
                self_context=selection, entries=entries, text_zeros=self.text_zeros(text),
                previous=before,
            )  # fmt: skip

        of_targets = inputs, context.selection, context.anchor, context.before
        anchor_kv = context.entries.anchor_kv
        targets, at_once = noisy.shape[1], self.targets_at_once
        if not at_once or at_once >= targets:
            return denoise(*of_targets, entries, anchor_kv)
        if targets % at_once:
            raise UserError(
                f"forcing.targets_at_once is {at_once}; it must divide the {targets} targets of a clip"
            )

        def groups(x):
            return jnp.moveaxis(x.reshape(len(x), -1, at_once, *x.shape[2:]), 1, 0)

        sources = None
        if context.selection.index is None:  # entries too are those of one group of targets
            by_group = lambda x: jnp.moveaxis(
                x.reshape(*x.shape[:2], targets // at_once, -1, *x.shape[3:]), 2, 0
            )
            sources = jax.tree.map(by_group, entries)

        @jax.checkpoint
        def of_group(group):
            of_targets, sources = group
            return denoise(*of_targets, entries if sources is None else sources, anchor_kv)

        out = jax.lax.map(of_group, (jax.tree.map(groups, of_targets), sources))
        return jnp.moveaxis(out, 0, 1).reshape(noisy.shape)
