"""Teacher forcing with the semantic sparse KV bank: the loss that trains the DiT.

What each target is shown, its caption and its level of noise are drawn; every chunk, or the few that are drawn as
targets, is then denoised against the kept rows of the few earlier chunks that its drawn history names, by the
forward pass of `losses.forward`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.diffusion import flow
from bvjax.diffusion.noise import draw_sigma
from bvjax.errors import UserError
from bvjax.losses.block_forcing import (
    BlockForcingConfig,
    block_forcing_loss,
    path_end,
    semantic_reference,
)
from bvjax.losses.clip import Clip, Pictures
from bvjax.losses.extras import check_extras
from bvjax.losses.forward import ClipEntries, TargetContext, TeacherForward
from bvjax.losses.history import History, HistoryConfig, draw_history, revisiting
from bvjax.losses.levels import LevelsConfig, level_weight
from bvjax.memory.rules import RULES, number_of, rule_of
from bvjax.random import AnyKey, categorical, normal, purpose_key, randint, uniform
from bvjax.sharding import ONE_DEVICE, Layout

FRAMES_A_CAPTION = 4  # latents of one chunk among those that are denoised alone
NOISES_A_PICTURE = 4  # times that a picture is denoised in a step


@dataclasses.dataclass(frozen=True)
class TargetsConfig:
    """The chunks of a clip that are denoised, and the weight of each."""

    targets_per_chunk: int = 2  # times each chunk of a clip is denoised in a step
    # Chunks of a clip that are drawn and denoised in a step; 0: all of them, `targets_per_chunk` times.
    drawn_targets: int = 0
    # Of those that are drawn only chunks that go on from the one before them; some may be drawn twice.  The other
    # chunks of an excerpt would teach that a chunk need not join what it has just seen.
    joined_targets: bool = False
    targets_at_once: int = 0  # go through the network together; 0: all.  Memory falls with it.
    # Rows of text states that the network is given; the zeros behind them count and are not computed.  0 = all.  A
    # longer caption makes the loss NaN.
    text_rows: int = 0
    # Share of the targets after a chunk's first, or of those that are drawn, that goes to `revisiting` chunks.
    revisit_fraction: float = 0.0
    anchor_weight: float = 0.15  # weight of the loss of the anchor alone
    frames: int = 0  # latents of a clip that are denoised alone, as images
    frames_weight: float = 1.0
    standalone: float = 0.0  # chance that a target without history gets the caption for that
    pictures: int = 0  # pictures of an example that are denoised alone, of those that it has
    pictures_weight: float = 1.0

    def __post_init__(self):
        counts = {name: getattr(self, name) for name in ("targets_per_chunk", "frames", "pictures")}
        if min(counts.values()) < 0 or not any(counts.values()):
            named = ", ".join(f"forcing.{name} is {count}" for name, count in counts.items())
            raise UserError(f"{named}; they must be >= 0 and not all zero")
        for name in ("drawn_targets", "targets_at_once", "text_rows"):
            if getattr(self, name) < 0:
                raise UserError(f"forcing.{name} is {getattr(self, name)}; it must be >= 0")
        if self.joined_targets and not self.drawn_targets:
            raise UserError("forcing.joined_targets needs forcing.drawn_targets, which is 0")
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
        for name in ("revisit_fraction", "drawn_targets"):
            if getattr(self, name) and self.levels.role == "progressive":
                raise UserError(
                    f"levels.role='progressive' needs all chunks in order; set forcing.{name}=0"
                )


@struct.dataclass
class Targets:
    """Chunks of clips to be denoised, with what each is shown."""

    ids: Int[Array, "b m"]  # 1-based
    history: History
    latents: Float[Array, "b m l h w z"]  # clean
    text: Float[Array, "b m t dt"]


@struct.dataclass
class Singles:
    """Single latents to be denoised alone; k share a caption."""

    latents: Float[Array, "b m k 1 h w z"]
    text: Float[Array, "b m t dt"]


@dataclasses.dataclass(frozen=True)
class TeacherForcing:
    """The model with its training draw; `null_text` are the states of the empty caption."""

    model: ModelConfig
    forcing: ForcingConfig
    null_text: Any  # float32 [t, dt]
    layout: Layout = ONE_DEVICE

    def __post_init__(self):
        """Raises `UserError` for an unknown retrieval rule, what only generation has, and too few rows of text."""
        rule_of(self.model.retrieval.kind)
        rows = self.forcing.text_rows
        if rows and np.any(self.null_text[rows:]):
            raise UserError(
                f"forcing.text_rows is {rows}; the states of the empty caption have more that are not zeros"
            )
        for name in ("label", "context_noise"):
            value = getattr(self.model.build, name)
            if value:
                raise UserError(
                    f"build.{name} is {value}; it must be 0 here, because training and what is "
                    "measured with it draw and label the noise of entries by history.noise_max"
                )
        if self.forcing.joined_targets and self.model.retrieval.offset:
            raise UserError(
                f"retrieval.offset is {self.model.retrieval.offset}; forcing.joined_targets is of excerpts, which have "
                "the chunks right before their target: it must be 0"
            )
        if self.model.levels.context and self.forcing.levels.role != "context":
            raise UserError(
                f"levels.role is {self.forcing.levels.role!r}; with model.levels.context it must be 'context'"
            )

    @property
    def grid(self) -> ChunkGrid:
        return ChunkGrid.of(self.model)

    @property
    def forward(self) -> TeacherForward:
        return TeacherForward(self.model, self.layout, self.forcing.targets_at_once)

    def loss(
        self, params: Any, clip: Clip | None, key: AnyKey, pictures: Pictures | None = None
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Block Forcing over all chunks, plus single latents alone: the anchor, `frames` others, and pictures.

        Args:
            clip: None trains on pictures alone.

        Raises `UserError` for settings that need what the clip does not have."""
        forcing = self.forcing
        loss, metrics = jnp.zeros(()), {}
        if clip is not None:
            text, standalone = self._text_rows(clip.text), self._text_rows(clip.standalone)
            clip = dataclasses.replace(clip, text=text, standalone=standalone)
            loss, metrics = self._clip_loss(params, clip, key)
        if forcing.pictures and pictures is not None:
            picture_key = purpose_key(key, "pictures")
            pictures = dataclasses.replace(pictures, text=self._text_rows(pictures.text))
            metrics["pictures"] = self._pictures_loss(params, pictures, picture_key)
            loss += forcing.pictures_weight * metrics["pictures"]
        return loss, metrics

    def _clip_loss(self, params, clip, key):
        forcing = self.forcing
        check_extras(forcing, [name for name, x in vars(clip).items() if x is not None])
        loss, metrics = jnp.zeros(()), {}
        if forcing.targets_per_chunk:
            loss, metrics = self._block_loss(params, clip, key)
        of_anchor, of_frames = purpose_key(key, "anchor target"), purpose_key(key, "frames")
        metrics["anchor"] = self._alone_loss(params, self.draw_anchor(clip, of_anchor), of_anchor)
        loss += forcing.anchor_weight * metrics["anchor"]
        if forcing.frames:
            singles = self.draw_frames(clip, of_frames)
            metrics["frames"] = self._alone_loss(params, singles, of_frames)
            loss += forcing.frames_weight * metrics["frames"]
        return loss, metrics

    def draw_targets(self, clip: Clip, key: AnyKey) -> Targets:
        """The chunks that are denoised, with what each is shown."""
        ids = self._targets(purpose_key(key, "targets"), clip)
        history = self._history(purpose_key(key, "history"), clip, ids)
        rows = jnp.arange(len(ids))[:, None], ids - 1
        return Targets(
            ids=ids,
            history=history,
            latents=clip.chunks[rows],
            text=self._caption(key, clip, rows, history.alone),
        )

    def entries(self, params: Any, clip: Clip, targets: Targets, key: AnyKey) -> ClipEntries | None:
        """Entries of the clips' clean chunks by the network of `params`; None: no target is shown any."""
        history, levels = self.forcing.history, self.forcing.levels
        if history.never:
            return None
        seen = targets.history  # by the chunks that are encoded, with build.context="with"
        if self.forcing.drawn_targets and self.model.build.context == "with":
            every = jnp.broadcast_to(jnp.arange(1, clip.text.shape[1] + 1), clip.text.shape[:2])
            seen = self._history(purpose_key(key, "history of entries"), clip, every)
        return self.forward.entries(params, clip, seen, history, purpose_key(key, "bank"), levels)

    def context(
        self,
        entries: ClipEntries | None,
        targets: Targets,
        sees: Bool[Array, "b m e"] | None = None,
    ) -> tuple[TargetContext | None, Int[Array, "b m"]]:
        """Contexts of the targets and their RoPE times; arguments are those of `TeacherForward.context`."""
        if entries is None:
            return None, self.forward.positions(targets.history, targets.ids)[1]
        return self.forward.context(entries, targets.history, targets.ids, sees)

    def _block_loss(self, params, clip, key):
        chunks = clip.chunks.shape[1]
        forcing, forward = self.forcing, self.forward
        targets = self.draw_targets(clip, key)
        history, x_start = targets.history, targets.latents
        entries = self.entries(params, clip, targets, key)
        context, start = self.context(entries, targets)
        kept = jnp.zeros(()) if entries is None else entries.keep.astype(jnp.float32).mean()
        by_clip = targets.ids if forcing.drawn_targets else targets.ids.reshape(-1, chunks)
        sigma = self._sigma(purpose_key(key, "sigma"), by_clip, chunks).reshape(targets.ids.shape)
        noise = normal(purpose_key(key, "noise"), x_start.shape)
        x_cond, has_cond = self._reference(clip, targets)
        path = path_end(x_start, x_cond, has_cond, forcing.block)
        velocity = forward.velocity(
            params, flow.interpolate(path, noise, sigma), sigma, targets.text, context, start
        )
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

    def loss_at(
        self, params: Any, clip: Clip, key: AnyKey, levels: tuple[float, ...]
    ) -> Float[Array, "b levels"]:
        """The plain loss of flow matching, |v - (eps - x)|^2, of each clip at given levels of noise.

        Targets, what they see and the noise are those of a step with this key, the same at every level.
        """
        text, standalone = self._text_rows(clip.text), self._text_rows(clip.standalone)
        clip = dataclasses.replace(clip, text=text, standalone=standalone)
        targets = self.draw_targets(clip, key)
        context, start = self.context(self.entries(params, clip, targets, key), targets)
        noise = normal(purpose_key(key, "noise"), targets.latents.shape)

        def at(level: Float[Array, ""]) -> Float[Array, "b"]:
            sigma = jnp.broadcast_to(level, targets.ids.shape)
            noisy = flow.interpolate(targets.latents, noise, sigma)
            velocity = self.forward.velocity(params, noisy, sigma, targets.text, context, start)
            error = jnp.square(velocity - flow.velocity(targets.latents, noise))
            return error.mean(axis=tuple(range(1, error.ndim)))

        return jax.lax.map(at, jnp.asarray(levels, jnp.float32)).T

    def _history(self, key, clip, ids):
        return draw_history(
            key,
            ids,
            clip.embedding,
            clip.relevance,
            self.model.retrieval,
            self.forcing.history,
            latents=clip.chunks,
            shot=clip.shot,
        )

    def _targets(self, key, clip):
        """Chunk ids: all chunks once, then again, [b, targets_per_chunk * c], or [b, drawn_targets] different ones.

        Some of them are `revisiting` chunks instead, of all chunks only after the first time.
        """
        batch, chunks = clip.chunks.shape[:2]
        drawn, times = self.forcing.drawn_targets, self.forcing.targets_per_chunk
        if drawn > chunks:
            raise UserError(f"forcing.drawn_targets is {drawn}; clips have {chunks} chunks")
        if drawn and self.forcing.joined_targets:
            ids = 1 + self._joined(key, clip, drawn)[:, None]
        elif drawn:
            order = jnp.argsort(self._draw(key, "drawn", (batch, chunks)), axis=1)
            ids = 1 + order[:, None, :drawn]
        else:
            ids = jnp.broadcast_to(jnp.arange(1, chunks + 1), (batch, times, chunks))
        if self.forcing.revisit_fraction:
            chance = revisiting(clip.relevance, self.model.retrieval.num_recent).astype(jnp.float32)
            logits = jnp.log(chance)[:, None, None]
            sampled = 1 + categorical(purpose_key(key, "chunk"), logits, ids.shape)
            instead = self._draw(key, "instead", ids.shape) < self.forcing.revisit_fraction
            again = drawn > 0 or (jnp.arange(times) > 0)[:, None]
            instead &= again & (chance > 0).any(-1)[:, None, None]
            ids = jnp.where(instead, sampled, ids)
        return ids.reshape(batch, -1)

    def _joined(self, key, clip, drawn):
        """Evenly drawn chunks that go on from the one before, [b, drawn], counted from 0; any, where none does."""
        weight = jnp.where(clip.joined.any(-1, keepdims=True), clip.joined, 1.0)
        bounds = jnp.cumsum(weight, axis=1) / weight.sum(axis=1, keepdims=True)
        at = (jnp.arange(drawn) + self._draw(key, "drawn", (len(weight), 1))) / drawn
        return jax.vmap(jnp.searchsorted)(bounds[:, :-1], at)

    def draw_anchor(self, clip: Clip, key: AnyKey) -> Singles:
        """The anchor under caption 1, twice."""
        latents = jnp.repeat(clip.anchor[:, :, None], 2, axis=2)
        rows = slice(None), slice(1)  # not indices: a mesh would move all captions for them
        return self._singles(latents, clip, rows, key)

    def draw_frames(self, clip: Clip, key: AnyKey) -> Singles:
        """Single latents from the later half of their chunks, where what a caption tells has come about."""
        batch, chunks, length = clip.chunks.shape[:3]
        shape = (batch, self.forcing.frames // FRAMES_A_CAPTION, FRAMES_A_CAPTION)
        chunk = randint(purpose_key(key, "chunk"), shape[:2], 0, chunks)
        latent = randint(purpose_key(key, "latent"), shape, length // 2, length)
        row = jnp.arange(batch)[:, None]
        latents = clip.chunks[row[..., None], chunk[..., None], latent][:, :, :, None]
        return self._singles(latents, clip, (row, chunk), key)

    def _singles(self, latents, clip, rows, key):
        alone = jnp.ones(latents.shape[:2], bool)
        return Singles(latents=latents, text=self._caption(key, clip, rows, alone))

    def singles_velocity(
        self,
        params: Any,
        noisy: Float[Array, "b m k 1 h w z"],
        sigma: Float[Array, "b m k"],
        text: Float[Array, "b m t dt"],
    ) -> Float[Array, "b m k 1 h w z"]:
        """Velocity of single latents without context; k of them share a caption."""
        # k neighbours of the chunk axis share a caption, whose keys and values are then computed once.
        chunks = noisy.reshape(len(noisy), -1, *noisy.shape[3:])
        levels = sigma.reshape(len(sigma), -1)
        return self.forward.velocity(params, chunks, levels, text, None, 0).reshape(noisy.shape)

    def draw_pictures(self, pictures: Pictures, key: AnyKey) -> Singles:
        """Some pictures of each example, each several times."""
        (batch, there), count = pictures.latents.shape[:2], self.forcing.pictures
        order = jnp.argsort(self._draw(key, "which", (batch, there)), axis=1)[:, :count]
        rows = jnp.arange(batch)[:, None], order
        latents = jnp.repeat(pictures.latents[rows][:, :, None, None], NOISES_A_PICTURE, axis=2)
        return Singles(latents=latents, text=self._dropped(key, pictures.text[rows]))

    def _pictures_loss(self, params, pictures, key):
        singles = self.draw_pictures(pictures, key)
        # Each in a part of [0, 1] of its own: the mean over levels varies less.
        u = self._draw(key, "level", singles.latents.shape[:3]) + jnp.arange(NOISES_A_PICTURE)
        sigma = flow.shift_sigma(u / NOISES_A_PICTURE, self.forcing.levels.shift)
        return self._alone_loss(params, singles, key, sigma)

    def _alone_loss(self, params, singles, key, sigma=None):
        """Plain flow matching of single latents, at levels of their own by default."""
        latents = singles.latents
        if sigma is None:
            sigma = draw_sigma(
                purpose_key(key, "sigma"),
                None,
                "fixed",
                latents.shape[:3],
                shift=self.forcing.levels.shift,
            )
        noise = normal(purpose_key(key, "noise"), latents.shape)
        noisy = flow.interpolate(latents, noise, sigma)
        velocity = self.singles_velocity(params, noisy, sigma, singles.text)
        errors = jnp.square(velocity - flow.velocity(latents, noise)).mean(axis=(3, 4, 5, 6))
        return jnp.mean(self._weight(sigma) * errors)

    def _caption(self, key, clip, rows, alone):
        """Captions [b, m, t, dt] of chunks as targets see them: one that stands alone (some `alone`), or none."""
        text = clip.text[rows]
        if self.forcing.standalone:
            instead = self._draw(key, "described", alone.shape) < self.forcing.standalone
            text = jnp.where((alone & instead)[..., None, None], clip.standalone[rows], text)
        return self._dropped(key, text)

    def _dropped(self, key, text):
        """Captions [b, m, t, dt], some of them replaced by the empty one."""
        drop = self._draw(key, "caption", text.shape[:2]) < self.forcing.history.caption_drop
        null = jnp.asarray(self.null_text[: text.shape[2]], text.dtype)
        return jnp.where(drop[..., None, None], null, text)

    def _text_rows(self, text):
        """Text states [b, c, t, dt] without the zeros behind the first `text_rows`; NaN where there are others."""
        rows = self.forcing.text_rows
        if text is None or not 0 < rows < text.shape[2]:
            return text
        return jnp.where(jnp.any(text[:, :, rows:] != 0), jnp.nan, text[:, :, :rows])

    def _sigma(self, key, target, chunks):
        """Levels of the targets [n, m], chunks of videos of `chunks` chunks."""
        config = self.forcing.levels
        levels = config.of_targets(chunks)
        if levels is not None:
            levels = jnp.asarray(levels)[target - 1]
        return draw_sigma(
            key,
            levels,
            "fixed" if levels is None else config.role,
            target.shape,
            mix=config.mix,
            shift=config.shift,
            max_shift=config.max_shift,
        )

    def _weight(self, sigma):
        return level_weight(self.forcing.levels.weighting, sigma, self.model.dit.latent_std)

    def _reference(self, clip, targets):
        """x_cond from the top-l entries, or from the recent ones where none was retrieved.

        A target that is shown no history has none, whatever the captions say.
        """
        retrieved, config = self.model.retrieval.num_retrieved, self.forcing.block
        chunks, history = clip.chunks, targets.history
        if config.cond_source == "semantic":
            kind = jnp.full(targets.ids.shape, number_of("semantic"), jnp.int32)
            history = draw_history(
                jax.random.key(0),  # the rule does not draw
                targets.ids,
                clip.embedding,
                None,
                self.model.retrieval,
                dataclasses.replace(self.forcing.history, entry_drop=0.0),
                kind=kind,
                latents=chunks,
                shot=clip.shot,
            )
            valid = history.valid & ~targets.history.alone[..., None]
            history = history.replace(valid=valid)
        length = chunks.shape[2]
        parts = [
            semantic_reference(
                chunks,
                history.index[..., part],
                history.valid[..., part],
                history.scores[..., part],
                config,
                length,
            )
            for part in (slice(0, retrieved), slice(retrieved, None))
        ]
        (top, has_top), (recent, has_recent) = parts
        if config.fallback == "fm":
            return top, has_top
        return jnp.where(has_top[..., None, None, None, None], top, recent), has_top | has_recent

    def _draw(self, key, purpose, shape):
        return uniform(purpose_key(key, purpose), shape)
