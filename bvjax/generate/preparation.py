"""Changes of the bank before the chunk of a round is made: entries encoded again, a sink that takes in, a new segment."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.denoiser.types import ChunkInput, ChunkReport, Latents, MemoryState
from bvjax.errors import UserError
from bvjax.generate import steps
from bvjax.generate.decoding import decode_piece, encode_image
from bvjax.generate.script import Script
from bvjax.memory.ema_sink import absorb
from bvjax.policies.schedule import Round
from bvjax.random import purpose_key
from bvjax.sharding import Layout


class Bank(Protocol):
    """A bank that can be written, emptied and changed."""

    def write(self, inputs: ChunkInput, latents: Latents) -> ChunkReport: ...

    def change(self, state: MemoryState | None) -> None:
        """Puts another state in place of its own; None: an empty one."""

    def state(self) -> MemoryState: ...


@dataclasses.dataclass
class Preparation:
    """The latents that rounds to come need, and what is made of them."""

    model: ModelConfig
    bank: Any
    script: Script
    oracle: Float[np.ndarray, "n ids"] | None
    vae_params: Any
    layout: Layout
    decay: float  # of the sink

    def __post_init__(self):
        self._refreshed = {entry.chunk for turn in self.script.turns for entry in turn.refresh}
        self._segments = any(turn.restart for turn in self.script.turns)
        self._latents: dict[int, Latents] = {}
        self._segment: list[Latents] = []

    def keep(self, chunk_id: int, latents: Latents) -> None:
        """Keeps the latents of a finished piece as long as a round may want them."""
        own = latents[-ChunkGrid.of(self.model).latents_per_chunk :]
        if chunk_id in self._refreshed:
            self._latents[chunk_id] = own
            self._latents.pop(chunk_id - max(self.model.retrieval.span, 1), None)
        if self._segments:
            self._segment.append(own)

    def before(self, turn: Round) -> None:
        """Does what `turn` says comes before its passes."""
        for chunk_id in turn.absorb:
            self._absorb(chunk_id)
        if turn.restart:
            (entry,) = turn.refresh
            self._restart(entry.chunk, entry.caption, turn.origin)
            return
        for entry in turn.refresh:
            inputs = self.inputs(entry.chunk, entry.caption)
            if entry.found_by is not None:
                embedding = np.asarray(self.script.conditions.embedding)[entry.found_by]
                inputs = dataclasses.replace(inputs, embedding=embedding)
            self.bank.write(inputs, self._latents[entry.chunk])

    def inputs(self, chunk_id: int, row: int, origin: int = 0) -> ChunkInput:
        """Inputs of a chunk under a caption, as the memory counts chunks; a segment has noise of its own."""
        key = self.script.keys[chunk_id]
        key = purpose_key(key, "segment", origin) if origin else key
        shot = self.script.shots.get(chunk_id, 0)
        return steps.chunk_input(
            self.script.conditions, key, self.oracle, row, chunk_id - origin, shot
        )

    def _absorb(self, chunk_id: int) -> None:
        grid, patch = ChunkGrid.of(self.model), self.model.dit.patch[0]
        sink = grid.first_entry_latents // patch * grid.tokens_per_latent
        self.bank.change(
            _absorbed(
                self.bank.state(), np.int32(chunk_id), grid.tokens_per_chunk, sink, self.decay
            )
        )

    def _restart(self, chunk_id: int, row: int, origin: int) -> None:
        """Begins a segment whose first chunk is `chunk_id`."""
        if self.vae_params is None:
            raise UserError("policy causvid encodes a frame again and needs the weights of the VAE")
        frame, last = self._first_latent(), self._latents[chunk_id]
        inputs, memory = self.inputs(chunk_id, row, origin), self.model.memory
        self.bank.change(None)
        if self.model.chunk.first == "separate":
            self._segment = [jnp.asarray(frame), last]
            if memory.anchor:
                self.bank.write(dataclasses.replace(inputs, chunk_id=jnp.int32(0)), frame)
        else:
            last = jnp.concatenate([jnp.asarray(frame), last[1:]])
            self._segment = [last]
        self.bank.write(inputs, last)

    def _first_latent(self) -> Float[np.ndarray, "1 h w z"]:
        """The frame at which the last chunk begins, encoded as a first frame.

        It is the last frame before the chunk, or with chunk.first="joined" that of its first latent.
        """
        separate = self.model.chunk.first == "separate"
        state, frames = None, None
        for latents in self._segment[:-1] if separate else self._segment:
            state, frames = decode_piece(self.vae_params, self.model, state, latents, self.layout)
        assert frames is not None
        grid = ChunkGrid.of(self.model)
        back = 0 if separate else self.model.vae.temporal_factor * (grid.latents_per_chunk - 1)
        picture = np.asarray(frames[len(frames) - 1 - back])
        return encode_image(self.vae_params, self.model, picture, self.layout)


def with_ids(report: ChunkReport, origin: int, anchor: bool) -> ChunkReport:
    """A report with the ids of the video; `origin` is where the memory counts from."""
    if not origin:
        return report
    ids = report.chunk_id
    return dataclasses.replace(report, chunk_id=jnp.where(ids >= int(anchor), ids + origin, ids))


def _absorbed(state, chunk_id, tokens, sink, decay):
    null = state.null_bank
    null = None if null is None else _absorb_program(null, chunk_id, tokens, sink, decay)
    return MemoryState(
        bank=_absorb_program(state.bank, chunk_id, tokens, sink, decay), null_bank=null
    )


_absorb_program = jax.jit(
    absorb, static_argnames=("tokens", "sink", "decay"), donate_argnames="bank"
)
