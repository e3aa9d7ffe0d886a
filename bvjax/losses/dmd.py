"""Distribution matching: the video's gradient is the difference of two scores (DMD, Yin et al. 2024).

The *real* score is that of the teacher, which stays as it is; the *fake* score is trained on what the generator makes
at present.  Both predict clean latents, x0 = x_sigma - sigma v, of the same noised video:

  gradient = (fake - real) / mean|x - real|,    the mean over all numbers of one video
  loss     = 1/2 mean (x - sg(x - gradient))^2, whose derivative with respect to x is gradient / size

Guidance of the real score, as the published code writes it (`s` = 3.0 in Self-Forcing, 5.0 in One-Forcing):

  real = cond + s (cond - uncond) = uncond + (1 + s) (cond - uncond)

so that s = 3 is what everywhere else in this package, and in Wan, is a scale of 4 (`ordinary_scale`).
The fake score is not guided.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bvjax.diffusion import flow
from bvjax.errors import UserError
from bvjax.losses.critic_levels import (
    PUBLISHED,
    CriticLevelsConfig,
    draw_levels,
    draw_noise,
    noised,
)
from bvjax.random import AnyKey, purpose_key

# (noised latents, sigma) -> velocity; captions and context are in its closure.
VelocityFn = Callable[[Float[Array, "b ..."], Float[Array, "b"]], Float[Array, "b ..."]]

SELF_FORCING_GUIDANCE = 3.0  # s of the published recipe
LEAST_SCALE = 1e-8  # below it a video equals what the teacher says, and there is nothing to match


def guided_score(
    cond: Float[Array, "b ..."], uncond: Float[Array, "b ..."], s: float
) -> Float[Array, "b ..."]:
    """cond + s (cond - uncond): s = 0 is no guidance, s = 3 is ordinary guidance of scale 4."""
    return cond + s * (cond - uncond)


def ordinary_scale(s: float) -> float:
    """The scale of ordinary guidance, uncond + scale (cond - uncond), that `s` of `guided_score` is: 1 + s."""
    return 1.0 + s


def extra_guidance(scale: float) -> float:
    """The `s` of `guided_score` that a scale of ordinary guidance is: scale - 1."""
    return scale - 1.0


def matching_gradient(
    video: Float[Array, "b ..."], fake: Float[Array, "b ..."], real: Float[Array, "b ..."]
) -> Float[Array, "b ..."]:
    """(fake - real) / mean|video - real|, the mean over each video; what is not finite becomes 0.

    Args:
        video: what the generator made.
        fake: clean latents as the fake score predicts them from the noised video.
        real: the same of the guided real score.
    """
    axes = tuple(range(1, video.ndim))
    scale = jnp.mean(jnp.abs(video - real), axis=axes, keepdims=True)
    gradient = (fake - real) / jnp.maximum(scale, LEAST_SCALE)
    return jax.lax.stop_gradient(jnp.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0))


def matching_loss(
    video: Float[Array, "b ..."], gradient: Float[Array, "b ..."]
) -> Float[Array, ""]:
    """1/2 mean (x - sg(x - gradient))^2 over the batch; its derivative with respect to x is gradient / x.size."""
    return matching_losses(video, gradient).mean()


def matching_losses(
    video: Float[Array, "b ..."], gradient: Float[Array, "b ..."]
) -> Float[Array, "b"]:
    """`matching_loss` of each video."""
    target = jax.lax.stop_gradient(video - gradient)
    return 0.5 * jnp.mean(jnp.square(video - target), axis=tuple(range(1, video.ndim)))


def distribution_matching(
    video: Float[Array, "b ..."],
    key: AnyKey,
    real: VelocityFn,
    null: VelocityFn | None,
    fake: VelocityFn,
    s: float,
    levels: CriticLevelsConfig = PUBLISHED,
) -> tuple[Float[Array, "b ..."], dict[str, Float[Array, ""]]]:
    """The derivative of `matching_loss` with respect to the video, to be pulled back through the generator.

    Nothing of it carries gradient, so the scores' activations are gone before the generator is differentiated.

    Args:
        video: generated latents.
        key: of this update; level and noise are drawn from it.
        real: velocity of the teacher with the captions.
        null: the same with the null branch's condition; may be None where `s` is 0.
        fake: velocity of the fake score.
        s: guidance of the real score, see `guided_score`.
        levels: the rule of levels.

    Returns:
        The gradient, shaped as `video`, and the scalars `dmd_gradient` (mean magnitude before division by the
        size) and `dmd_gap`, the mean of |fake - real|.

    Raises:
        UserError: `s` is not 0 and there is no null branch.
    """
    if s and null is None:
        raise UserError(
            f"the guidance of the real score is {s}; without a null branch it must be 0"
        )
    video = jax.lax.stop_gradient(video)
    sigma = draw_levels(key, len(video), levels)
    x = noised(video, sigma, key)

    def clean(velocity):
        return flow.x0_from_velocity(x, velocity(x, sigma), sigma)

    target = clean(real)
    if s and null is not None:
        target = guided_score(target, clean(null), s)
    prediction = clean(fake)
    gradient = matching_gradient(video, prediction, target)
    metrics = {
        "dmd_gradient": jnp.mean(jnp.abs(gradient)),
        "dmd_gap": jnp.mean(jnp.abs(prediction - target)),
    }
    return gradient / video.size, jax.lax.stop_gradient(metrics)


def fake_score_loss(
    fake: VelocityFn,
    video: Float[Array, "b ..."],
    key: AnyKey,
    levels: CriticLevelsConfig = PUBLISHED,
) -> Float[Array, ""]:
    """Flow matching of the fake score on detached generated videos: mean |v - (eps - x)|^2, all levels alike."""
    video = jax.lax.stop_gradient(video)
    key = purpose_key(key, "fake score")
    sigma, noise = draw_levels(key, len(video), levels), draw_noise(key, video)
    velocity = fake(jnp.asarray(flow.interpolate(video, noise, sigma)), sigma)
    return jnp.mean(jnp.square(velocity - flow.velocity(video, noise)))
