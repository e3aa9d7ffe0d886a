"""Training the causal VAE: reconstruct clips through sampled latents."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8
import numpy as np
from PIL import Image

from bvjax.config import ModelConfig, VAEConfig
from bvjax.losses.reconstruction import psnr, reconstruction_loss, sample_latents, ssim
from bvjax.nets import vae
from bvjax.train.state import Params
from bvjax.weights import save_weights

Batch = dict[str, UInt8[np.ndarray, "b f h w 3"]]


@dataclasses.dataclass(frozen=True)
class VAETask:
    """Batches are {"frames": uint8 [b, 1 + 4k, h, w, 3]}.

    `heldout(i)` and `train(i)` give the i-th batch of clips: the first for `sample`, the second
    for the latent statistics that `export` measures over `stat_batches` of them.
    """

    model: ModelConfig
    kl_weight: float
    edge_weight: float
    heldout: Callable[[int], Batch]
    train: Callable[[int], Batch]
    stat_batches: int
    weights_dtype: str
    part: str = "vae"

    def init(self, key: jax.Array) -> Params:
        return vae.init_params(self.model.vae, key)

    def loss(
        self, params: Params, batch: dict[str, Array], key: jax.Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        frames = to_float(batch["frames"])
        mu, logvar = vae.encode_moments(params, self.model.vae, frames)
        recon = vae.decode_raw(params, self.model.vae, sample_latents(key, mu, logvar))
        return reconstruction_loss(
            frames, recon, mu, logvar, kl_weight=self.kl_weight, edge_weight=self.edge_weight
        )

    def sample(self, params: Params, folder: Path, step: int) -> dict[str, float]:
        """Held-out frames over their reconstructions, and PSNR (dB) and SSIM of the whole batch."""
        clips = self.heldout(0)["frames"]
        recon, scores = _reconstruct(params, self.model.vae, clips)
        columns = np.linspace(0, clips.shape[1] - 1, min(clips.shape[1], 4)).round().astype(int)
        rows = [
            np.concatenate([video[b, f] for b in range(min(len(clips), 4)) for f in columns], axis=1)
            for video in (clips, np.asarray(recon))
        ]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(rows)).save(folder / f"{step:07d}.png")
        return {f"heldout_{name}": float(value) for name, value in scores.items()}

    def export(self, params: Params, folder: Path, meta: dict[str, Any]) -> None:
        """Writes the VAE with the mean and standard deviation of its latents per channel.

        With these in the configuration, `vae.encode` gives latents of mean 0 and variance 1.
        """
        mean, std = self._latent_statistics(params)
        config = dataclasses.replace(self.model.vae, latent_mean=mean, latent_std=std)
        model = dataclasses.replace(self.model, vae=config)
        save_weights(folder, model, {"vae": params}, meta=meta, dtype=self.weights_dtype)

    def _latent_statistics(self, params: Params) -> tuple[tuple[float, ...], tuple[float, ...]]:
        sums = []
        for i in range(self.stat_batches):
            sums.append(_moments(params, self.model.vae, self.train(i)["frames"]))
        first, second = np.mean(np.asarray(sums, np.float64), axis=0)
        std = np.sqrt(second - first**2)
        return tuple(float(x) for x in first), tuple(float(x) for x in std)


def to_float(frames: UInt8[Array, "*n"]) -> Float[Array, "*n"]:
    """0..255 to [-1, 1]."""
    return frames.astype(jnp.float32) / 127.5 - 1.0


@functools.partial(jax.jit, static_argnums=1)
def _reconstruct(params: Params, config: VAEConfig, clips: Array) -> tuple[Array, dict[str, Array]]:
    frames = to_float(clips)
    recon = vae.decode_raw(params, config, vae.encode_moments(params, config, frames)[0])
    recon = jnp.clip(recon, -1.0, 1.0)
    pair = ((frames + 1.0) / 2.0, (recon + 1.0) / 2.0)
    return vae.to_uint8(recon), {"psnr": psnr(*pair), "ssim": ssim(*pair)}


@functools.partial(jax.jit, static_argnums=1)
def _moments(params: Params, config: VAEConfig, clips: Array) -> Float[Array, "2 z"]:
    """Mean of mu and of mu^2 per channel."""
    mu, _ = vae.encode_moments(params, config, to_float(clips))
    return jnp.stack([mu, mu**2]).mean(axis=(1, 2, 3, 4))
