"""The smallest run of each task, as a configuration of the command and the files that it reads.

`tests/fixtures/training` holds such runs as they were written by earlier versions.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np

from bvjax import presets, weights
from bvjax.config import ChunkConfig, DiTConfig, TextConfig, VAEConfig
from data_pipelines.encoded.manifest import claim
from data_pipelines.storyworld import latents

VAE = VAEConfig(
    dim=4, z_dim=4, dim_mult=(1,), num_res_blocks=1,
    spatial_downsample=(), temporal_downsample=(),
    latent_mean=(0.0,) * 4, latent_std=(1.0,) * 4, conv_impl="3d",
)  # fmt: skip
CHUNK = ChunkConfig(height=16, width=16, fps=1, frames=4)
# Presets of earlier versions' runs, which name them; four latents of 16x16 a chunk.
SMALL = dataclasses.replace(presets.MINI, vae=VAE, chunk=CHUNK)
SMALL_DIT = dataclasses.replace(
    SMALL,
    chunk=dataclasses.replace(CHUNK, height=4, width=4),
    text=TextConfig(
        vocab_size=96, dim=8, num_layers=1, num_heads=1, head_dim=8, ffn_dim=8, max_length=5
    ),
    dit=DiTConfig(
        dim=6,
        num_heads=1,
        num_layers=1,
        ffn_dim=8,
        freq_dim=2,
        in_channels=4,
        out_channels=4,
        preconditioning="linear",
    ),
)
CHUNKS = 2  # of a story


def make_stories(weights_folder: Path, root: Path, train: int = 3) -> None:
    """A weights folder with a VAE and a text encoder, and `train` encoded stories and one held-out one."""
    model, rng = SMALL_DIT, np.random.default_rng(0)
    params = {
        part: jax.tree.map(
            lambda s: rng.normal(size=s.shape).astype(np.float32), weights.shapes(model, part)
        )
        for part in ("vae", "text")
    }
    tokenizer = weights_folder.parent / "no_tokenizer.model"
    tokenizer.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.write_bytes(b"no captions are read")
    weights.save_weights(weights_folder, model, params, tokenizer=tokenizer)
    claim(root, weights_folder, model)
    text = (model.text.max_length, model.text.dim)
    np.save(root / "null_text.npy", rng.normal(size=text).astype(np.float16))
    for split, count in (("train", train), ("heldout", 1)):
        (root / split).mkdir()
        for number in range(count):
            np.savez(
                latents.story_file(root, split, number),
                latents=rng.normal(size=(1 + CHUNKS * 4, 4, 4, 4)).astype(np.float16),
                text=rng.normal(size=(CHUNKS, *text)).astype(np.float16),
                described=rng.normal(size=(CHUNKS, *text)).astype(np.float16),
                embedding=rng.normal(size=(CHUNKS, text[1])).astype(np.float32),
                relevance=rng.uniform(size=(CHUNKS, CHUNKS)).astype(np.float32),
            )
