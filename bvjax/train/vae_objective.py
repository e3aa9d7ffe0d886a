"""Training the causal VAE: reconstruct clips through sampled latents."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from bvjax.config import ModelConfig, VAEConfig
from bvjax.errors import UserError
from bvjax.losses.reconstruction import (
    drawn_anew,
    psnr,
    reconstruction_loss,
    sample_latents,
    ssim,
)
from bvjax.nets import vae
from bvjax.nets.vae import to_float
from bvjax.random import AnyKey, purpose_key, uniform
from bvjax.train.config import check_range
from bvjax.train.latent_scale import pixel_scale
from bvjax.train.linear_start import linear_start
from bvjax.train.task import Params
from bvjax.weights import save_weights

STARTS = ("random", "linear")
TRAINS = ("all", "decoder")
SCALES = ("unit", "pixels")
START_BATCHES = 6  # of `train`, that a linear start is fitted to
Batch = dict[str, UInt8[np.ndarray, "b f h w 3"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAELossConfig:
    """The objective of a VAE, its start, and its measures."""

    start: str = "random"  # or "linear", see `bvjax.train.linear_start`
    scale: str = "unit"  # of exported latents, or "pixels", see `bvjax.train.latent_scale`
    trains: str = (
        "all"  # or "decoder" (from given weights): all that was trained on the latents stays valid
    )
    kl_weight: float
    edge_weight: float
    mse_weight: float
    # Largest noise level at which latents are drawn anew before they are decoded (`drawn_anew`), so that the
    # decoder learns to mend what a DiT gets wrong; 0 leaves them as they are.
    latent_error: float = 0.0
    heldout_clips: int  # in a batch of held-out clips, and in one that latents are measured on
    stat_batches: int  # that latents are measured on

    def __post_init__(self):
        for name, legal in (("start", STARTS), ("trains", TRAINS), ("scale", SCALES)):
            if getattr(self, name) not in legal:
                value = getattr(self, name)
                raise UserError(f"vae.{name} is {value!r}; it can be {' or '.join(legal)}")
        check_range(self, "vae", least=1, names=("heldout_clips", "stat_batches"))
        if not 0.0 <= self.latent_error <= 10.0:
            raise UserError(f"vae.latent_error is {self.latent_error:g}; it must be 0 to 10")
        if self.latent_error and self.trains != "decoder":
            raise UserError(
                "vae.latent_error draws latents anew by their statistics, which stand when the encoder stays as it "
                "is: set vae.trains='decoder', or vae.latent_error=0"
            )


@dataclasses.dataclass(frozen=True)
class VAEObjective:
    """Batches are {"frames": uint8 [b, 1 + 4k, h, w, 3]}.

    `heldout(i)` and `train(i)` give the i-th batch of clips: the first for `sample`, the second
    for the latent statistics that `export` measures over `config.stat_batches` of them.
    """

    model: ModelConfig
    config: VAELossConfig
    heldout: Callable[[int], Batch]
    train: Callable[[int], Batch]
    weights_dtype: str
    part: str = "vae"
    axes: tuple[str, ...] = ("data",)

    def with_latents_of(self, config: VAEConfig) -> VAEObjective:
        """The same with the latents of `config`: their mean, standard deviation and scale."""
        names = (
            "latent_mean",
            "latent_std",
            "latent_scale",
            "first_mean",
            "first_std",
            "latent_correlation",
        )
        vae_config = dataclasses.replace(
            self.model.vae, **{name: getattr(config, name) for name in names}
        )
        return dataclasses.replace(self, model=dataclasses.replace(self.model, vae=vae_config))

    @property
    def frozen(self) -> tuple[str, ...]:
        return vae.ENCODING if self.config.trains == "decoder" else ()

    def init(self, key: jax.Array) -> Params:
        return vae.init_params(self.model.vae, key)

    def fitted_start(self) -> Params:
        """Returns the parameters to start from when `config.start` is "linear"; not traceable, as it looks at clips."""
        clips = [
            self.train(i)["frames"] for i in range(min(self.config.stat_batches, START_BATCHES))
        ]
        frames = to_float(np.concatenate(clips))
        return linear_start(self.model.vae, frames, jax.random.key(0))

    def loss(
        self, params: Params, batch: dict[str, Array], key: AnyKey
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        frames = to_float(batch["frames"])
        mu, logvar = vae.encode_moments(params, self.model.vae, frames)
        if self.frozen:
            mu, logvar = jax.lax.stop_gradient((mu, logvar))
        z = sample_latents(key, mu, logvar)
        if self.config.latent_error:
            z = self._with_errors(purpose_key(key, "errors"), z)
        recon = vae.decode_raw(params, self.model.vae, z)
        return reconstruction_loss(
            frames,
            recon,
            mu,
            logvar,
            kl_weight=self.config.kl_weight,
            edge_weight=self.config.edge_weight,
            mse_weight=self.config.mse_weight,
        )

    def _with_errors(self, key: AnyKey, z: Float[Array, "b l h w z"]) -> Float[Array, "b l h w z"]:
        """Latents drawn anew at a level of their own in [0, latent_error] for each clip."""
        config = self.model.vae
        levels = uniform(purpose_key(key, "level"), (len(z), 1, 1, 1, 1))
        scale = jnp.array(config.latent_scale or (1.0,) * config.z_dim)
        latents = vae.normalise(config, z)
        latents = drawn_anew(key, latents, scale, self.config.latent_error * levels)
        return vae.denormalise(config, latents)

    def sample(self, params: Params, folder: Path, step: int) -> dict[str, float]:
        """Held-out frames over their reconstructions, and PSNR (dB) and SSIM of the whole batch."""
        clips = self.heldout(0)["frames"]
        recon, scores = _reconstruct(params, self.model.vae, clips)
        columns = np.linspace(0, clips.shape[1] - 1, min(clips.shape[1], 4)).round().astype(int)
        rows = [
            np.concatenate(
                [video[b, f] for b in range(min(len(clips), 4)) for f in columns], axis=1
            )
            for video in (clips, np.asarray(recon))
        ]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(rows)).save(folder / f"{step:07d}.png")
        return {f"heldout_{name}": float(value) for name, value in scores.items()}

    def export(self, params: Params, folder: Path, meta: dict[str, Any]) -> None:
        """Writes the VAE with the mean and standard deviation of its latents per channel.

        With these in the configuration, `vae.encode` gives latents of mean 0 and of variance 1, or of
        `pixel_scale`'s. That of a video's first frame has a mean and deviation of its own: it is coded
        from one frame where the others have four, and so differs in size. A run that trains the decoder
        only keeps the statistics of its start.
        """
        vae_config = self.model.vae
        if not self.frozen:
            vae_config = dataclasses.replace(
                vae_config, **self._latent_statistics(params), latent_scale=()
            )
            if self.config.scale == "pixels":
                frames = to_float(self.train(0)["frames"])
                vae_config = dataclasses.replace(
                    vae_config,
                    latent_scale=pixel_scale(params, vae_config, frames, jax.random.key(0)),
                )
        model = dataclasses.replace(self.model, vae=vae_config)
        save_weights(folder, model, {"vae": params}, meta=meta, dtype=self.weights_dtype)

    def _latent_statistics(self, params: Params) -> dict[str, tuple[float, ...]]:
        """Mean and standard deviation per channel: of first frames, and of steady latents."""
        batches = (self.train(i)["frames"] for i in range(self.config.stat_batches))
        sums = [np.asarray(_moments(params, self.model.vae, b), np.float64) for b in batches]
        first, squared, steady, steady_squared, neighbours = np.mean(sums, axis=0)
        variance = steady_squared - steady**2
        measured = {
            "first_mean": first,
            "first_std": np.sqrt(squared - first**2),
            "latent_mean": steady,
            "latent_std": np.sqrt(variance),
            "latent_correlation": np.clip((neighbours - steady**2) / variance, 0.0, 0.999),
        }
        return {name: tuple(float(x) for x in values) for name, values in measured.items()}


@functools.partial(jax.jit, static_argnums=1)
def _reconstruct(params: Params, config: VAEConfig, clips: Array) -> tuple[Array, dict[str, Array]]:
    frames = to_float(clips)
    recon = vae.decode_raw(params, config, vae.encode_moments(params, config, frames)[0])
    recon = jnp.clip(recon, -1.0, 1.0)
    pair = ((frames + 1.0) / 2.0, (recon + 1.0) / 2.0)
    return vae.to_uint8(recon), {"psnr": psnr(*pair), "ssim": ssim(*pair)}


@functools.partial(jax.jit, static_argnums=1)
def _moments(params: Params, config: VAEConfig, clips: Array) -> Float[Array, "5 z"]:
    """Means per channel: of mu and mu^2 in the first latents, of both in the later half, of products of neighbours there.

    The latents soon after the first still feel the zeros before the video; a minute has few of these.
    """
    mu, _ = vae.encode_moments(params, config, to_float(clips))
    later = mu[:, mu.shape[1] // 2 :]
    first = mu[:, :1]
    parts = (first, first**2, later, later**2, later[:, :-1] * later[:, 1:])
    return jnp.stack([x.mean(axis=(0, 1, 2, 3)) for x in parts])
