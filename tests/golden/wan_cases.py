"""What the golden files of Wan2.1's parts hold, and how it is computed here.

Weights and inputs are drawn by `recipe`; the files hold only what diffusers and transformers make of
them (`make_wan.py`).
"""

from __future__ import annotations

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from bvjax.config import DiTConfig, ModelConfig, SamplerConfig, TextConfig, VAEConfig
from bvjax.diffusion import solvers
from bvjax.nets import vae
from bvjax.nets.dit import WanDiT
from bvjax.nets.text import UMT5Encoder
from tests.golden import recipe

FILE = pathlib.Path(__file__).parent / "wan.npz"
MODEL = ModelConfig(
    name="golden",
    vae=VAEConfig(dim=8, dim_mult=(1, 2, 2, 2), num_res_blocks=1),
    text=TextConfig(vocab_size=64, dim=12, num_layers=2, num_heads=2, head_dim=6, ffn_dim=24),
    dit=DiTConfig(
        dim=48, num_heads=3, num_layers=2, ffn_dim=70, freq_dim=32, in_channels=4, out_channels=4
    ),
)
# name -> timesteps of two videos of 3 latent frames: one each, or one a latent frame
LEVELS = {
    "dit, one sigma": np.float32([873, 20]),
    "dit, a sigma for each latent frame": np.float32([[0, 20, 999], [731.5, 512, 1]]),
}
LENGTHS = (140, 129, 17, 1)  # of captions, in tokens
# name -> sampler; the velocity is `made_up_velocity`
SAMPLERS = {
    f"unipc, {steps} steps, shift {shift:g}": SamplerConfig(
        steps=steps, shift=shift, schedule="diffusers"
    )
    for steps, shift in ((1, 5.0), (2, 3.0), (3, 8.0), (20, 3.0), (30, 5.0))
}


@functools.cache
def params(part: str) -> dict:
    return recipe.params(MODEL, part)


# --- inputs ---------------------------------------------------------------------------


def dit_inputs() -> tuple[np.ndarray, np.ndarray]:
    """(latents [2, 3, 6, 10, 4], text [2, 7, 12]): 3x5 tokens a frame."""
    return recipe.uniform("latents", (2, 3, 6, 10, 4)), recipe.uniform("text", (2, 7, 12))


def video() -> np.ndarray:
    """[1, 9, 24, 40, 3] in [-1, 1]."""
    return np.clip(recipe.uniform("video", (1, 9, 24, 40, 3)), -1, 1)


def latents() -> np.ndarray:
    """[1, 3, 3, 5, 16], normalised."""
    return recipe.uniform("normalised latents", (1, 3, 3, 5, 16))


def captions() -> tuple[np.ndarray, np.ndarray]:
    """(ids, mask), [4, 140]."""
    mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    words = 2 + 61 * (recipe.uniform("ids", mask.shape) / np.sqrt(12) + 0.5)
    return np.where(mask, words.astype(np.int32), 0), mask


def noise() -> np.ndarray:
    return recipe.uniform("noise", (1, 2, 3, 4))


def made_up_velocity(x, sigma, sin):
    """Curved, and different at every level."""
    return sin(2.0 * x + 3.0 * sigma) + 0.5 * x


# --- here -----------------------------------------------------------------------------


def our_velocity(name: str) -> np.ndarray:
    """[2, 3, 6, 10, 4]."""
    x, text = dit_inputs()
    sigma = LEVELS[name][:, None] / 1000
    grid = np.stack(np.meshgrid(*map(np.arange, (3, 3, 5)), indexing="ij"), -1).reshape(1, 1, -1, 3)
    apply = jax.jit(WanDiT(MODEL.dit, MODEL.text.dim).apply)
    given = (x[:, None], sigma, text[:, None], grid.repeat(2, 0))
    return np.asarray(apply({"params": params("dit")}, *given)[0][:, 0])


def our_latents() -> np.ndarray:
    encode = jax.jit(vae.encode, static_argnums=1)
    return np.asarray(encode(params("vae"), MODEL.vae, video()))


def our_frames() -> np.ndarray:
    decode = jax.jit(vae.decode, static_argnums=1)
    return np.asarray(decode(params("vae"), MODEL.vae, latents()))


def our_states() -> np.ndarray:
    apply = jax.jit(UMT5Encoder(MODEL.text).apply)
    return np.asarray(apply({"params": params("text")}, *captions()))


def our_sample(name: str) -> np.ndarray:
    """The end of a trajectory."""
    sampler, key = SAMPLERS[name], jax.random.key(0)
    solve = jax.jit(
        lambda x: solvers.solve(
            sampler, lambda x, sigma: made_up_velocity(x, sigma, jnp.sin), x, key
        )
    )
    return np.asarray(solve(noise()))
