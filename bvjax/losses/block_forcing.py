"""Block Forcing (paper section 3.3, Eq. 5): velocity matching towards a target that is pulled to the history.

Every reading of Eq. 5 is one formula with two weights, target velocity = eps - (w_start x_start + w_cond x_cond):

  fm        (1, 0)            plain flow matching, Eq. 3
  literal   (0, gamma)        Eq. 5 as printed; it has no x_start at all
  blend     (1 - gamma, gamma)  the default: reconstruct the chunk, leaning towards its history
  blend_path  the same, and the noisy chunk is on the path from noise to that blend (`path_end`)
  two_term  |v - (eps - x_start)|^2 + lam |v - (eps - gamma x_cond)|^2, "two complementary parts"

A chunk without history is always trained by plain flow matching.

Sampling with `blend` (and in the same way with `literal`): the target pulls velocities, not the path.  x_sigma still
interpolates between x_start and noise, so a perfect network gives v = eps - x_start + gamma (x_start - x_cond) at every
level, and a step from sigma to sigma' moves the sample's data end by (sigma - sigma') gamma (x_cond - x_start).  But at
the next level the network knows x_start from x_sigma' anew: what was moved before is seen as noise and taken away.  An
exact solver therefore ends at x_start whatever gamma is; with n steps only the last leaves something, about gamma times
the last level above 0.  Gamma is a pull on training, not a share of history in the result.  With `blend_path` the path
itself ends in the blend, and so does sampling.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bvjax.errors import UserError

TARGETS = ("blend", "blend_path", "literal", "two_term", "fm")
COND_SOURCES = ("semantic", "shown")
COND_WEIGHTS = ("mean", "similarity")
FALLBACKS = ("recent", "fm")


@dataclasses.dataclass(frozen=True)
class BlockForcingConfig:
    """The reading of Eq. 5, and the sources of x_cond."""

    target: str = "blend"
    gamma: float = 0.1  # weight of the history; the paper gives no value
    lam: float = 0.1  # two_term only: weight of the second term
    cond_weights: str = "mean"  # mean | similarity: how the top-l chunks are averaged
    cond_temperature: float = (
        1.0  # of the softmax of similarities; raw cosines at 1 are almost uniform
    )
    # semantic | shown: the top-l chunks of Eq. 8 whatever the target was shown, or those that it was shown
    cond_source: str = "semantic"
    fallback: str = "recent"  # recent | fm: what stands in when no top-l chunk exists

    def __post_init__(self):
        for name, value, legal in (
            ("target", self.target, TARGETS),
            ("cond_weights", self.cond_weights, COND_WEIGHTS),
            ("cond_source", self.cond_source, COND_SOURCES),
            ("fallback", self.fallback, FALLBACKS),
        ):
            if value not in legal:
                raise UserError(f"block_forcing.{name} is {value!r}; it can be {', '.join(legal)}")
        if not 0.0 <= self.gamma <= 1.0:
            raise UserError(f"block_forcing.gamma is {self.gamma}; it must lie in [0, 1]")
        if not 0.0 < self.cond_temperature < math.inf:
            raise UserError(
                f"block_forcing.cond_temperature is {self.cond_temperature}; it must be a number above 0"
            )


def resample_time(
    latents: Float[Array, "*b l_in h w z"], length: int
) -> Float[Array, "*b l_out h w z"]:
    """Linear resampling along time with half-pixel centres ("resampled to match the temporal length")."""
    if latents.shape[-4] == length:
        return latents
    shape = (*latents.shape[:-4], length, *latents.shape[-3:])
    return jax.image.resize(latents, shape, "linear", antialias=False)


def semantic_reference(
    sources: Float[Array, "b c l h w z"],
    index: Int[Array, "b m e"],
    valid: Bool[Array, "b m e"],
    scores: Float[Array, "b m e"],
    config: BlockForcingConfig,
    length: int,
) -> tuple[Float[Array, "b m l h w z"], Bool[Array, "b m"]]:
    """x_cond: the average of the retrieved past clean chunks, and whether there was any.

    `scores` are the retrieval similarities of the entries; with cond_weights="similarity" their softmax over
    the valid ones, divided by `cond_temperature`, weighs the average.  No gradient flows into the history.
    """
    logits = (
        jnp.zeros_like(scores)
        if config.cond_weights == "mean"
        else scores / config.cond_temperature
    )
    # A large negative number, not -inf: a row without any valid entry must give zeros, not NaN.
    weights = jnp.where(valid, jax.nn.softmax(jnp.where(valid, logits, -1e9), axis=-1), 0.0)
    one_hot = jax.nn.one_hot(index, sources.shape[1], dtype=sources.dtype)
    per_source = jnp.einsum("bme,bmec->bmc", weights, one_hot)
    reference = jnp.einsum("bmc,bclhwz->bmlhwz", per_source, resample_time(sources, length))
    return jax.lax.stop_gradient(reference), jnp.any(valid, axis=-1)


def path_end(
    x_start: Float[Array, "b m l h w z"],
    x_cond: Float[Array, "b m l h w z"],
    has_history: Bool[Array, "b m"],
    config: BlockForcingConfig,
) -> Float[Array, "b m l h w z"]:
    """The data end of the path that noisy chunks are on: x_start, or with `blend_path` the blend, where there is history."""
    if config.target != "blend_path":
        return x_start
    blend = (1.0 - config.gamma) * x_start + config.gamma * x_cond
    return jnp.where(has_history[..., None, None, None, None], blend, x_start)


def block_forcing_loss(
    velocity: Float[Array, "b m l h w z"],
    noise: Float[Array, "b m l h w z"],
    x_start: Float[Array, "b m l h w z"],
    x_cond: Float[Array, "b m l h w z"],
    has_history: Bool[Array, "b m"],
    config: BlockForcingConfig,
) -> Float[Array, "b m"]:
    """Eq. 5, averaged over each chunk; chunks without history get the flow-matching loss (Eq. 3)."""

    def squared_error(w_start, w_cond):
        target = noise - (w_start * x_start + w_cond * x_cond)
        return jnp.mean(jnp.square(velocity - target), axis=(2, 3, 4, 5))

    plain = squared_error(1.0, 0.0)
    if config.target == "fm":
        return plain
    if config.target == "literal":
        pulled = squared_error(0.0, config.gamma)
    elif config.target in ("blend", "blend_path"):
        pulled = squared_error(1.0 - config.gamma, config.gamma)
    else:
        pulled = plain + config.lam * squared_error(0.0, config.gamma)
    return jnp.where(has_history, pulled, plain)
