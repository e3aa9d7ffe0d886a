"""The forward pass of teacher forcing as it is written down: all chunks encoded, all layers' contexts at once."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from bvjax.denoiser.passes import chunk_positions, predict_velocity
from bvjax.losses.forward import TeacherForward
from bvjax.losses.teacher_forcing import TeacherForcing
from bvjax.nets.dit import Context
from bvjax.nets.source_rows import gather_context, per_row


@dataclasses.dataclass(frozen=True)
class WholeContexts(TeacherForward):
    """Masked rows of full entries, for each layer and target, before targets go through; on one device."""

    def entries(self, params, clip, history, noise, key, levels=None):
        if self.model.build.context == "none":  # as many sources as chunks, so that all are encoded
            every = jnp.zeros((*clip.chunks.shape[:2], 1), int)
            history = history.replace(index=every)
        return super().entries(params, clip, history, noise, key, levels)

    def context(self, entries, history, target, sees=None):
        entry_positions, start = self.positions(history, target)
        keys, values, mask = jax.vmap(
            lambda k, v, keep: gather_context(
                k, v, keep, history.index, history.valid, entry_positions,
                self.model.dit.rope_theta, self.layout, history.dense,
            )
        )(entries.kv.keys, entries.kv.values, entries.keep)  # fmt: skip
        similarity = per_row(self.layout, history.similarity, entries.kv.keys.shape[3])
        rows = Context(keys, values, mask=mask, similarity=jnp.broadcast_to(similarity, mask.shape))
        anchor = self.anchor_rows(entries.anchor_kv, history.anchor)
        join = lambda a, b: jnp.concatenate([a, b], axis=3)
        return rows if anchor is None else jax.tree.map(join, anchor, rows), start

    def velocity(self, params, noisy, sigma, text, context, start):
        start = jnp.broadcast_to(jnp.asarray(start), noisy.shape[:2])
        positions = chunk_positions(self.model, noisy.shape[2], start)
        rows = self.model.text.max_length - text.shape[2]
        text = jnp.pad(text, ((0, 0), (0, 0), (0, rows), (0, 0)))
        text = jnp.repeat(text, noisy.shape[1] // text.shape[1], axis=1)
        return predict_velocity(
            self.dit, params, self.model, noisy, sigma, text, positions, context
        )


class WholeContextForcing(TeacherForcing):
    """The loss around it."""

    @property
    def forward(self) -> WholeContexts:
        return WholeContexts(self.model, self.layout)

    def context(self, entries, targets, sees=None):
        return self.forward.context(entries, targets.history, targets.ids, sees)
