"""A VAE that starts as the best linear code of its data instead of as noise.

A causal VAE whose spatial halvings are all folded into channels (`vae.patch`) has a straight path from
pixels to latents and back: first convolution, temporal halvings, last convolution, with residual branches
beside it.  `linear_start` writes a principal-component code into that path, from a few clips, and leaves
the branches next to silent.  Training then begins at the quality that the path alone can give and learns the rest;
from random weights it spends most of a small budget on finding this code.

The straight path carries one channel of a constant.  It dominates the norm before the last convolution, so
that this norm is nearly a constant factor, and a small gain there keeps SiLU nearly linear.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bvjax.config import VAEConfig
from bvjax.errors import UserError
from bvjax.nets.vae import BRANCH_ENDS, fold_patches, init_params

Params = Any
# The constant channel; the features of a bright patch have a norm of 10. With 20 and a gain of 0.25 SiLU and
# the norm bend a code so much that bright and dark pictures start at 12 dB, with these all at 24 to 26.
CONSTANT = 40.0
GAIN = 0.05  # of the norm before SiLU
LOG_VARIANCE = -6.0  # of the latents, at the start
BRANCH = 0.1  # residual branches, as a share of what `init_params` gives them


@dataclasses.dataclass(frozen=True)
class Halving:
    """One temporal halving as a Haar step with as many channels out as in.

    Channel j of the pair (a, b) has a mean (a_j + b_j) / 2 and a difference (a_j - b_j) / 2. The half of
    all these with most variance is kept: means in their own channel, differences in the channels of the
    means that are not kept. So a frame that bypasses the halving means the same in all kept channels.
    """

    mean_kept: Bool[np.ndarray, "c"]
    difference: Int[np.ndarray, "c"]  # channel whose difference lies here, -1 where a mean lies

    def encode_matrices(self) -> tuple[Float[np.ndarray, "c c"], Float[np.ndarray, "c c"]]:
        """[in, out] of the frames a and b."""
        keep = np.diag(self.mean_kept * 0.5)
        swap = np.zeros_like(keep)
        for out, source in enumerate(self.difference):
            if source >= 0:
                swap[source, out] = 0.5
        return keep + swap, keep - swap

    def decode_matrices(self) -> tuple[Float[np.ndarray, "c c"], Float[np.ndarray, "c c"]]:
        """[in, out] to the frames a and b; what was not kept comes back as its mean, 0."""
        first, second = self.encode_matrices()
        return 2 * first.T, 2 * second.T


def linear_start(config: VAEConfig, frames: Float[Array, "b f h w 3"], key: jax.Array) -> Params:
    """Parameters whose straight path is a principal-component code of `frames`, in [-1, 1].

    Args:
        config: a VAE of one width that halves nothing in space but by `patch`.
        frames: clips of 1 + 4k frames; some hundreds of thousands of patches are plenty.
        key: of what stays random, the insides of the residual branches.

    Raises:
        UserError: a VAE whose straight path is not linear, or too few frames.
    """
    if any(config.spatial_downsample) or len(set(config.dim_mult)) > 1:
        raise UserError(
            "vae.linear_start needs a VAE with vae.spatial_downsample all False (vae.patch instead) "
            f"and one width, not {config.spatial_downsample} and vae.dim_mult {config.dim_mult}"
        )
    width = config.dim * config.dim_mult[0] - 1  # one channel is the constant
    pixels = np.asarray(fold_patches(jnp.asarray(frames), config.patch), np.float64)
    pixels = (
        pixels[:, 1:].transpose(0, 2, 3, 1, 4).reshape(-1, frames.shape[1] - 1, pixels.shape[-1])
    )
    if (
        pixels.shape[1] % config.temporal_factor
        or pixels.shape[0] * pixels.shape[1] < 20 * pixels.shape[2]
    ):
        raise UserError(f"vae.linear_start cannot fit a code to frames of shape {frames.shape}")
    mean = pixels.mean(axis=(0, 1))
    basis = _principal(pixels - mean, width)
    features = (pixels - mean) @ basis
    norms, halvings = [_norm(features)], []
    for halved in config.temporal_downsample:
        if halved:
            halving = _fit_halving(features)
            first, second = halving.encode_matrices()
            features = features[:, 0::2] @ first + features[:, 1::2] @ second
            halvings.append(halving)
    norms.append(_norm(features))
    code = _principal(features, config.z_dim)
    scale = (features @ code).reshape(-1, config.z_dim).std(axis=0)
    return _write(init_params(config, key), config, mean, basis, halvings, code, scale, norms)


def _norm(features: Float[np.ndarray, "n f c"]) -> float:
    """Typical norm of a feature vector with the constant channel."""
    return float(np.sqrt(CONSTANT**2 + np.square(features).sum(-1).mean()))


def _principal(x: Float[np.ndarray, "n f c"], count: int) -> Float[np.ndarray, "c count"]:
    """The `count` orthonormal directions of most variance around 0, the largest first."""
    flat = x.reshape(-1, x.shape[-1])
    _, vectors = np.linalg.eigh(flat.T @ flat)
    return vectors[:, ::-1][:, :count]


def _fit_halving(features: Float[np.ndarray, "n f c"]) -> Halving:
    a, b = features[:, 0::2], features[:, 1::2]
    variance = np.concatenate([np.square((a + s * b) / 2).mean(axis=(0, 1)) for s in (1, -1)])
    width = features.shape[-1]
    kept = np.zeros(2 * width, bool)
    kept[np.argsort(-variance)[:width]] = True
    mean_kept, differences = kept[:width], np.flatnonzero(kept[width:])
    difference = np.full(width, -1)
    difference[~mean_kept] = differences
    return Halving(mean_kept, difference)


def _write(params, config, mean, basis, halvings, code, scale, norms) -> Params:
    """Writes the straight path into freshly drawn parameters."""
    width = config.dim * config.dim_mult[0]
    last = width - 1

    def padded(matrix):
        """[in, out] of the features with the constant channel passed on."""
        out = np.zeros((width, width))
        out[:last, :last] = matrix
        out[last, last] = 1.0
        return out

    def centre(like, matrix, bias=None):
        kernel = np.zeros(like["kernel"].shape)
        kernel[-1, kernel.shape[1] // 2, kernel.shape[2] // 2] = matrix
        return _leaf(kernel, np.zeros(kernel.shape[-1]) if bias is None else bias)

    def head(norm, matrix):
        """Undoes norm, gain and the slope 1/2 of SiLU; the constant channel is dropped."""
        factor = 2.0 * norm / (width**0.5 * GAIN)
        return np.concatenate([matrix * factor, np.zeros((1, matrix.shape[1]))])

    params = jax.tree_util.tree_map_with_path(_quiet_branch, params)  # new dicts, to write into
    encoder, decoder, z = params["encoder"], params["decoder"], config.z_dim
    into = np.zeros((basis.shape[0], width))
    into[:, :last] = basis
    encoder["conv1"] = centre(encoder["conv1"], into, np.append(-mean @ basis, CONSTANT))
    for name, halving in zip(_time_convs(encoder), halvings, strict=True):
        kernel = np.zeros(encoder[name]["time_conv"]["kernel"].shape)  # (before, a, b)
        first, second = halving.encode_matrices()
        kernel[1, 0, 0, :last, :last], kernel[2, 0, 0] = first, padded(second)
        encoder[name]["time_conv"] = _leaf(kernel, np.zeros(width))
    moments = np.zeros((last, 2 * z))
    moments[:, :z] = code / scale
    encoder["head_0"] = {"gamma": jnp.full((width,), GAIN)}
    encoder["head_2"] = centre(
        encoder["head_2"], head(norms[1], moments), np.repeat([0.0, LOG_VARIANCE], z)
    )
    for name, size in (("conv1", 2 * z), ("conv2", z)):
        params[name] = centre(params[name], np.eye(size))

    out_of = np.zeros((z, width))
    out_of[:, :last] = (code * scale).T
    decoder["conv1"] = centre(decoder["conv1"], out_of, np.eye(width)[last] * CONSTANT)
    for name, halving in zip(_time_convs(decoder), halvings[::-1], strict=True):
        both = np.concatenate([padded(m) for m in halving.decode_matrices()], axis=1)
        decoder[name]["time_conv"] = centre(decoder[name]["time_conv"], both)
    decoder["head_0"] = {"gamma": jnp.full((width,), GAIN)}
    decoder["head_2"] = centre(decoder["head_2"], head(norms[0], basis.T), mean)
    return params


def _time_convs(part: Params) -> list[str]:
    """The layers that halve or double time, in the order in which they run (11 after 2)."""
    names = [name for name in part if "time_conv" in part[name]]
    return sorted(names, key=lambda name: int(name.rsplit("_", 1)[1]))


def _quiet_branch(path, leaf):
    return leaf * BRANCH if path[-2].key in BRANCH_ENDS else leaf


def _leaf(kernel, bias) -> dict[str, Array]:
    return {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
