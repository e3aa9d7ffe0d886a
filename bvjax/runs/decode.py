"""video.mp4 of a run, made again from the latents on disk."""

from __future__ import annotations

import os

import numpy as np

from bvjax.errors import UserError
from bvjax.generate import decoding
from bvjax.loading.bundle import Bundle
from bvjax.media import video_io
from bvjax.runs.finished import check_chunk, finished_chunks
from bvjax.runs.fit import check_weights
from bvjax.runs.run_dir import RunDir


def decode(run: RunDir, bundle: Bundle) -> int:
    """Makes video.mp4 again from the latents on disk; returns its number of frames."""
    check_weights(run, bundle)
    model, state, frames = run.settings.model, None, 0
    done = run.load_latents(run.latent_ids(), tidy=False)
    finished_chunks(run.path, run.grid, done)
    if list(done) != sorted(done) and len(done) < len(run.latent_ids()):
        raise UserError(
            f"policy {model.policy.name} makes the last chunks first: there is a video when all are there"
        )
    temporary = run.path / f".{run.video.name}.{os.getpid()}.tmp"
    try:
        with video_io.VideoWriter(temporary, model.chunk.fps, run.settings.scale) as writer:
            for chunk_id, latents in sorted(done.items()):
                state, piece = decoding.decode_piece(
                    bundle.params["vae"], model, state, latents, bundle.layout
                )
                check_chunk(model, run.number_of(chunk_id), latents, None, bool(state.finite))
                writer.write(np.asarray(piece))
                frames += len(piece)
        os.replace(temporary, run.video)
    finally:
        temporary.unlink(missing_ok=True)
    return frames
