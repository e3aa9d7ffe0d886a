"""Scores of a window of chunks: the velocity of each chunk given the window's clean chunks before it.

The real and the fake score of distribution matching are networks like the generator, which know one chunk and its
history.  They see a window as a short video: its chunks are 1, 2, ..., each sees the anchor and what generation would
retrieve of the chunks before it, encoded by the score itself, with its own weights.  A window that is a whole video is
so scored as generation makes it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from bvjax.config import ModelConfig
from bvjax.denoiser import guidance
from bvjax.losses.clip import Clip
from bvjax.losses.dmd import VelocityFn
from bvjax.losses.forward import TeacherForward
from bvjax.losses.history import HistoryConfig, draw_history
from bvjax.memory.rules import number_of
from bvjax.random import AnyKey
from bvjax.sharding import ONE_DEVICE, Layout

CLEAN = HistoryConfig(anchor_drop=0.0, caption_drop=0.0, noise_chance=0.0)


@dataclasses.dataclass(frozen=True)
class WindowScores:
    """A score of windows; guided as `model.guidance` says, by the caption and by what was retrieved."""

    model: ModelConfig
    null_text: Any  # float32 [t, dt]
    layout: Layout = ONE_DEVICE

    def of_window(self, params: Any, clip: Clip, key: AnyKey) -> VelocityFn:
        """The velocity of noised chunks [b, n, l, h, w, z] at one level a video.

        Args:
            params: of the score.
            clip: the window's clean chunks, its captions and the anchor.
            key: of what a retrieval rule and the probes draw.
        """
        batch, chunks = clip.chunks.shape[:2]
        target = jnp.broadcast_to(jnp.arange(1, chunks + 1), (batch, chunks))
        kind = jnp.full((batch, chunks), number_of(self.model.retrieval.kind))
        history = draw_history(
            key, target, clip.embedding, None, self.model.retrieval, CLEAN, kind, clip.chunks
        )
        forward = TeacherForward(self.model, self.layout)
        entries = forward.entries(params, clip, history, CLEAN, key)

        def branch(text, sees=None):
            context, start = forward.context(entries, history, target, sees)

            def velocity(x, sigma):
                levels = jnp.broadcast_to(sigma[:, None], (batch, chunks))
                return forward.velocity(params, x, levels, text, context, start)

            return velocity

        conditional = branch(clip.text)
        if not self.model.guidance.guided:
            return conditional
        null = branch(self._null(clip.text), guidance.null_sees(self.model, history.valid))
        scale = guidance.guidance_scale(self.model, history.valid)
        return guidance.guide(conditional, null, scale)

    def of_anchor(self, params: Any, text: Float[Array, "b 1 t d"]) -> VelocityFn:
        """The velocity of noised anchors [b, 1, 1, h, w, z] given their captions alone."""
        forward = TeacherForward(self.model, self.layout)

        def branch(text):
            return lambda x, sigma: forward.velocity(params, x, sigma[:, None], text, None, 0)

        return guidance.guide(branch(text), branch(self._null(text)), self.model.guidance.scale)

    def _null(self, text):
        return jnp.broadcast_to(jnp.asarray(self.null_text, text.dtype), text.shape)
