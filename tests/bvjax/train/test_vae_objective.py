"""What the VAE task does around the network, with a network simple enough to compute by hand.

(The real network trains in tests/experiments/test_train.py.)
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from bvjax.errors import UserError
from bvjax.nets import vae
from bvjax.presets import get_preset
from bvjax.train.vae_objective import VAELossConfig, VAEObjective, to_float
from bvjax.weights import load_config

CHANNELS = get_preset("mini").vae.z_dim
GAINS = np.linspace(0.5, 2.0, CHANNELS).astype(np.float32)


def clips(index: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(index)
    return {"frames": rng.integers(0, 256, (2, 5, 16, 16, 3), dtype=np.uint8)}


@pytest.fixture
def task(monkeypatch) -> VAEObjective:
    """Latents are the red channel times GAINS (one latent a pixel); decoding gives grey."""

    def encode_moments(params, config, frames):
        mu = params["gain"] * frames[..., :1] * GAINS
        return mu, jnp.full(mu.shape, params["logvar"])

    def decode_raw(params, config, latents):
        return jnp.repeat(latents[..., :1] / GAINS[0], 3, axis=-1)

    monkeypatch.setattr(vae, "encode_moments", encode_moments)
    monkeypatch.setattr(vae, "decode_raw", decode_raw)
    return VAEObjective(
        model=get_preset("mini"),
        config=VAELossConfig(
            kl_weight=0.25, edge_weight=0.0, mse_weight=0.0, heldout_clips=2, stat_batches=3
        ),
        heldout=lambda i: clips(1000 + i),
        train=clips,
        weights_dtype="float32",
    )


def params(logvar: float = -2.0):
    return {"gain": jnp.float32(0.5), "logvar": jnp.float32(logvar)}


def test_loss_is_that_of_sampled_latents(task):
    frames = to_float(jnp.asarray(clips(0)["frames"]))
    batch = {"frames": jnp.asarray(clips(0)["frames"])}
    losses = {}
    for logvar in (-30.0, 1.0):
        loss, metrics = task.loss(params(logvar), batch, jax.random.key(0))
        mu = 0.5 * frames[..., :1] * GAINS
        kl = 0.5 * np.mean(mu**2 + np.exp(logvar) - 1 - logvar)
        np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-4)
        np.testing.assert_allclose(loss, metrics["l1"] + 0.25 * kl, rtol=1e-5)
        losses[logvar] = metrics["l1"]
    exact = np.mean(np.abs(0.5 * frames[..., :1] - frames))
    np.testing.assert_allclose(losses[-30.0], exact, rtol=1e-4)
    assert losses[1.0] > 1.5 * exact  # the noise reaches the pixels
    other = task.loss(params(1.0), batch, jax.random.key(1))[1]["l1"]
    assert other != losses[1.0]


def test_errors_in_latents_reach_the_decoder_and_no_others(task):
    """Every channel of size 1, and a level so high that nothing of a latent is left."""
    batch = {"frames": jnp.asarray(clips(0)["frames"])}
    config = dataclasses.replace(task.config, trains="decoder", latent_error=10.0)
    spoilt = dataclasses.replace(task, config=config)
    value = jax.value_and_grad(lambda p, t: t.loss(p, batch, jax.random.key(0))[1]["l1"])
    plain = dataclasses.replace(task, config=dataclasses.replace(config, latent_error=0.0))
    (before, _), (after, gradient) = value(params(-30.0), plain), value(params(-30.0), spoilt)
    assert after > 2 * before and gradient["gain"] == 0.0
    with pytest.raises(UserError, match="latent_error draws latents anew .* set vae.trains"):
        dataclasses.replace(config, trains="all")
    with pytest.raises(UserError, match="vae.latent_error is -1; it must be 0 to 10"):
        dataclasses.replace(config, latent_error=-1.0)


def test_sample_writes_originals_over_reconstructions(task, tmp_path):
    scores = task.sample(params(), tmp_path / "samples", 12)
    picture = np.asarray(Image.open(tmp_path / "samples" / "0000012.png"))
    original = clips(1000)["frames"]
    grey = np.repeat(0.5 * np.asarray(to_float(jnp.asarray(original)))[..., :1], 3, axis=-1)
    assert picture.shape == (2 * 16, 2 * 4 * 16, 3)  # two clips of four frames, two rows
    np.testing.assert_array_equal(picture[:16, :16], original[0, 0])
    np.testing.assert_array_equal(picture[:16, -16:], original[1, 4])
    np.testing.assert_allclose(picture[16:, :16], (grey[0, 0] + 1) * 127.5, atol=0.51)
    error = (grey - to_float(jnp.asarray(original))) / 2
    expected = np.mean(-10 * np.log10(np.mean(error**2, axis=(2, 3, 4))))
    np.testing.assert_allclose(scores["heldout_psnr"], expected, rtol=1e-4)
    assert 0 < scores["heldout_ssim"] < 1


def test_export_measures_the_latents(task, tmp_path):
    task.export({"k": np.ones(3, np.float32)} | params(), tmp_path, {"seed": 7})
    found = load_config(tmp_path)
    red = (
        np.stack([clips(i)["frames"][:, 2:] for i in range(3)])[..., 0] / 127.5 - 1.0
    )  # later half
    np.testing.assert_allclose(found.vae.latent_mean, 0.5 * red.mean() * GAINS, rtol=1e-4)
    np.testing.assert_allclose(found.vae.latent_std, 0.5 * red.std() * GAINS, rtol=1e-4)
    opening = np.stack([clips(i)["frames"][:, :1] for i in range(3)])[..., 0] / 127.5 - 1.0
    np.testing.assert_allclose(found.vae.first_mean, 0.5 * opening.mean() * GAINS, rtol=1e-4)
    np.testing.assert_allclose(found.vae.first_std, 0.5 * opening.std() * GAINS, rtol=1e-4)
    assert (found.dit, found.text) == (task.model.dit, task.model.text)


def test_export_scales_latents_by_their_effect_on_pixels(task, monkeypatch, tmp_path):
    """Decoding that weighs channels by 1, 1/2, 1/3, ..."""
    weights = 1.0 / np.arange(1, CHANNELS + 1)
    sum_ = lambda params, config, z: jnp.repeat((z @ (weights / GAINS))[..., None], 3, axis=-1)
    monkeypatch.setattr(vae, "decode_raw", sum_)
    dataclasses.replace(task, config=dataclasses.replace(task.config, scale="pixels")).export(
        params(), tmp_path, {}
    )
    found = load_config(tmp_path).vae
    assert found.latent_scale[0] == 1.0  # equal std / GAINS, so the weights alone decide
    np.testing.assert_allclose(found.latent_scale, weights, rtol=0.1)
    mu = np.asarray(found.latent_mean) + 3.0 * np.asarray(found.latent_std)
    mu = np.broadcast_to(mu, (1, 2, 1, 1, CHANNELS))
    np.testing.assert_allclose(vae.normalise(found, mu)[0, 1, 0, 0], 3.0 * weights, rtol=0.1)
    task.export(params(), tmp_path / "unit", {})
    assert load_config(tmp_path / "unit").vae.latent_scale == ()


def test_to_float_covers_minus_one_to_one():
    np.testing.assert_allclose(to_float(jnp.array([0, 255], jnp.uint8)), [-1.0, 1.0], rtol=1e-6)
