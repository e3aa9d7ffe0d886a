"""A look at a chunk while it is denoised: what each step predicts, as colours, handed to the host.

A latent pixel is, nearly, a colour: an affine map of its channels gives the mean colour of the pixels that it decodes
to (`bvjax.generate.preview` fits it).  Applied to the x0 that a step predicts (Eq. 4) it shows what comes, for the price
of a product of matrices.  A small decoder (`nets.tiny_decoder`) in place of the map shows the middle of a chunk
sharper, for a price that is still small beside that of a step.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, UInt8

from bvjax.nets import tiny_decoder


@struct.dataclass
class Watch:
    """Maps from latents to colours in [-1, 1], the last row being the offset, or a decoder, and who is told.

    `tell` gets (chunk id, step from 0 on, uint8 [l, h, w, 3]), in a thread of the runtime, and not always in order; it
    is part of the program: another one compiles it again.
    """

    first: Float[Array, "z1 3"] | None  # of the first latent of a video, which is one frame
    later: Float[Array, "z1 3"] | None
    tell: Callable[[Array, Array, Array], None] = struct.field(pytree_node=False)
    decoder: tiny_decoder.Tensors | None = None  # in place of the maps


def colours(x0: Float[Array, "l h w z"], matrix: Float[Array, "z1 3"]) -> UInt8[Array, "l h w 3"]:
    """The pictures that latents hold, a pixel for each latent pixel."""
    rgb = jnp.einsum("lhwz,zc->lhwc", x0.astype(jnp.float32), matrix[:-1]) + matrix[-1]
    return jnp.clip(jnp.round((rgb + 1.0) * 127.5), 0, 255).astype(jnp.uint8)


def decoded(
    x0: Float[Array, "l h w z"], decoder: tiny_decoder.Tensors
) -> UInt8[Array, "1 h2 w2 3"]:
    """The picture of the middle of latents."""
    picture = tiny_decoder.still(decoder, x0[: len(x0) // 2 + 1])
    return jnp.round(255.0 * picture).astype(jnp.uint8)[None]


def looker(
    watch: Watch | None, chunk_id: Int[Array, ""], anchor: bool = False
) -> Callable[[Int[Array, ""], Float[Array, "1 l h w z"]], None] | None:
    """The function that `solvers.solve` calls with each step and the x0 that it predicts; None where nobody watches."""
    if watch is None:
        return None
    matrix, decoder = watch.first if anchor else watch.later, watch.decoder

    def look(step, x0):
        shown = colours(x0[0], matrix) if decoder is None else decoded(x0[0], decoder)
        jax.debug.callback(watch.tell, chunk_id, step, shown)

    return look
