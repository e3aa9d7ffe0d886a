"""Teacher forcing with the semantic sparse KV bank: the loss that trains the DiT.

A clip's clean chunks are encoded once, each alone (or, with `build.context="with"`, each seeing its own
context), exactly as the bank's entries are at generation time.  Every chunk is then denoised
`targets_per_chunk` times against the kept rows of the few earlier chunks that its drawn history names.  An
entry thus serves many targets, and a target costs little more than itself.

The keep set is a boolean key mask here and a gather at generation; for equal indices the two are equal.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.diffusion import flow
from bvjax.diffusion.noise import chunk_levels, draw_sigma
from bvjax.errors import UserError
from bvjax.losses.block_forcing import (
    BlockForcingConfig,
    block_forcing_loss,
    semantic_reference,
)
from bvjax.losses.extras import check_extras
from bvjax.losses.history import (
    History,
    HistoryConfig,
    draw_history,
    noise_history,
    revisiting,
)
from bvjax.memory.positions import time_bases
from bvjax.memory.rules import RULES, rule_of
from bvjax.memory.salience import keep_mask, probe_indices
from bvjax.nets.dit import ChunkKV, Context, SelfContext, WanDiT, variances
from bvjax.nets.dit_layers import gather_context, per_row
from bvjax.nets.rope import angles, apply_rope
from bvjax.random import normal, purpose_key
from bvjax.sharding import ONE_DEVICE, TOKENS, Layout

WEIGHTINGS = ("velocity", "even")
FRAMES_A_CAPTION = 4  # latents of one chunk among those that are denoised alone


@dataclasses.dataclass(frozen=True)
class LevelsConfig:
    """Noise levels in training (Eq. 11, 26, 27 and where they enter)."""

    schedule: str = "cosine"  # naive | linear | cosine | sigmoid; naive = ordinary levels only
    role: str = "median_shift"  # median_shift | fixed | cap | progressive
    eps_min: float = 0.1
    eps_max: float = 1.0 / 1.003
    alpha: float = 10.0  # steepness of the sigmoid
    mix: float = 0.5  # share of clips with ordinary levels
    shift: float = 3.0  # of ordinary levels
    weighting: str = (
        "velocity"  # velocity: all levels weigh 1, as in Eq. 5 | even, see `level_weight`
    )

    def __post_init__(self):
        if self.weighting not in WEIGHTINGS:
            raise UserError(
                f"levels.weighting is {self.weighting!r}; it can be {' or '.join(WEIGHTINGS)}"
            )


def level_weight(
    weighting: str, sigma: Float[Array, "*n"], latent_std: tuple[float, ...] = ()
) -> Float[Array, "*n"]:
    """Weight of a level's loss: 1, or "even", 1 over what the best linear guess would leave of the velocity.

    That is the mean over channels of v / s, as `add_linear_guess` names them.
    Where v is small, the loss is ten times larger at low levels, which decide details, than at high ones,
    which decide what is shown; "even" gives every level the same share.
    """
    if weighting == "velocity":
        return jnp.ones_like(sigma)
    v, s = variances(sigma[..., None], latent_std)
    return 1.0 / (v / s).mean(axis=-1)


@dataclasses.dataclass(frozen=True)
class TargetsConfig:
    """What of a clip is denoised, and how much each counts."""

    targets_per_chunk: int = 2  # times each chunk of a clip is denoised in a step
    # Share of the targets after a chunk's first that goes to `revisiting` chunks.
    revisit_fraction: float = 0.0
    anchor_weight: float = 0.15  # weight of the loss of the guidance latent alone
    frames: int = 0  # latents of a clip that are denoised alone, as images
    frames_weight: float = 1.0
    standalone: float = 0.0  # chance that a target without history gets the caption for that

    def __post_init__(self):
        if min(self.targets_per_chunk, self.frames) < 0 or not self.targets_per_chunk + self.frames:
            raise UserError(
                f"forcing.targets_per_chunk is {self.targets_per_chunk} and forcing.frames "
                f"{self.frames}; they must be >= 0 and not both zero"
            )
        for name in ("revisit_fraction", "standalone"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"forcing.{name} is {getattr(self, name)}; it must lie in [0, 1]")
        if self.frames % FRAMES_A_CAPTION:
            raise UserError(
                f"forcing.frames is {self.frames}; it must be a multiple of {FRAMES_A_CAPTION}"
            )


@dataclasses.dataclass(frozen=True)
class ForcingConfig(TargetsConfig):
    """The whole training draw."""

    block: BlockForcingConfig = BlockForcingConfig()
    history: HistoryConfig = dataclasses.field(default_factory=HistoryConfig)
    levels: LevelsConfig = LevelsConfig()

    def __post_init__(self):
        super().__post_init__()
        if self.revisit_fraction and self.levels.role == "progressive":
            raise UserError(
                "levels.role='progressive' needs all chunks in order; set forcing.revisit_fraction=0"
            )


@struct.dataclass
class Clip:
    """A batch of encoded videos in the `separate` layout; None: the data set does not have it."""

    anchor: Float[Array, "b 1 1 h w z"]  # guidance latents
    chunks: Float[Array, "b c l h w z"]
    text: Float[Array, "b c t dt"]
    embedding: Float[Array, "b c dt"]
    relevance: Float[Array, "b c c"] | None = None  # of source chunk j for target chunk i
    standalone: Float[Array, "b c t dt"] | None = None  # of captions that need no history


def make_clip(batch: Mapping[str, Array | np.ndarray], grid: ChunkGrid) -> Clip:
    """Cut latents [b, 1 + C L, h, w, z] at the chunk boundaries of `grid`."""
    if grid.config.first != "separate":
        raise UserError(
            f"training cuts videos as chunk.first='separate', not {grid.config.first!r}"
        )
    arrays = {name: jnp.asarray(value) for name, value in batch.items()}
    latents, length = arrays["latents"], grid.latents_per_chunk
    if (latents.shape[1] - 1) % length:
        raise UserError(f"{latents.shape[1]} latents are not 1 + a multiple of {length}")
    body = latents[:, 1:]
    return Clip(
        anchor=latents[:, None, :1],
        chunks=body.reshape(body.shape[0], -1, length, *body.shape[2:]),
        text=arrays["text"],
        embedding=arrays["embedding"],
        relevance=arrays.get("relevance"),
        standalone=arrays.get("standalone"),
    )


@dataclasses.dataclass(frozen=True)
class TeacherForcing:
    """The model with its training draw; `null_text` are the states of the empty caption.

    On a mesh videos are cut along `data`, tokens and heads as in `WanDiT`.
    """

    model: ModelConfig
    forcing: ForcingConfig
    null_text: Any  # float32 [t, dt]
    layout: Layout = ONE_DEVICE

    def __post_init__(self):
        """Raises `UserError` for an unknown retrieval rule and for what only generation has."""
        rule_of(self.model.retrieval.kind)
        for name in ("label", "context_noise"):
            value = getattr(self.model.build, name)
            if value:
                raise UserError(
                    f"build.{name} is {value}; it must be 0 here, because training and what is "
                    "measured with it draw and label the noise of entries by history.noise_max"
                )

    @property
    def grid(self) -> ChunkGrid:
        return ChunkGrid.of(self.model)

    @property
    def dit(self) -> WanDiT:
        return WanDiT(self.model.dit, self.model.text.dim, self.layout)

    # ---- the two passes ------------------------------------------------------------------------
    def encode(
        self,
        params: Any,
        chunks: Float[Array, "b c l h w z"],
        sigma: Float[Array, "b c"],
        text: Float[Array, "b c t dt"],
        key: Array,
        context: Context | None = None,
        self_context: SelfContext | None = None,
        base: Int[Array, "b c"] | int = 0,
    ) -> tuple[ChunkKV, Bool[Array, "y b c n"]]:
        """Bank entries of all chunks (Algorithm 2): keys, values and the keep mask of each layer.

        With `build.context="with"` chunks see the anchor (`context`) and each other (`self_context`), and
        `base` is each chunk's own RoPE time.
        """
        latents = chunks.shape[2]
        own = jnp.asarray(self.grid.positions(latents))
        tokens, per_frame = own.shape[0], self.grid.tokens_per_latent
        index, visible = probe_indices(self.model.build, tokens, per_frame, key)
        capacity = self.model.memory.capacity

        def keep_fn(salience):
            return keep_mask(salience, visible, self.model.memory, capacity)[0]

        positions = jnp.broadcast_to(own, (*chunks.shape[:2], tokens, 3))
        positions = positions.at[..., 0].add(jnp.asarray(base)[..., None])
        _, kv = self.dit.apply(
            {"params": params}, chunks, sigma, text, positions, context, index, visible,
            return_kv=True, self_context=self_context, keep_fn=keep_fn, fps=self.model.chunk.fps,
        )  # fmt: skip
        return kv, keep_fn(kv.salience)

    def context(
        self,
        kv: ChunkKV,
        keep: Bool[Array, "y b c n"],
        anchor_kv: ChunkKV,
        history: History,
        target: Int[Array, "b m"],
    ) -> tuple[Context, Int[Array, "b m"]]:
        """(K*, V*) of Eq. 9 for every target as masked rows [anchor | top-l | recent], and own RoPE bases."""
        entry_positions, own_base = self.positions(history, target)
        theta = self.model.dit.rope_theta
        keys, values, mask = jax.vmap(
            lambda *of_layer: gather_context(
                *of_layer,
                history.index,
                history.valid,
                entry_positions,
                theta,
                self.layout,
                history.whole,
            )
        )(kv.keys, kv.values, keep)
        similarity = per_row(self.layout, history.similarity, kv.keys.shape[3])
        similarity = jnp.broadcast_to(similarity, mask.shape)
        rows = Context(keys=keys, values=values, mask=mask, similarity=similarity)
        anchor = self.anchor_rows(anchor_kv, history.anchor)
        if anchor is not None:
            rows = self._joined(anchor, rows)
        return rows, own_base

    def _joined(self, anchor: Context, rows: Context) -> Context:
        """Both behind each other; on a mesh each device joins what it has, and nothing moves."""
        join = functools.partial(jax.tree.map, lambda a, b: jnp.concatenate([a, b], axis=3))
        if self.layout.mesh is None:
            return join(anchor, rows)
        lead = None, self.layout.rows(rows.mask.shape[1]), None, TOKENS
        heads, alone = PartitionSpec(*lead, "tensor"), PartitionSpec(*lead)
        specs = Context(keys=heads, values=heads, mask=alone, similarity=alone)
        return self.layout.manual(join, (specs, specs), specs)(anchor, rows)

    def anchor_rows(self, anchor_kv: ChunkKV, shown: Bool[Array, "b m"]) -> Context | None:
        """The anchor's rows, at time 0 for every target that is shown them; None when it is off."""
        if not self.model.memory.anchor:
            return None
        positions = jnp.asarray(self.grid.positions(1))
        keys = anchor_kv.keys
        turned = angles(positions, keys.shape[-1], self.model.dit.rope_theta)
        keys = apply_rope(keys, turned, self.layout.kernels)
        spread = (keys.shape[0], *shown.shape, positions.shape[0])

        def broadcast(rows):
            return jnp.broadcast_to(rows, (*spread, *rows.shape[-2:]))

        mask = jnp.broadcast_to(shown[None, ..., None], spread)
        return Context(
            keys=broadcast(keys),
            values=broadcast(anchor_kv.values),
            mask=mask,
            similarity=jnp.zeros(spread),
        )

    def positions(
        self, history: History, target: Int[Array, "b m"]
    ) -> tuple[Int[Array, "b m e n 3"], Int[Array, "b m"]]:
        """RoPE positions of the entries' tokens as each target sees them, and each target's base."""
        r, length = self.model.retrieval, self.grid.latents_per_chunk
        flat = history.index.reshape(-1, history.index.shape[-1])
        valid = history.valid.reshape(flat.shape)

        def bases(ids, valid, chunk):
            entry, own = time_bases(
                self.model.rope.mode, ids[None], valid[None], chunk,
                latents=length, first_latents=1, recent=r.recent, l=r.l, anchor=False,
            )  # fmt: skip
            return entry[0], own[0]

        entry_base, own_base = jax.vmap(bases)(flat + 1, valid, target.reshape(-1))
        local = jnp.asarray(self.grid.positions(length))
        shifted = jnp.broadcast_to(local, (*flat.shape, *local.shape))
        shifted = shifted.at[..., 0].add(entry_base[..., None])
        return shifted.reshape(*history.index.shape, *local.shape), own_base.reshape(target.shape)

    def denoise(
        self,
        params: Any,
        noisy: Float[Array, "b m l h w z"],
        sigma: Float[Array, "b m"],
        text: Float[Array, "b m t dt"],
        context: Context | None,
        base: Int[Array, "b m"] | int,
    ) -> Float[Array, "b m l h w z"]:
        """Velocity of noisy chunks given their context."""
        own = jnp.asarray(self.grid.positions(noisy.shape[2]))
        positions = jnp.broadcast_to(own, (*noisy.shape[:2], *own.shape))
        positions = positions.at[..., 0].add(jnp.asarray(base)[..., None])
        return self.dit.apply(
            {"params": params}, noisy, sigma, text, positions, context, fps=self.model.chunk.fps
        )[0]

    # ---- the loss ------------------------------------------------------------------------------
    def loss(
        self, params: Any, clip: Clip, key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Block Forcing over all chunks, plus single latents alone: the guidance latent and `frames` others.

        Raises `UserError` for settings that need what the clip does not have."""
        forcing = self.forcing
        check_extras(forcing, [name for name, x in vars(clip).items() if x is not None])
        loss, metrics = jnp.zeros(()), {}
        if forcing.targets_per_chunk:
            loss, metrics = self._block_loss(params, clip, key)
        metrics["anchor"] = self._anchor_loss(params, clip, purpose_key(key, "anchor target"))
        loss += forcing.anchor_weight * metrics["anchor"]
        if forcing.frames:
            metrics["frames"] = self._frames_loss(params, clip, purpose_key(key, "frames"))
            loss += forcing.frames_weight * metrics["frames"]
        return loss, metrics

    def _block_loss(self, params, clip, key):
        batch, chunks = clip.chunks.shape[:2]
        forcing = self.forcing
        target = self._targets(purpose_key(key, "targets"), clip)
        history = draw_history(
            purpose_key(key, "history"), target, clip.embedding, clip.relevance,
            self.model.retrieval, forcing.history, latents=clip.chunks,
        )  # fmt: skip
        if forcing.history.never:
            context, kept, (_, base) = None, jnp.zeros(()), self.positions(history, target)
        else:
            kv, keep, anchor_kv = self.bank(params, clip, history, purpose_key(key, "bank"))
            context, base = self.context(kv, keep, anchor_kv, history, target)
            kept = keep.astype(jnp.float32).mean()

        # ---- noisy targets
        rows = jnp.arange(batch)[:, None], target - 1
        x_start = clip.chunks[rows]
        text = self._caption(key, clip, rows, history.alone)
        sigma = self._sigma(purpose_key(key, "sigma"), target.reshape(-1, chunks), chunks)
        sigma = sigma.reshape(target.shape)
        noise = normal(purpose_key(key, "noise"), x_start.shape)
        velocity = self.denoise(
            params, flow.interpolate(x_start, noise, sigma), sigma, text, context, base
        )
        x_cond, has_cond = self._reference(clip.chunks, history)
        losses = block_forcing_loss(velocity, noise, x_start, x_cond, has_cond, forcing.block)
        plain = jnp.mean(jnp.square(velocity - flow.velocity(x_start, noise)), axis=(2, 3, 4, 5))
        loss = jnp.mean(self._weight(sigma) * losses)
        metrics = {"block": losses.mean(), "flow": plain.mean(), "kept": kept}
        for i, kind in enumerate(RULES):
            chosen = history.kind == i
            # A kind may be absent from a step: then the mean of all stands in and the log stays finite.
            mean = jnp.where(chosen, plain, 0.0).sum() / jnp.maximum(chosen.sum(), 1)
            metrics[f"flow_{kind}"] = jnp.where(chosen.any(), mean, plain.mean())
        return loss, metrics

    def _targets(self, key, clip):
        """Chunk ids [b, targets_per_chunk * c]: all chunks once, then again with some `revisiting` instead."""
        batch, chunks = clip.chunks.shape[:2]
        times = self.forcing.targets_per_chunk
        ids = jnp.broadcast_to(jnp.arange(1, chunks + 1), (batch, times, chunks))
        if self.forcing.revisit_fraction:
            chance = revisiting(clip.relevance, self.model.retrieval.recent).astype(jnp.float32)
            logits = jnp.log(chance)[:, None, None]
            drawn = 1 + jax.random.categorical(purpose_key(key, "chunk"), logits, shape=ids.shape)
            instead = self._draw(key, "instead", ids.shape) < self.forcing.revisit_fraction
            instead &= (jnp.arange(times) > 0)[:, None] & (chance > 0).any(-1)[:, None, None]
            ids = jnp.where(instead, drawn, ids)
        return ids.reshape(batch, -1)

    def _anchor_loss(self, params, clip, key):
        """The guidance latent from caption 1, twice."""
        latents = jnp.repeat(clip.anchor[:, :, None], 2, axis=2)
        rows = jnp.arange(latents.shape[0])[:, None], jnp.zeros((1, 1), int)
        return self._alone_loss(params, latents, clip, rows, key)

    def _frames_loss(self, params, clip, key):
        """Single latents from the later half of their chunks, where what a caption tells has come about."""
        batch, chunks, length = clip.chunks.shape[:3]
        shape = (batch, self.forcing.frames // FRAMES_A_CAPTION, FRAMES_A_CAPTION)
        chunk = jax.random.randint(purpose_key(key, "chunk"), shape[:2], 0, chunks)
        latent = jax.random.randint(purpose_key(key, "latent"), shape, length // 2, length)
        row = jnp.arange(batch)[:, None]
        latents = clip.chunks[row[..., None], chunk[..., None], latent][:, :, :, None]
        return self._alone_loss(params, latents, clip, (row, chunk), key)

    def _alone_loss(self, params, latents, clip, rows, key):
        """Plain flow matching of single latents [b, m, k, 1, h, w, z] without context; k share a caption."""
        text = self._caption(key, clip, rows, jnp.ones(latents.shape[:2], bool))
        sigma = draw_sigma(
            purpose_key(key, "sigma"),
            None,
            "fixed",
            latents.shape[:3],
            shift=self.forcing.levels.shift,
        )
        noise = normal(purpose_key(key, "noise"), latents.shape)
        # Mapped over k, so that the keys and values of a caption's 64 rows are computed once for 16 k tokens.
        velocity = jax.vmap(
            lambda noisy, sigma: self.denoise(params, noisy, sigma, text, None, 0), 2, 2
        )(flow.interpolate(latents, noise, sigma), sigma)
        errors = jnp.square(velocity - flow.velocity(latents, noise)).mean(axis=(3, 4, 5, 6))
        return jnp.mean(self._weight(sigma) * errors)

    def _caption(self, key, clip, rows, alone):
        """Captions [b, m, t, dt] of chunks as targets see them: one that stands alone (some `alone`), or none."""
        text = clip.text[rows]
        if self.forcing.standalone:
            # The purpose has the name it always had, so that runs draw what they drew.
            instead = self._draw(key, "described", alone.shape) < self.forcing.standalone
            text = jnp.where((alone & instead)[..., None, None], clip.standalone[rows], text)
        drop = self._draw(key, "caption", alone.shape) < self.forcing.history.caption_drop
        return jnp.where(drop[..., None, None], jnp.asarray(self.null_text, text.dtype), text)

    def bank(
        self, params: Any, clip: Clip, history: History, key: Array
    ) -> tuple[ChunkKV, Bool[Array, "y b c n"], ChunkKV]:
        """Entries of the (slightly noised) clean chunks and of the anchor, under their own captions."""
        noised, sigma = noise_history(purpose_key(key, "chunks"), clip.chunks, self.forcing.history)
        anchor, anchor_sigma = noise_history(
            purpose_key(key, "anchor"), clip.anchor, self.forcing.history
        )
        anchor_kv, _ = self.encode(
            params, anchor, anchor_sigma, clip.text[:, :1], purpose_key(key, "anchor probes")
        )
        extra = {}
        if self.model.build.context == "with":
            # Each clean chunk sees what its first noisy copy sees.
            first = jax.tree.map(lambda x: x[:, : clip.chunks.shape[1]], history)
            ids = jnp.broadcast_to(jnp.arange(1, clip.chunks.shape[1] + 1), first.anchor.shape)
            entry_positions, base = self.positions(first, ids)
            extra = {
                "context": self.anchor_rows(anchor_kv, first.anchor),
                "self_context": SelfContext(
                    first.index,
                    first.valid,
                    entry_positions,
                    first.similarity,
                    first.whole,
                ),
                "base": base,
            }
        probes = purpose_key(key, "probes")
        kv, keep = self.encode(params, noised, sigma, clip.text, probes, **extra)
        return kv, keep, anchor_kv

    def _sigma(self, key, target, chunks):
        """Levels of the targets [n, m], chunks of videos of `chunks` chunks."""
        cfg = self.forcing.levels
        levels = None
        if cfg.schedule != "naive":
            levels = chunk_levels(cfg.schedule, chunks, cfg.eps_min, cfg.eps_max, cfg.alpha)
            levels = jnp.asarray(levels)[target - 1]
        return draw_sigma(key, levels, cfg.role, target.shape, mix=cfg.mix, shift=cfg.shift)

    def _weight(self, sigma):
        return level_weight(self.forcing.levels.weighting, sigma, self.model.dit.latent_std)

    def _reference(self, chunks, history):
        """x_cond from the top-l entries, or from the recent ones where none was retrieved."""
        l, config = self.model.retrieval.l, self.forcing.block
        length = chunks.shape[2]
        parts = [
            semantic_reference(
                chunks, history.index[..., part], history.valid[..., part], history.scores[..., part],
                config, length,
            )
            for part in (slice(0, l), slice(l, None))
        ]  # fmt: skip
        (top, has_top), (recent, has_recent) = parts
        if config.fallback == "fm":
            return top, has_top
        return jnp.where(has_top[..., None, None, None, None], top, recent), has_top | has_recent

    def _draw(self, key, purpose, shape):
        return jax.random.uniform(purpose_key(key, purpose), shape)
