"""Makes wan.npz with diffusers and transformers: `python -m tests.golden.make_wan` (in .venv-torch).

The weights reach them by `bvjax convert --to diffusers`.
"""

from __future__ import annotations

import pathlib
import tempfile

import numpy as np
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from transformers import UMT5EncoderModel

from bvjax import weights
from bvjax.conversion.converter import convert
from tests.golden import wan_cases as cases
from tests.torch.builders import to_numpy, to_torch


def velocities(folder: pathlib.Path) -> dict[str, np.ndarray]:
    transformer = WanTransformer3DModel.from_pretrained(folder / "transformer")
    x, text = cases.dit_inputs()
    found = {}
    for name, timesteps in cases.LEVELS.items():
        t = torch.from_numpy(timesteps)
        if t.ndim == 2:  # diffusers takes one a token
            t = t.repeat_interleave(15, dim=1)
        found[name] = to_numpy(transformer(to_torch(x), t, torch.from_numpy(text)).sample)
    return found


def coded(folder: pathlib.Path) -> dict[str, np.ndarray]:
    vae = AutoencoderKLWan.from_pretrained(folder / "vae")
    mean, std = np.float32(cases.MODEL.vae.latent_mean), np.float32(cases.MODEL.vae.latent_std)
    encoded = to_numpy(vae.encode(to_torch(cases.video())).latent_dist.mode())
    decoded = to_numpy(vae.decode(to_torch(cases.latents() * std + mean)).sample)
    return {"vae, encode": (encoded - mean) / std, "vae, decode": decoded}


def states(folder: pathlib.Path) -> dict[str, np.ndarray]:
    encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder").eval()
    ids, mask = map(torch.from_numpy, cases.captions())
    found = encoder(ids.long(), mask.long()).last_hidden_state.numpy()
    return {"umt5": np.where(mask.numpy()[..., None], found, 0)}


def samples() -> dict[str, np.ndarray]:
    """Levels, labels and the end of each trajectory."""
    found = {}
    for name, sampler in cases.SAMPLERS.items():
        scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=sampler.shift
        )
        scheduler.set_timesteps(sampler.steps)
        x = torch.from_numpy(cases.noise())
        for t in scheduler.timesteps:
            v = cases.made_up_velocity(x, float(np.float32(t) / np.float32(1000)), torch.sin)
            x = scheduler.step(v, t, x, return_dict=False)[0]
        found |= {
            name: x.numpy(),
            f"{name}: levels": scheduler.sigmas.numpy(),
            f"{name}: labels": scheduler.timesteps.numpy().astype(np.int16),
        }
    return found


def main() -> None:
    """Everything, into one file."""
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        parts = {part: cases.params(part) for part in weights.PARTS}
        weights.save_weights(folder / "ours", cases.MODEL, parts)
        convert(folder / "ours", folder / "theirs", "diffusers")
        made = [made(folder / "theirs") for made in (velocities, coded, states)]
    arrays = {name: array for found in (*made, samples()) for name, array in found.items()}
    np.savez_compressed(cases.FILE, **arrays)


if __name__ == "__main__":
    main()
