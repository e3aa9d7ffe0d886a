"""The VAE against diffusers' AutoencoderKLWan: whole, in pieces, and by diffusers' own caches."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from bvjax.nets import vae
from tests.golden import recipe
from tests.torch import builders
from tests.torch.builders import difference, size, to_numpy, to_torch

REFERENCE = "diffusers `AutoencoderKLWan`"
TOLERANCE = 1e-5
CONFIGS = {
    "Wan2.1": dict(),  # strides 4x8x8
    "two blocks": dict(dim=6, dim_mult=(1, 2, 4, 4), blocks=2),
    "strides 4x4x4": dict(dim=10, z_dim=5, dim_mult=(1, 1, 3), temporal=(True, True)),
    "time first": dict(dim=4, z_dim=3, dim_mult=(1, 3, 1, 2), temporal=(True, True, False)),
}
# (frames, height, width) in latents: 1, 5, 9 frames; odd sizes.  Compiling takes the time, so only the
# first configuration is tried in all of them.
SIZES = ((2, 1, 3), (1, 3, 5), (3, 5, 1))
ENCODER_PIECES = ((1, 4, 4), (5, 4), (1, 8))
DECODER_PIECES = ((1, 1, 1), (2, 1), (1, 2))


@pytest.fixture(scope="module")
def case(request, tmp_path_factory):
    """(theirs, our configuration, our functions by name, compiled)."""
    theirs = builders.autoencoder(**CONFIGS[request.param], seed=request.param)
    model, params = builders.ours(theirs, tmp_path_factory.mktemp("vae"))
    names = ("encode_moments", "encode", "encode_stream", "decode_raw", "decode", "decode_stream")
    functions = {
        name: jax.jit(
            functools.partial(getattr(vae, name), params, model.vae),
            static_argnames="first" if name.endswith("stream") else (),
        )
        for name in names
    }
    return theirs, model.vae, functions


def of_all(name, values):
    """Every value for the first configuration, the first value for the others."""
    pairs = [(c, v) for c in CONFIGS for v in (values if c == "Wan2.1" else values[:1])]
    ids = [f"{c}-{'x'.join(map(str, v))}" for c, v in pairs]
    return pytest.mark.parametrize(f"case, {name}", pairs, ids=ids, indirect=["case"])


def video(config, latents, height, width):
    scale = config.spatial_factor
    frames = 1 + config.temporal_factor * (latents - 1)
    return np.clip(recipe.uniform("video", (2, frames, height * scale, width * scale, 3)), -1, 1)


def constants(config):
    return np.float32(config.latent_mean), np.float32(config.latent_std)


@of_all("shape", SIZES)
def test_encode(case, shape, record_parity):
    theirs, config, ours = case
    frames = video(config, *shape)
    found = theirs.encode(to_torch(frames)).latent_dist
    mean, logvar = to_numpy(found.mean), to_numpy(found.parameters.chunk(2, dim=1)[1])
    mu, ours_logvar = ours["encode_moments"](frames)
    assert mu.shape[1:4] == shape and size(mean) > 0.5
    error = max(difference(mu, mean), difference(ours_logvar, logvar))
    record_parity("VAE encode, mean and log-variance", REFERENCE, error, TOLERANCE, size(mean))
    centre, spread = constants(config)
    want = (to_numpy(found.mode()) - centre) / spread
    error = difference(ours["encode"](frames), want)
    record_parity("VAE encode, normalised latents", REFERENCE, error, TOLERANCE, size(want))


@of_all("pieces", ENCODER_PIECES)
def test_encode_in_pieces(case, pieces, record_parity):
    theirs, config, ours = case
    frames = video(config, 3, 3, 2)
    centre, spread = constants(config)
    want = (to_numpy(theirs.encode(to_torch(frames)).latent_dist.mode()) - centre) / spread
    state, found = vae.init_encode_state(config, 2, *frames.shape[2:4]), []
    for i, piece in enumerate(np.split(frames, np.cumsum(pieces)[:-1], axis=1)):
        state, latents = ours["encode_stream"](state, piece, first=i == 0)
        found.append(latents)
    error = difference(np.concatenate(found, axis=1), want)
    record_parity("VAE encode in pieces", REFERENCE, error, TOLERANCE, size(want))


def latents_of(config, shape):
    return recipe.uniform("latents", (2, *shape, config.z_dim))


@of_all("shape", SIZES)
def test_decode(case, shape, record_parity):
    theirs, config, ours = case
    latents = latents_of(config, shape)
    centre, spread = constants(config)
    want = to_numpy(theirs.decode(to_torch(latents * spread + centre)).sample)
    assert want.std() > 0.1 and (np.abs(want) < 1).mean() > 0.5
    error = difference(ours["decode"](latents), want)
    record_parity("VAE decode", REFERENCE, error, TOLERANCE, size(want))


@of_all("pieces", DECODER_PIECES)
def test_decode_in_pieces(case, pieces, record_parity):
    theirs, config, ours = case
    latents = latents_of(config, (3, 2, 3))
    centre, spread = constants(config)
    want = to_numpy(theirs.decode(to_torch(latents * spread + centre)).sample)
    size_of = [n * config.spatial_factor for n in latents.shape[2:4]]
    state, found = vae.init_decode_state(config, 2, *size_of), []
    for i, piece in enumerate(np.split(latents, np.cumsum(pieces)[:-1], axis=1)):
        state, frames = ours["decode_stream"](state, piece, first=i == 0)
        found.append(frames)
    error = difference(np.concatenate(found, axis=1), want)
    record_parity("VAE decode in pieces", REFERENCE, error, TOLERANCE, size(want))


@pytest.mark.parametrize("case", ["Wan2.1", "time first"], indirect=True)
def test_decode_before_clamping_by_the_caches_of_diffusers(case, record_parity):
    """Its decoder, latent by latent, with its feature caches; nothing is clamped on either side."""
    theirs, config, ours = case
    raw = 3 * latents_of(config, (3, 3, 1))
    z, frames = theirs.post_quant_conv(to_torch(raw)), []
    caches = [None] * sum(type(m).__name__ == "WanCausalConv3d" for m in theirs.decoder.modules())
    for i in range(3):
        found = theirs.decoder(z[:, :, i : i + 1], caches, [0], first_chunk=i == 0)
        frames.append(to_numpy(found))
    want = np.concatenate(frames, axis=1)
    assert size(want) > 1
    error = difference(ours["decode_raw"](raw), want)
    record_parity("VAE decode, not clamped", REFERENCE, error, TOLERANCE, size(want))
