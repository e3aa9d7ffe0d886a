"""Pictures made many at once are those made one by one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from bvjax.denoiser.denoise import denoise_anchor
from bvjax.denoiser.types import ChunkInput
from bvjax.generate.pictures import decode_first, generate_pictures
from bvjax.nets import vae


def test_a_picture_is_the_anchor_of_its_caption(tiny):
    model = tiny.variant(sampler={"steps": 2})
    length, dim = model.text.max_length, model.text.dim
    text = np.random.default_rng(0).normal(size=(3, length, dim)).astype(np.float32)
    null, key = np.zeros((length, dim), np.float32), jax.random.key(4)
    params = tiny.params["dit"]
    latents = generate_pictures(params, model, text, null, key)
    inputs = ChunkInput(
        jnp.int32(0), *map(jnp.asarray, (text[2], np.zeros(dim), null)), jax.random.fold_in(key, 2)
    )
    np.testing.assert_allclose(latents[2], denoise_anchor(params, model, inputs)[0], atol=1e-4)
    assert np.abs(latents[0] - latents[1]).max() > 1e-2
    frames = decode_first(tiny.params["vae"], model, latents)
    expected = vae.to_uint8(vae.decode(tiny.params["vae"], model.vae, latents[1][None, None]))
    assert frames.shape == (3, 32, 32, 3)
    assert np.abs(frames[1].astype(int) - np.asarray(expected[0, 0])).max() <= 1
