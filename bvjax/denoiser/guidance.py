"""Guidance: the velocity away from that of a null branch, v_null + scale (v - v_null).

Guidance by the caption (`guidance.scale`): the null branch has the null caption and the same context.
Guidance by the memory (`guidance.memory`, 0 is off): where something was retrieved, the null branch
forgets that as well, and the scale is `guidance.memory` instead.  Anchor and recent chunks stay.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from bvjax.config import ModelConfig, RetrievalConfig
from bvjax.diffusion import flow
from bvjax.sharding import Layout

Velocity = Callable[..., Float[Array, "b ..."]]  # (x, sigma) -> v, as the solvers want it


def retrieved(valid: Bool[Array, "*b e"], retrieval: RetrievalConfig) -> Bool[Array, "*b e"]:
    """The semantic group among entries in the order [anchor, where it is one | semantic | recent]."""
    place = jnp.arange(valid.shape[-1]) - (valid.shape[-1] - retrieval.num_recent)
    return valid & (place >= -retrieval.num_retrieved) & (place < 0)


def null_sees(model: ModelConfig, valid: Bool[Array, "*b e"]) -> Bool[Array, "*b e"] | None:
    """Returns which entries of a chunk its null branch sees too; None: all, always."""
    return valid & ~retrieved(valid, model.retrieval) if model.guidance.memory else None


def guidance_scale(model: ModelConfig, valid: Bool[Array, "*b e"]) -> float | Float[Array, "*b"]:
    """The scale for chunks that see these entries: a float where it is the same for all."""
    if not model.guidance.memory:
        return model.guidance.scale
    has_retrieved = retrieved(valid, model.retrieval).any(-1)
    return jnp.where(
        has_retrieved, jnp.float32(model.guidance.memory), jnp.float32(model.guidance.scale)
    )


def guide(conditional: Velocity, null: Velocity, scale: float | Float[Array, "*b"]) -> Velocity:
    """The guided velocity of two branches; at the float 1.0 `null` is not computed.

    Args:
        scale: a float, or an array with leading axes of the sample.
    """
    if isinstance(scale, float) and scale == 1.0:
        return conditional

    def velocity(x, sigma):
        v = conditional(x, sigma)
        return flow.guide(v, null(x, sigma), aligned(scale, v))

    return velocity


def aligned(
    scale: float | Float[Array, "*b"], v: Float[Array, "..."]
) -> float | Float[Array | np.ndarray, "..."]:
    """`scale` as it multiplies `v`."""
    return scale if isinstance(scale, float) else flow.align(scale, v)


def is_paired(model: ModelConfig, layout: Layout) -> bool:
    """Returns whether the two branches are a batch of two, sharded over the mesh axis `data`."""
    return model.guidance.guided and layout.size("data") == 2
