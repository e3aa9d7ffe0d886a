"""One video of a story under a configuration, with what it took."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from bvjax import policies
from bvjax.config import ModelConfig
from bvjax.denoiser.types import init_state
from bvjax.generate.decoding import decode_piece
from bvjax.generate.rollout import stream
from experiments.evaluation.under_test import UnderTest
from experiments.tables.stories import HeldoutStory


@dataclasses.dataclass(frozen=True)
class Made:
    """A video; seconds are of the denoiser, a chunk, and count what compiling took unless `warm`.

    On a CPU they are of the processor, which other work beside it does not change.
    """

    frames: UInt8[np.ndarray, "f h w 3"]
    seconds: float
    warm: bool
    memory_bytes: int  # of what is kept of chunks before


class Generator:
    """Makes videos with the parts of a weights folder and any DiT; knows which programs exist already."""

    def __init__(self, tested: UnderTest):
        tested.need("dit", "vae", "text")
        self._tested, self._made = tested, set[ModelConfig]()

    def make(self, params: Any, model: ModelConfig, held: HeldoutStory, seed: int) -> Made:
        """The video of a story.

        Args:
            params: of the DiT.
            model: whose windows may be other than the chunks of the story (SkyReels-V2): each is told the caption of
                the chunk that it begins with, and frames beyond the story's are left out.
        """
        conditions = self._tested.conditions(held.story)
        vae_params = self._tested.params["vae"]
        warm = model in self._made
        clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
        began, pieces = clock(), []
        for piece in stream(params, model, conditions, jax.random.key(seed), vae_params=vae_params):
            pieces.append((piece.chunk_id, jax.block_until_ready(piece.latents)))
        seconds = (clock() - began) / held.story.n_chunks
        self._made.add(model)
        state, frames = None, []
        # A policy may make the last chunk first.
        for _, latents in sorted(pieces, key=lambda item: item[0]):
            state, new = decode_piece(vae_params, model, state, latents)
            frames.append(np.asarray(new))
        video = np.concatenate(frames)[: held.frames]
        return Made(video, seconds, warm, memory_bytes(model))


def memory_bytes(model: ModelConfig) -> int:
    """Bytes of the bank of a configuration."""
    shapes = jax.eval_shape(lambda: init_state(policies.without(model)))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
