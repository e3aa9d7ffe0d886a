"""The scale of each channel of the latents: as large as what it does to the pixels.

Latents of variance 1 in every channel make all details equally loud.  At a medium sigma a diffusion model then
decides shapes and textures together, and a small one gets both wrong: its blocks do not fit each other.  Scaled by
their effect on pixels, weak channels vanish in the noise until sigma is low, so that shapes are decided before
details, as in pixel space, and details that the model cannot know come out as their mean: soft, not broken.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bvjax.config import VAEConfig
from bvjax.nets import vae

STEP = 0.5  # of the perturbation, in standard deviations of the channel
FLOOR = 1e-3  # of a channel that the decoder ignores


def pixel_scale(
    params: Any, config: VAEConfig, frames: Float[Array, "b f h w 3"], key: Array
) -> tuple[float, ...]:
    """Change of the pixels by white noise in one channel, relative to the strongest channel's; in (0, 1].

    The noise has STEP standard deviations of that channel (`config.latent_std`), the change is the root mean
    square over the later half of the clips in [-1, 1] (see `VAEObjective` for why).
    """
    mu, _ = jax.jit(vae.encode_moments, static_argnums=1)(params, config, frames)
    still = _decode(params, config, mu)
    half = still.shape[1] // 2
    effect = []
    for channel, std in enumerate(config.latent_std):
        noise = jax.random.normal(jax.random.fold_in(key, channel), mu.shape[:-1])
        moved = _decode(params, config, mu.at[..., channel].add(STEP * std * noise))
        effect.append(float(jnp.sqrt(jnp.mean(jnp.square(moved - still)[:, half:]))))
    return tuple(max(round(x / max(effect), 4), FLOOR) for x in effect)


@functools.partial(jax.jit, static_argnums=1)
def _decode(params, config, mu):
    return vae.decode_raw(params, config, mu)
