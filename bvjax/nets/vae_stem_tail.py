"""Convolutions on pixels, before the VAE's fold and behind its unfold: what keeps edges sharp.

A VAE that folds `patch` x `patch` pixels into channels sees no edge as such. The stem looks at the frames at a
half or full resolution and adds what it found to the folded pixels' first features; the tail takes the
decoder's features and its picture back to that resolution and corrects the picture. Both are made of 2-D
convolutions of single frames, so that they are causal, need no memory and keep streaming exact; both end in
a convolution that starts as zero, so that a network begins as it would without them.
"""

from __future__ import annotations

from flax import linen as nn
from jaxtyping import Array, Float

from bvjax.config import VAEConfig
from bvjax.nets import vae_layers as layers
from bvjax.nets.vae_values import fold_patches, unfold_patches

# Of what the stages add: their features are of size 1, and large steps of the optimizer shall not upset a
# picture in [-1, 1], nor features that are a few times that.
STEM_SCALE, TAIL_SCALE = 0.3, 0.1
FLAT, POINT = (1, 3, 3), (1, 1, 1)  # kernels: within a frame, and of one position


class Stem(nn.Module):
    """Frames to what is added to the encoder's first features, `config.dim` wide."""

    config: VAEConfig

    @nn.compact
    def __call__(
        self, frames: Float[Array, "b f h w 3"], features: int
    ) -> Float[Array, "b f hp wp features"]:
        config = self.config
        x = fold_patches(frames, config.stem_patch)
        x = _blocks(_conv(config, config.stem_dim, "conv1")(x), config.stem_blocks, config)
        x = fold_patches(x, config.patch // config.stem_patch)
        return STEM_SCALE * _conv(config, features, "head_2", POINT)(x)


class Tail(nn.Module):
    """The decoder's last features and its picture to what is added to that picture."""

    config: VAEConfig

    @nn.compact
    def __call__(
        self, features: Float[Array, "b f hp wp c"], picture: Float[Array, "b f h w 3"]
    ) -> Float[Array, "b f h w 3"]:
        config = self.config
        times = config.patch // config.stem_patch
        x = unfold_patches(
            _conv(config, config.tail_dim * times**2, "spread", POINT)(features), times
        )
        x += _conv(config, config.tail_dim, "conv1")(fold_patches(picture, config.stem_patch))
        x = _blocks(x, config.tail_blocks, config)
        x = TAIL_SCALE * _conv(config, 3 * config.stem_patch**2, "head_2")(x)
        return unfold_patches(x, config.stem_patch)


def _blocks(x: Array, count: int, config: VAEConfig) -> Array:
    """Residual blocks, then norm and SiLU; called inside a compact module."""
    for k in range(count):
        block = layers.ResidualBlock(
            x.shape[-1], dtype=config.dtype, kernel_size=FLAT, name=f"blocks_{k}"
        )
        x, _ = block(x, None, True)
    return layers.RMSNorm(silu=True, name="head_0")(x)


def _conv(config: VAEConfig, features: int, name: str, kernel_size: tuple[int, int, int] = FLAT):
    conv = layers.CausalConv3d(features, kernel_size, dtype=config.dtype, name=name)
    return lambda x: conv(x, None, True)[0]  # nothing to remember: one frame at a time
