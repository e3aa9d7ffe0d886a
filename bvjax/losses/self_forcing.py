"""Self Forcing (Eq. 1): what critics say of windows that the model has made, as a gradient of the latents.

  L = w_sf L_SF + w_bf L_BF,     L_SF by `objective`: the game of `adversarial`, distribution matching, both or neither

The derivative with respect to the latents comes first (`video_gradient`), and `SelfRollout.pull_back` takes it through
the generator: the activations of critics and those of the generator never live together.  Critics are trained on
windows as constants (`discriminator_loss`, `fake_score_loss`).

A video's anchor, one latent long, is judged by itself beside its window; only one that was made with the window
carries gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bvjax.config import GuidanceConfig, ModelConfig
from bvjax.errors import UserError
from bvjax.losses import adversarial, dmd
from bvjax.losses.adversarial import AdversarialConfig
from bvjax.losses.clip import Clip
from bvjax.losses.critic_levels import CriticLevelsConfig, draw_levels, noised
from bvjax.losses.self_rollout import Window
from bvjax.losses.window_scores import WindowScores
from bvjax.nets import discriminator
from bvjax.nets.discriminator import DiscriminatorConfig
from bvjax.random import AnyKey, purpose_key
from bvjax.sharding import ONE_DEVICE, Layout

OBJECTIVES = ("gan", "dmd", "gan+dmd", "none")
Metrics = dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class SelfForcingConfig:
    """The parts of an update of Self Forcing, and how often each network has its turn."""

    window: int = 3  # chunks that carry gradient
    objective: str = "gan"  # gan | dmd | gan+dmd | none
    w_sf: float = 1.0  # weight of the objective, L_SF
    w_bf: float = 1.0  # weight of Block Forcing on encoded examples, L_BF
    # Rollouts go on over updates to the end of their story; off: each update begins new ones.
    live: bool = True
    anchor_weight: float = 1.0  # of what is said of the anchor, beside the window
    dmd_weight: float = 1.0
    # Guidance of the real score, as guidance.scale and guidance.memory are in generation.
    teacher_scale: float = 4.0
    teacher_memory: float = 0.0
    critic_updates: int = 5  # for one of the generator
    warmup_updates: int = 0  # of the discriminator's heads alone, before anything is asked of them
    ema_start: int = 200  # updates of the generator before its moving average begins

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            raise UserError(
                f"self_forcing.objective is {self.objective!r}; it can be {', '.join(OBJECTIVES)}"
            )
        for name in ("window", "critic_updates"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"self_forcing.{name} is {getattr(self, name)}; it must be 1 or more"
                )
        for name in (
            "w_sf", "w_bf", "anchor_weight", "dmd_weight", "teacher_scale", "teacher_memory",
            "warmup_updates", "ema_start",
        ):  # fmt: skip
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(
                    f"self_forcing.{name} is {getattr(self, name)}; it must be 0 or more"
                )
        if not (self.w_bf or (self.w_sf and self.objective != "none")):
            raise UserError(
                f"self_forcing.w_sf is {self.w_sf}, w_bf {self.w_bf} and the objective {self.objective!r}; nothing "
                "is left to train with"
            )

    @property
    def plays(self) -> bool:
        """Whether there is a discriminator."""
        return "gan" in self.objective

    @property
    def matches(self) -> bool:
        """Whether there are a real and a fake score."""
        return "dmd" in self.objective

    @property
    def critics(self) -> tuple[str, ...]:
        """The networks that are trained beside the generator."""
        return ("discriminator",) * self.plays + ("fake_score",) * self.matches


@dataclasses.dataclass(frozen=True)
class SelfForcing:
    """The critics of a generator's windows.  Batches of windows have a leading axis of videos on every field."""

    model: ModelConfig
    config: SelfForcingConfig
    adversarial: AdversarialConfig
    levels: CriticLevelsConfig
    critic: DiscriminatorConfig
    null_text: Any  # float32 [t, dt]
    layout: Layout = ONE_DEVICE

    def __post_init__(self):
        """Raises `UserError` for a discriminator that the generator's network cannot be."""
        if self.config.plays:
            discriminator.trunk_config(self.critic, self.model.dit)

    # ---- generator -----------------------------------------------------------------------------
    def video_gradient(
        self, critics: Mapping[str, Any], windows: Window, key: AnyKey
    ) -> tuple[Float[Array, "b n l h w z"], Float[Array, "b 1 h w z"], Metrics]:
        """The derivative of L_SF with respect to the windows' latents and to their anchors, and scalars of it.

        Args:
            critics: parameters of the `discriminator`, or of the `fake_score` and the `teacher`.
            windows: of a batch of videos; the loss is the mean over them.
            key: of this update.
        """
        pieces = self._pieces(windows)
        gradients = {name: jnp.zeros_like(piece.fake) for name, piece in pieces.items()}
        metrics: Metrics = {"sf_loss": jnp.zeros(())}
        fresh = windows.anchor.fresh.astype(jnp.float32)
        weights = {"window": jnp.ones_like(fresh), "anchor": self.config.anchor_weight * fresh}
        for name, piece in pieces.items():
            key_of_piece, prefix = purpose_key(key, name), "" if name == "window" else f"{name}_"
            if self.config.plays:
                gradient, values = self._game(critics["discriminator"], piece, key_of_piece)
                gradients[name] += gradient
                metrics[f"{prefix}gan"] = values.mean()
                weighted = jnp.mean(weights[name] * values)
                metrics["sf_loss"] += self.adversarial.generator_weight * weighted
            if self.config.matches:
                gradient, of_match = dmd.distribution_matching(
                    piece.fake,
                    key_of_piece,
                    self._score(self._guided, critics["teacher"], name, piece, key_of_piece),
                    None,
                    self._score(self._unguided, critics["fake_score"], name, piece, key_of_piece),
                    0.0,
                    self.levels,
                )
                gradients[name] += self.config.dmd_weight * gradient
                values = dmd.matching_losses(piece.fake, gradient * gradient.size)
                metrics["sf_loss"] += self.config.dmd_weight * jnp.mean(weights[name] * values)
                metrics |= {f"{prefix}{n}": value for n, value in of_match.items()}
        fresh = fresh[:, None, None, None, None]
        anchor = self.config.anchor_weight * fresh * gradients["anchor"][:, 0]
        return gradients["window"], anchor, metrics

    def _game(self, params, piece, key):
        """The derivative of the generator's loss, and each video's, with noise of their own for real and generated ones."""
        sigma = draw_levels(key, len(piece.fake), self.levels)
        judge = lambda x: self._logits(params, x, sigma, piece.text)
        real = None
        if self.adversarial.kind == "relativistic":
            real = judge(noised(piece.real, sigma, purpose_key(key, "real")))

        def loss(fake):
            logits = judge(noised(fake, sigma, key))
            losses = adversarial.generator_losses(self.adversarial.kind, logits, real)
            return losses.mean(), losses

        gradient, losses = jax.grad(loss, has_aux=True)(piece.fake)
        return self.adversarial.generator_weight * gradient, losses

    # ---- critics -------------------------------------------------------------------------------
    def discriminator_loss(
        self, params: Any, windows: Window, key: AnyKey
    ) -> tuple[Float[Array, ""], Metrics]:
        """The discriminator's loss on windows, with its penalties, and scalars of it."""
        total = jnp.zeros(())
        metrics: Metrics = {}
        for name, piece in self._pieces(windows).items():
            key_of_piece = purpose_key(key, name)
            sigma = draw_levels(key_of_piece, len(piece.fake), self.levels)
            # As published: real and generated videos share the noise here.
            real, fake = (noised(x, sigma, key_of_piece) for x in (piece.real, piece.fake))
            views = adversarial.critic_views(self.adversarial, real, fake, key_of_piece)
            judge = lambda x, sigma=sigma, text=piece.text: self._logits(params, x, sigma, text)
            # One view after the other, by one program of them all.
            logits = jax.lax.map(judge, jnp.stack([*views.values()]))
            loss, values = adversarial.critic_loss(
                self.adversarial, dict(zip(views, logits, strict=True))
            )
            weight = 1.0 if name == "window" else self.config.anchor_weight
            total += weight * loss
            prefix = "" if name == "window" else f"{name}_"
            metrics |= {f"{prefix}{n}": value for n, value in values.items()}
        return total, metrics

    def fake_score_loss(
        self, params: Any, windows: Window, key: AnyKey
    ) -> tuple[Float[Array, ""], Metrics]:
        """Flow matching of the fake score on windows and anchors as they are."""
        metrics: Metrics = {}
        for name, piece in self._pieces(windows).items():
            key_of_piece = purpose_key(key, name)
            velocity = self._score(self._unguided, params, name, piece, key_of_piece)
            metrics[name] = dmd.fake_score_loss(velocity, piece.fake, key_of_piece, self.levels)
        return metrics["window"] + self.config.anchor_weight * metrics["anchor"], metrics

    # ---- parts ---------------------------------------------------------------------------------
    def _pieces(self, windows: Window) -> dict[str, _Piece]:
        """Windows and anchors, both with an axis of chunks."""
        anchor = windows.anchor
        clip = Clip(
            anchor=anchor.latents[:, None],
            chunks=windows.latents,
            text=windows.text.astype(jnp.float32),
            embedding=windows.embedding.astype(jnp.float32),
        )
        first = anchor.text[:, None].astype(jnp.float32)
        return {
            "window": _Piece(windows.latents, windows.real, clip.text, clip),
            "anchor": _Piece(anchor.latents[:, None], anchor.real[:, None], first, clip),
        }

    def _score(self, model, params, name, piece, key) -> dmd.VelocityFn:
        """The velocity of windows, or of anchors, by the network with these parameters."""
        scores = WindowScores(model, self.null_text, self.layout)
        if name == "window":
            return scores.of_window(params, piece.clip, key)
        return scores.of_anchor(params, piece.text)

    def _logits(self, params, x, sigma, text):
        return discriminator.logits(
            params, self.critic, self.model, x, sigma, text, layout=self.layout
        )

    @property
    def _guided(self) -> ModelConfig:
        """The model of the real score."""
        config = self.config
        rule = GuidanceConfig(scale=config.teacher_scale, memory=config.teacher_memory)
        return dataclasses.replace(self.model, guidance=rule)

    @property
    def _unguided(self) -> ModelConfig:
        return dataclasses.replace(self.model, guidance=GuidanceConfig(scale=1.0))


@dataclasses.dataclass(frozen=True)
class _Piece:
    """Latents [b, n, l, h, w, z] to judge, and captions [b, n, t, d]."""

    fake: Array
    real: Array
    text: Array
    clip: Clip  # of the window
