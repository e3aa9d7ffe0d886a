"""The last latent before a chunk, as the DiT is told it (`dit.previous_latent`).

A chunk goes on from the one before it, so its first latents look much like that one's last.  Attention can learn to
copy them, at the price of many updates; a small model that is told them need not.  They enter twice: as an embedding
that is added to the tokens of all frames, and as the mean of the linear guess of the velocity (`dit.add_linear_guess`),
which then starts from r^d times the latent, d frames later, where r is the correlation of neighbouring latents.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import struct
from jaxtyping import Array, Bool, Float


@struct.dataclass
class PreviousLatent:
    """The last latent before each chunk, and whether there is one."""

    latent: Float[Array, "b c h w z"]
    known: Bool[Array, "b c"]

    @classmethod
    def none(cls, chunks: Float[Array, "b c l h w z"]) -> PreviousLatent:
        """No chunk has one."""
        return cls(jnp.zeros_like(chunks[:, :, 0]), jnp.zeros(chunks.shape[:2], bool))

    def values(self) -> Float[Array, "b c h w z"]:
        """The latents, zeros where there is none."""
        return jnp.where(self.known[..., None, None, None], self.latent, 0.0)

    def patches(self, patch: tuple[int, int, int]) -> Float[Array, "b c n f"]:
        """The latents cut as the network cuts those of a chunk, (h w) by (z ph pw)."""
        _, ph, pw = patch
        return rearrange(self.values(), "b c (h ph) (w pw) z -> b c (h w) (z ph pw)", ph=ph, pw=pw)


def to_all_frames(tokens: Float[Array, "b c n d"], frames: int) -> Float[Array, "b c ln d"]:
    """Tokens of one frame, repeated for each frame of a chunk."""
    return jnp.tile(tokens, (1, 1, frames, 1))


def explained(
    previous: PreviousLatent | None, correlation: tuple[float, ...], frames: int
) -> tuple[Float[Array, "b c l h w z"] | float, Float[Array, "b c l 1 1 z"] | float]:
    """The mean of the frames after a latent, and the share of their variance that the latent explains.

    With latents that follow an autoregression of first order in each channel, x_d = r x_{d-1} + noise, the mean of
    the d-th is r^d x_0 and the share r^(2 d).
    """
    if previous is None or not correlation:
        return 0.0, 0.0
    later = np.arange(1, frames + 1)[:, None, None, None]
    factor = jnp.asarray(np.array(correlation) ** later, jnp.float32)  # [l, 1, 1, z]
    share = jnp.where(previous.known[..., None, None, None, None], jnp.square(factor), 0.0)
    return factor * previous.values()[:, :, None], share
