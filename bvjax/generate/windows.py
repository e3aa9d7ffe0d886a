"""Rounds of windows: several chunks under way at once, made pass by pass (`bvjax.policies`).

One program serves all rounds of a policy with as many passes, whatever the number of chunks.  A place is given to a
chunk when it enters and kept until nothing sees it in the window any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.denoiser import window
from bvjax.denoiser.denoise import noise_of_chunk, solver_key
from bvjax.denoiser.types import ChunkInput, Latents, MemoryState
from bvjax.denoiser.window import WindowInput
from bvjax.generate.conditions import Conditions
from bvjax.generate.packing import pack_frames
from bvjax.memory.retrieval import Selection
from bvjax.memory.similarity import cosine
from bvjax.policies.schedule import NULL, Place, Round

advance_program = jax.jit(
    window.advance, static_argnames=("model", "passes", "scales"), donate_argnames="state"
)
_noise = jax.jit(noise_of_chunk, static_argnames="model")
_put = jax.jit(window.put, donate_argnames="state")
_take = jax.jit(lambda state, place: window.samples(state)[0, place])


class Windows:
    """The window of a video from round to round."""

    def __init__(
        self,
        params: Any,
        model: ModelConfig,
        conditions: Conditions,
        turns: Sequence[Round],
        scales: window.Scales,
        inputs: Callable[[int], ChunkInput],
    ):
        """
        Args:
            turns: all rounds.
            inputs: of a chunk by its id.
        """
        self._params, self._model, self._conditions = params, model, conditions
        self._grid, self._scales, self._inputs = ChunkGrid.of(model), scales, inputs
        self._places = max(len(turn.places) for turn in turns)
        self._entries = max((len(turn.entry_times) for turn in turns), default=0)
        size = (*self._grid.latent_size, model.dit.in_channels)
        self._shape = (1, self._places, self._grid.latents_per_chunk, *size)
        # Copied: what is given away must be buffers of their own.
        self._state = jax.tree.map(jnp.copy, window.init_window(model.sampler, self._shape))
        self._place_of: dict[int, int] = {}

    def make(
        self,
        turn: Round,
        memory: MemoryState,
        finished: Mapping[int, Latents],
        frame: Callable[[int], Float[np.ndarray, "h w z"]],
    ) -> dict[int, Latents]:
        """Does the passes of a round; returns the latents of the chunks that are finished with it.

        Args:
            finished: latents of chunks that a place may hold clean.
            frame: latents of a frame of the video that is finished, for packing.
        """
        self._seat(turn, finished)
        packed = pack_frames(self._model, turn.packed, frame) if turn.packed else None
        inputs = self._window_input(turn, memory, packed)
        self._state = advance_program(
            self._params, self._model, self._state, memory if self._entries else None, inputs,
            turn.passes, self._scales,
        )  # fmt: skip
        return {i: _take(self._state, np.int32(self._place_of[i])) for i in turn.emits}

    def _seat(self, turn: Round, finished: Mapping[int, Latents]) -> None:
        """Gives places to the chunks that enter, noise or latents in them."""
        inside = {place.chunk for place in turn.places}
        self._place_of = {i: p for i, p in self._place_of.items() if i in inside}
        free = [p for p in range(self._places) if p not in self._place_of.values()]
        for place in turn.places:
            clean = place.start >= self._model.sampler.steps
            if place.chunk not in self._place_of:
                self._place_of[place.chunk] = free.pop(0)
            elif not (clean and place.chunk in finished):
                continue
            latents = (
                finished[place.chunk]
                if clean
                else _noise(self._model, self._inputs(place.chunk))[0]
            )
            seat = np.int32(self._place_of[place.chunk])
            self._state = _put(self._state, seat, jnp.asarray(latents, jnp.float32))

    def _window_input(self, turn: Round, memory: MemoryState, packed: Any) -> WindowInput:
        seats: list[Place | None] = [None] * self._places
        for place in turn.places:
            seats[self._place_of[place.chunk]] = place
        steps, text = self._model.sampler.steps, np.asarray(self._conditions.text)
        null = np.asarray(self._conditions.null_text)[0]
        ids = sorted(turn.entry_times)
        ids += [-1] * (self._entries - len(ids))
        sees = np.zeros((self._places, self._places), bool)
        entry_sees = np.zeros((self._places, self._entries), bool)
        for row, seat in enumerate(seats):
            if seat is not None:
                sees[row, [self._place_of[j] for j in seat.sees]] = True
                entry_sees[row] = [j in (seat.entries or ()) for j in ids]
        captions = [NULL if place is None else place.caption for place in seats]
        some = turn.places[0].chunk
        keys = [solver_key(self._inputs(some if p is None else p.chunk)) for p in seats]
        return WindowInput(
            start=np.array([steps if p is None else p.start for p in seats], np.int32),
            text=np.stack([null if row == NULL else text[row] for row in captions]),
            null_text=null,
            times=np.array([0 if p is None else p.time or 0 for p in seats], np.int32),
            sees=sees,
            keys=jnp.stack(keys),
            entry_sees=entry_sees,
            entry_times=np.array([turn.entry_times.get(j, 0) for j in ids], np.int32),
            entries=_select(memory.bank, self._inputs(some), np.array(ids, np.int32))
            if self._entries
            else None,
            packed=packed,
        )


@jax.jit
def _select(bank, inputs, ids):
    """The entries `ids` of a bank, whole as far as they are stored; of those that there are not, none."""
    match = bank.valid[:, None] & (bank.chunk_id[:, None] == ids[None, :, None])
    found = match.any(-1) & (ids >= 0)
    index = jnp.where(found, match.argmax(-1), 0).astype(jnp.int32)
    scores = cosine(inputs.embedding[None, None], bank.embedding)
    similarity = jnp.take_along_axis(scores, index, axis=-1)
    return Selection(
        index=index,
        chunk_id=jnp.where(found, ids[None], -1),
        valid=found,
        recent=found,
        scores=scores,
        similarity=jnp.where(found, similarity, 0.0),
    )


def first_needed(turns: Sequence[Round], steps: int, done: Mapping[int, Latents]) -> int:
    """The round from which on passes must be done when the chunks `done` are there already.

    It is the last before anything new at which nothing is under way: what is under way cannot be had from finished
    latents, and is made again from its noise.
    """
    new = [
        n
        for n, turn in enumerate(turns)
        if any(p.start < steps and p.chunk not in done for p in turn.places)
    ]
    if not new:
        return len(turns)
    fresh = [
        n
        for n, turn in enumerate(turns[: new[0] + 1])
        if all(p.start <= 0 or p.start >= steps for p in turn.places)
    ]
    return fresh[-1]
