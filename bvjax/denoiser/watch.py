"""A look at a chunk while it is denoised: what each step predicts, as colours, handed to the host.

A latent pixel is, nearly, a colour: an affine map of its channels gives the mean colour of the pixels that it decodes
to (`bvjax.generate.preview` fits it).  Applied to the x0 that a step predicts (Eq. 4) it shows what comes, for the price
of a product of matrices.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, UInt8


@struct.dataclass
class Watch:
    """Maps from latents to colours in [-1, 1], the last row being the offset, and who is told.

    `tell` gets (chunk id, step from 0 on, uint8 [l, h, w, 3]), in a thread of the runtime, and not always in order; it
    is part of the program: another one compiles it again.
    """

    first: Float[Array, "z1 3"]  # of the first latent of a video, which is one frame
    later: Float[Array, "z1 3"]
    tell: Callable[[Array, Array, Array], None] = struct.field(pytree_node=False)


def colours(x0: Float[Array, "l h w z"], matrix: Float[Array, "z1 3"]) -> UInt8[Array, "l h w 3"]:
    """The pictures that latents hold, a pixel for each latent pixel."""
    rgb = jnp.einsum("lhwz,zc->lhwc", x0.astype(jnp.float32), matrix[:-1]) + matrix[-1]
    return jnp.clip(jnp.round((rgb + 1.0) * 127.5), 0, 255).astype(jnp.uint8)


def looker(
    watch: Watch | None, chunk_id: Int[Array, ""], anchor: bool = False
) -> Callable[[Int[Array, ""], Float[Array, "1 l h w z"]], None] | None:
    """The function that `solvers.solve` calls with each step and the x0 that it predicts; None where nobody watches."""
    if watch is None:
        return None
    matrix = watch.first if anchor else watch.later

    def look(step, x0):
        jax.debug.callback(watch.tell, chunk_id, step, colours(x0[0], matrix))

    return look
