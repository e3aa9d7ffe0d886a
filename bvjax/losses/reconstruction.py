"""Losses that train the VAE, and the two image measures that judge it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from bvjax.random import AnyKey, normal, purpose_key

_SSIM_WINDOW = 11  # pixels
_SSIM_SIGMA = 1.5  # pixels


def reconstruction_loss(
    frames: Float[Array, "b f h w 3"],
    recon: Float[Array, "b f h w 3"],
    mu: Float[Array, "b l h8 w8 z"],
    logvar: Float[Array, "b l h8 w8 z"],
    *,
    kl_weight: float,
    edge_weight: float,
    mse_weight: float = 0.0,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """L1 + edge_weight * (L1 of spatial differences) + mse_weight * MSE + kl_weight * KL(q || N(0, 1)).

    `frames` are in [-1, 1] and `recon` is not clamped, so that it has a gradient outside. The term
    on differences of neighbouring pixels asks for sharp edges, which L1 alone lets blur; the squared
    error asks for the few pixels that are far off, which move. All terms
    are means: of pixels, and of latent elements. Metrics: loss, l1, edge, kl, psnr (clamped).
    """
    error = recon - frames
    l1 = jnp.mean(jnp.abs(error))
    edge = 0.5 * (
        jnp.mean(jnp.abs(jnp.diff(error, axis=2))) + jnp.mean(jnp.abs(jnp.diff(error, axis=3)))
    )
    kl = gaussian_kl(mu, logvar)
    mse = jnp.mean(jnp.square(error))
    loss = l1 + edge_weight * edge + mse_weight * mse + kl_weight * kl
    quality = psnr(_to_unit(frames), _to_unit(recon))
    return loss, {"loss": loss, "l1": l1, "edge": edge, "kl": kl, "psnr": quality}


def gaussian_kl(mu: Float[Array, "*n"], logvar: Float[Array, "*n"]) -> Float[Array, ""]:
    """Mean over elements of KL(N(mu, exp(logvar)) || N(0, 1)), in nats."""
    logvar = jnp.clip(logvar, -30.0, 20.0)  # the range of the public latent-diffusion VAEs
    return 0.5 * jnp.mean(mu**2 + jnp.exp(logvar) - 1.0 - logvar)


def sample_latents(
    key: AnyKey, mu: Float[Array, "*n"], logvar: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """mu + std * noise, the reparameterised sample that training decodes."""
    std = jnp.exp(0.5 * jnp.clip(logvar, -30.0, 20.0))
    return mu + std * normal(key, mu.shape).astype(mu.dtype)


def drawn_anew(
    key: AnyKey,
    z: Float[Array, "b l h w z"],
    std: Float[Array, " z"],
    level: Float[Array, "b 1 1 1 1"],
) -> Float[Array, "b l h w z"]:
    """Latents as somebody would draw them who saw them under noise of standard deviation `level`.

    A sample of p(z | z + level * noise) for z ~ N(0, std^2), channel by channel: with w = std^2 / (std^2 + level^2)

        w (z + level * noise_1) + sqrt(w) level * noise_2,

    whose variance is std^2 again and whose correlation with z is w. This is a linear model of what a DiT gets wrong:
    channels that are large are right, small ones are plausible by themselves and do not fit their neighbours.
    """
    first, second = (
        normal(purpose_key(key, name), z.shape).astype(z.dtype) for name in ("seen", "drawn")
    )
    w = std**2 / (std**2 + level**2)
    return w * (z + level * first) + jnp.sqrt(w) * level * second


def psnr(a: Float[Array, "*n h w c"], b: Float[Array, "*n h w c"]) -> Float[Array, ""]:
    """Peak signal-to-noise ratio in dB of images in [0, 1], from each image's own MSE, averaged.

    An MSE below 1e-10 counts as 1e-10, so equal images give 100 dB.
    """
    mse = jnp.mean((a - b) ** 2, axis=(-3, -2, -1))
    return jnp.mean(-10.0 * jnp.log10(jnp.maximum(mse, 1e-10)))


def ssim(a: Float[Array, "*n h w c"], b: Float[Array, "*n h w c"]) -> Float[Array, ""]:
    """Structural similarity of images in [0, 1], averaged over pixels, channels and images.

    Wang et al. 2004: 11 x 11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03, windows that lie
    wholly inside the image. Raises ValueError for images smaller than the window.
    """
    if min(a.shape[-3:-1]) < _SSIM_WINDOW:
        raise ValueError(
            f"ssim needs images of at least {_SSIM_WINDOW} x {_SSIM_WINDOW} pixels,"
            f" got {a.shape[-3]} x {a.shape[-2]}"
        )
    c1, c2 = 0.01**2, 0.03**2
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    var_a = _window_mean(a * a) - mean_a**2
    var_b = _window_mean(b * b) - mean_b**2
    covariance = _window_mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return jnp.mean(luminance * structure)


def _window_mean(x: Float[Array, "*n h w c"]) -> Float[Array, "m h2 w2 1"]:
    """Gaussian-weighted mean of every window, one image and channel at a time."""
    offsets = jnp.arange(_SSIM_WINDOW) - _SSIM_WINDOW // 2
    weights = jax.nn.softmax(-0.5 * (offsets / _SSIM_SIGMA) ** 2)
    height, width = x.shape[-3:-1]
    planes = jnp.moveaxis(x, -1, -3).reshape(-1, height, width, 1)
    for shape in ((_SSIM_WINDOW, 1, 1, 1), (1, _SSIM_WINDOW, 1, 1)):
        planes = lax.conv_general_dilated(
            planes,
            weights.reshape(shape).astype(x.dtype),
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    return planes


def _to_unit(frames: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """[-1, 1] to [0, 1], clamped."""
    return (jnp.clip(frames, -1.0, 1.0) + 1.0) * 0.5
