"""Losses of the VAE on held-out stories: PSNR and SSIM, and PSNR of the subjects' pixels."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, UInt8

from bvjax.chunking import ChunkGrid
from bvjax.generate.decoding import decode_piece
from bvjax.losses.reconstruction import psnr, ssim
from bvjax.lvbench.intervals import mean
from data_pipelines.storyworld import Story, make_story, truth
from experiments.evaluation.results import Record
from experiments.evaluation.under_test import SPLIT, UnderTest

MASK_EVERY = 4  # frames: ground-truth masks are slow to draw
ENOUGH_PIXELS = 16  # of subjects, for a frame to count

_psnr, _ssim = jax.jit(psnr), jax.jit(ssim)  # means over frames


def through_vae(
    tested: UnderTest, frames: UInt8[np.ndarray, "f h w 3"]
) -> UInt8[np.ndarray, "f h w 3"]:
    """A whole video encoded and decoded, streamed chunk by chunk as generation decodes."""
    latents, model = tested.encoders.latents(frames), tested.model
    cuts = [0, *range(1, len(latents), ChunkGrid.of(model).latents_per_chunk), len(latents)]
    state, out = None, []
    for start, stop in zip(cuts, cuts[1:], strict=False):
        state, piece = decode_piece(tested.params["vae"], model, state, latents[start:stop])
        out.append(piece)
    return np.concatenate(out)


def subject_psnr(
    frames: UInt8[np.ndarray, "f h w 3"],
    rebuilt: UInt8[np.ndarray, "f h w 3"],
    masks: Bool[np.ndarray, "f h w"],
) -> Float[np.ndarray, "g"]:
    """PSNR (dB) over the masked pixels of each frame that has enough of them."""
    error = ((frames.astype(np.float64) - rebuilt) / 255.0) ** 2
    count = masks.sum((1, 2))
    keep = count >= ENOUGH_PIXELS
    mse = (error.mean(-1) * masks).sum((1, 2))[keep] / count[keep]
    return -10.0 * np.log10(np.maximum(mse, 1e-10))


def measure_story(tested: UnderTest, seed: int) -> Record:
    """Means over the frames of one held-out story; `subject_psnr` is None if no subject is seen."""
    tested.need("vae")
    story: Story = make_story(seed, SPLIT)
    frames = tested.frames(story)
    rebuilt = through_vae(tested, frames)
    pair = [x.astype(np.float32) / 255.0 for x in (frames, rebuilt)]
    c, some = tested.model.chunk, range(0, len(frames), MASK_EVERY)
    facts = truth(story, some, height=c.height, width=c.width, fps=c.fps, masks=True)
    rows = subject_psnr(frames[::MASK_EVERY], rebuilt[::MASK_EVERY], ~facts.background)
    return {
        "psnr": float(_psnr(*pair)),
        "ssim": float(_ssim(*pair)),
        "subject_psnr": float(rows.mean()) if len(rows) else None,
    }


def summary(records: dict[str, Record]) -> dict[str, Any]:
    """Means over stories."""
    names = ("psnr", "ssim", "subject_psnr")
    return {n: mean([r[n] for r in records.values() if r[n] is not None]) for n in names}
