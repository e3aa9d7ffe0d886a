"""The map from latents to colours: fitted, kept, and close to what the VAE decodes."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bvjax.config import VAEConfig
from bvjax.denoiser.watch import colours
from bvjax.generate import preview
from bvjax.loading import colours as stored_colours
from bvjax.loading.bundle import ASSETS, load_bundle

CONFIG = VAEConfig(latent_mean=(0.0,) * 16, latent_std=(1.0,) * 16)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**16))
def test_a_map_is_found_again(seed):
    """Of colours that are affine in the latents, the fit is the map itself."""
    rng = np.random.default_rng(seed)
    latents, matrix = rng.normal(size=(4, 50, 5)), rng.normal(size=(6, 3))
    seen = latents @ matrix[:-1] + matrix[-1]
    np.testing.assert_allclose(preview.least_squares(latents, seen), matrix, atol=0.02)


def test_channels_that_do_nothing_stay_out():
    rng = np.random.default_rng(0)
    latents = np.concatenate([rng.normal(size=(500, 1)), np.full((500, 1), 3.0)], axis=1)
    found = preview.least_squares(latents, latents[:, :1] * [1.0, 2.0, 3.0])
    np.testing.assert_allclose(found[1], 0, atol=1e-6)


def test_mean_colours_by_hand():
    """The first frame alone, then four frames at a time, 8x8 pixels each."""
    frames = np.zeros((1, 5, 16, 8, 3), np.float32)
    frames[0, 0, :8], frames[0, 0, 8:] = 1.0, -1.0
    frames[0, 1:, :8] = np.array([0.0, 0.4, 0.8, 1.2]).reshape(4, 1, 1, 1)
    found = preview.mean_colours(frames, CONFIG)
    assert found.shape == (1, 2, 2, 1, 3)
    np.testing.assert_allclose(found[0, :, :, 0, 0], [[1.0, -1.0], [0.6, 0.0]], atol=1e-6)


def test_the_fit_is_of_what_the_vae_decodes(monkeypatch):
    """With a VAE whose decoder is affine, colours of latents are what it decodes, first and later alike."""
    rng = np.random.default_rng(1)
    maps = rng.normal(size=(2, 17, 3)) / 10
    side, s, t = preview.SIDE, CONFIG.spatial_factor, CONFIG.temporal_factor

    def through(params, config, frames):
        latents = rng.normal(size=(len(frames), preview.LATENTS, side, side, 16))
        cells = np.stack(
            [latents[:, i] @ maps[min(i, 1)][:-1] + maps[min(i, 1)][-1] for i in range(3)], 1
        )
        large = cells.repeat(s, 2).repeat(s, 3)
        return latents, np.concatenate([large[:, :1], large[:, 1:].repeat(t, 1)], 1)

    monkeypatch.setattr(preview, "_through", through)
    for found, wanted in zip(preview.fit(None, CONFIG), maps, strict=True):
        np.testing.assert_allclose(found, wanted, atol=0.01)


def test_colours_are_rounded_and_cut():
    latents = np.array([-9.0, -1.0, 0.0, 1.0, 9.0], np.float32).reshape(5, 1, 1, 1)
    matrix = np.array([[1.0, 0.5, 0.0], [0.0, 0.0, 1.0]], np.float32)
    assert np.asarray(colours(latents, matrix))[:, 0, 0].tolist() == [
        [0, 0, 255], [0, 64, 255], [128, 128, 255], [255, 191, 255], [255, 255, 255]
    ]  # fmt: skip
    picture = preview.still(np.asarray(colours(latents, matrix)), 6, 8)
    assert picture.shape == (6, 8, 3) and (picture == [128, 128, 255]).all()


def test_maps_are_kept(tiny, tmp_path, monkeypatch):
    bundle, made = load_bundle(tiny.weights), []
    maps = tuple(np.full((17, 3), value, np.float32) for value in (1.0, 2.0))
    monkeypatch.setattr(preview, "fit", lambda *_: made.append(1) or maps)
    stored_colours.maps(bundle)
    stored_colours.maps(bundle)
    assert len(made) == 2  # the tests' cache is off
    monkeypatch.setenv("BVJAX_TEXT_CACHE", str(tmp_path))
    for _ in range(2):
        np.testing.assert_array_equal(stored_colours.maps(bundle), maps)
    assert len(made) == 3
    (file,) = (tmp_path / "colours").iterdir()
    for content in (b"damaged", file.read_bytes()[:-9]):
        file.write_bytes(content)
        np.testing.assert_array_equal(stored_colours.maps(bundle), maps)
    assert len(made) == 5


@pytest.mark.slow
def test_previews_of_the_small_model_are_close():
    """Mean colours that its VAE decodes of pictures it was not fitted on: most of their variance is there."""
    bundle = load_bundle(ASSETS / "mini")
    config, params = bundle.model.vae, bundle.params["vae"]
    latents, decoded = preview._through(params, config, preview.clips(config, seed=99))
    seen = preview.mean_colours(np.asarray(decoded), config)
    for part, matrix in zip(
        (slice(0, 1), slice(1, None)), preview.fit(params, config), strict=True
    ):
        shown = np.asarray(jax.vmap(colours, (0, None))(latents[:, part], matrix), np.float32)
        wanted = (seen[:, part] + 1) * 127.5
        error = np.sqrt(np.mean((shown - wanted) ** 2))
        print(f"\n{error:.1f} grey levels, of {wanted.std():.1f}")
        assert error < 0.35 * wanted.std()
