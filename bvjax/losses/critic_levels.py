"""Levels and noise under which critics see videos: a discriminator, and the scores of distribution matching.

Real and generated latents are noised to the same level before anything judges them, one level a video.  The published
rule (Self-Forcing, and LongLive and One-Forcing after it): t uniform among the 1000 whole timesteps, shifted by 5,
clamped to [20, 980].  The exit step of the rollout does not bound it.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bvjax.diffusion import flow
from bvjax.diffusion.noise import gaussian
from bvjax.errors import UserError
from bvjax.random import AnyKey, keys_of, purpose_key

TIMESTEPS = 1000  # t = 1000 sigma


@dataclasses.dataclass(frozen=True)
class CriticLevelsConfig:
    """The rule of levels; the defaults are the published ones."""

    shift: float = 5.0  # 1 = uniform
    least: float = 0.02  # sigma below which nothing is judged
    most: float = 0.98

    def __post_init__(self):
        if not 0.01 <= self.shift <= 100.0:
            raise UserError(f"critic_levels.shift is {self.shift}; it must be 0.01 to 100")
        if not 0.0 < self.least < self.most <= 1.0:
            raise UserError(
                f"critic_levels.least is {self.least} and critic_levels.most {self.most}; they must satisfy "
                "0 < least < most <= 1"
            )


PUBLISHED = CriticLevelsConfig()


def draw_levels(
    key: AnyKey, batch: int, config: CriticLevelsConfig = PUBLISHED
) -> Float[Array, "b"]:
    """A level sigma for each video: s u / (1 + (s - 1) u) of u = 0, 1, ..., 999 / 1000, clamped.

    Row b depends on (key, b) only.
    """
    rows = jax.vmap(lambda own: jax.random.randint(own, (), 0, TIMESTEPS))(
        keys_of(purpose_key(key, "critic level"), batch)
    )
    u = rows.astype(jnp.float32) / TIMESTEPS
    return jnp.clip(flow.shift_sigma(u, config.shift), config.least, config.most)


def draw_noise(key: AnyKey, like: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """Standard normal noise for videos shaped as `like`; row b depends on (key, b) only.

    As published, real and generated videos share it in an update of the critic (one key for both), and have
    noise of their own (two keys) in an update of the generator.
    """
    return gaussian(purpose_key(key, "critic noise"), like.shape[0], like.shape[1:])


def noised(
    latents: Float[Array, "b ..."], sigma: Float[Array, "b"], key: AnyKey
) -> Float[Array, "b ..."]:
    """Latents as a critic sees them: (1 - sigma) x + sigma eps, with `draw_noise` of the key."""
    return jnp.asarray(flow.interpolate(latents, draw_noise(key, latents), sigma))
