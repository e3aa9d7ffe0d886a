"""SkyReels-V2-DF (arXiv 2504.13074): windows that begin with the end of the last one, and no memory but that.

17 frames are shared: decoded, encoded again, and in each pass noised to timestep 20 and labelled so.  With `policy.lag`
0 all frames of a window go together (synchronous); above 0 each block of 5 latent frames, or each frame where 5 does
not divide the window, begins so many steps after the block before (asynchronous; 5 in the released scripts).  The frames
of a window have levels of their own inside the sampler (`diffusion.diffusion_forcing`), so a round is a chunk alone.
"""

from __future__ import annotations

import dataclasses

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig

OVERLAP, NOISE, BLOCK = 17, 20.0, 5  # frames, timestep, latent frames


def configure(model: ModelConfig) -> ModelConfig:
    """Overlapping windows without a bank; the sampler's kind and steps are the model's."""
    chunk, lag = model.chunk, model.policy.lag
    chunk = dataclasses.replace(
        chunk,
        first="overlap",
        overlap_frames=OVERLAP if chunk.frames >= OVERLAP else 1,
        history="pixels",
    )
    model = dataclasses.replace(model, chunk=chunk)
    grid = ChunkGrid.of(model)
    whole = not (grid.window_latents % BLOCK or grid.overlap_latents % BLOCK)
    return dataclasses.replace(
        model,
        memory=dataclasses.replace(model.memory, slots=1, capacity=1, anchor=False),
        retrieval=dataclasses.replace(
            model.retrieval, kind="none", num_recent=0, num_retrieved=0, dense_recent=False
        ),
        rope=dataclasses.replace(model.rope, mode="local"),
        noise=dataclasses.replace(model.noise, base="independent", shuffle=0),
        sampler=dataclasses.replace(
            model.sampler,
            history_noise=NOISE,
            ar_step=lag,
            causal_block=BLOCK if lag and whole else 1,
        ),
        guidance=dataclasses.replace(model.guidance, memory=0.0),
    )
