"""A small decoder, against the same network frame by frame in loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import VAEConfig
from bvjax.errors import UserError
from bvjax.loading.preview_decoder import load_preview_decoder
from bvjax.nets import tiny_decoder
from tests.support import tiny_decoders as files


def conv(x, kernel, bias=0.0):
    """[c h w], [o i k k] -> [o h w]: sums over a window padded with zeros."""
    side = kernel.shape[-1]
    padded = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2))
    out = np.empty((len(kernel), *x.shape[1:]))
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            window = padded[:, i : i + side, j : j + side]
            out[:, i, j] = np.tensordot(kernel, window, 3)
    return out + np.reshape(bias, (-1, 1, 1)) if np.ndim(bias) else out


class ByHand:
    """Takes latents one by one, and gives the frames of each; blocks remember what they saw last."""

    def __init__(self, tensors, grow_all=True):
        self.t, self.seen, self.grow_all = tensors, {}, grow_all

    def __call__(self, latent):
        x = np.tanh(np.moveaxis(latent, -1, 0) / 3) * 3
        x = np.maximum(conv(x, self.t["decoder.1.weight"], self.t["decoder.1.bias"]), 0)
        return [np.moveaxis(frame, 0, -1) for frame in self.stage(x, 0)]

    def stage(self, x, number):
        if number == 3:
            x = conv(np.maximum(x, 0), self.t["decoder.22.weight"], self.t["decoder.22.bias"])
            patch = int(np.sqrt(len(x) / 3))
            shuffled = np.empty((3, x.shape[1] * patch, x.shape[2] * patch))
            for c in range(3):
                for i in range(patch):
                    for j in range(patch):
                        shuffled[c, i::patch, j::patch] = x[c * patch**2 + i * patch + j]
            return [np.clip(shuffled, 0, 1)]
        start = 3 + 6 * number
        for block in range(start, start + 3):
            before = self.seen.get(block, np.zeros_like(x))
            self.seen[block] = x
            y = np.concatenate([x, before])
            for part in (0, 2, 4):
                name = f"decoder.{block}.conv.{part}"
                y = conv(y, self.t[f"{name}.weight"], self.t[f"{name}.bias"])
                y = np.maximum(y, 0) if part < 4 else y
            x = np.maximum(x + y, 0)
        x = x.repeat(2, 1).repeat(2, 2)
        grown = conv(x, self.t[f"decoder.{start + 4}.conv.weight"])
        frames = np.split(grown, len(grown) // len(x))
        frames = frames if self.grow_all else frames[-1:]
        project = self.t[f"decoder.{start + 5}.weight"]
        return [out for frame in frames for out in self.stage(conv(frame, project), number + 1)]


@pytest.fixture(params=[1, 2], ids=["whole", "patches"])
def both(request, tmp_path):
    """(tensors as published, as loaded, latents)."""
    found = files.tensors(patch=request.param, z=5)
    path = files.save(
        tmp_path / "tiny.safetensors", {**found, "encoder.0.weight": found["decoder.1.weight"]}
    )
    config = VAEConfig(z_dim=5, latent_mean=(0.0,) * 5, latent_std=(1.0,) * 5)
    if request.param == 2:  # 16 pixels a side: no VAE of ours has them
        with pytest.raises(
            UserError, match="latents of 16 pixels a side; those of these weights have 8"
        ):
            load_preview_decoder(path, config)
    latents = 3 * np.random.default_rng(1).normal(size=(3, 2, 2, 5)).astype(np.float32)
    loaded = {n: x.transpose(2, 3, 1, 0) if x.ndim == 4 else x for n, x in found.items()}
    if request.param == 1:
        read = load_preview_decoder(path, config)
        assert read.keys() == loaded.keys()
        assert all(np.array_equal(read[name], loaded[name]) for name in loaded)
    return found, jax.tree.map(jnp.asarray, loaded), jnp.asarray(latents)


def test_all_frames(both):
    found, loaded, latents = both
    by_hand = ByHand(found)
    want = [frame for latent in np.asarray(latents) for frame in by_hand(latent)][3:]
    got = np.asarray(tiny_decoder.decode(loaded, latents))
    assert got.shape == (9, *want[0].shape)
    np.testing.assert_allclose(got, want, atol=2e-5)
    assert 0.05 < (got > 0).mean() and got.std() > 0.05  # most of it is no clipped nothing


def test_the_last_frame_alone(both):
    found, loaded, latents = both
    by_hand = ByHand(found, grow_all=False)
    want = [frame for latent in np.asarray(latents) for frame in by_hand(latent)][-1]
    np.testing.assert_allclose(tiny_decoder.still(loaded, latents), want, atol=2e-5)


def test_what_is_refused(tmp_path):
    config = VAEConfig(latent_mean=(0.0,) * 16, latent_std=(1.0,) * 16)
    good = files.tensors()
    path = tmp_path / "tiny.safetensors"
    without = {name: x for name, x in good.items() if name != "decoder.10.conv.2.bias"}
    nan = np.full_like(good["decoder.9.conv.0.bias"], np.nan)
    for content, match in (
        (
            {"x": good["decoder.1.bias"]},
            "no decoder for previews: it has no kernel decoder.1.weight",
        ),
        (without, "it lacks decoder.10.conv.2.bias"),
        ({**good, "decoder.23.weight": good["decoder.22.weight"]}, "it has decoder.23.weight"),
        (
            {**good, "decoder.3.conv.0.bias": good["decoder.1.bias"][:2]},
            r"decoder.3.conv.0.bias is \(2,\)",
        ),
        ({**good, "decoder.9.conv.0.bias": nan}, "decoder.9.conv.0.bias has values that are not"),
        (files.tensors(z=48), "latents of 48 channels; those of these weights have 16"),
        (files.tensors(grow=(2, 2, 2)), "latents of 8 frames; those of these weights have 4"),
    ):
        with pytest.raises(UserError, match=match):
            load_preview_decoder(files.save(path, content), config)
    path.write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="no safetensors|not a safetensors|damaged"):
        load_preview_decoder(path, config)
