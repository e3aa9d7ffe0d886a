"""Self-rollout: windows of chunks made by the model from its own past, and their derivative (Self Forcing, Eq. 1).

`next_window` goes on with a live rollout: the chunks before its window are made as generation makes them, those of
the window by the few-step sampler up to one exit step, the same for all; each becomes an entry of the bank.  Nothing
of that is differentiated.  `pull_back` then evaluates each chunk of the window once more at its exit, with the
entries that it saw as constants, and takes the derivative of that evaluation alone:

  gradient = sum over chunks of (d latents of the exit evaluation / d params)^T cotangent

So nothing flows through the bank, from one chunk to the next, or through the evaluations before the exit; one chunk's
activations live at a time, and they never live beside those of whatever judged the window.  The number of chunks
before the window and the exit step are traced: one program serves all.

One video at a time; `key_data` and whole stories are in the state, so that a live rollout can be saved with it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.denoiser.context import select_entries
from bvjax.denoiser.encode import encode_chunk
from bvjax.denoiser.exit_step import exit_latents, sample_to_exit
from bvjax.denoiser.types import ChunkInput, Latents, MemoryState
from bvjax.errors import UserError
from bvjax.memory import spare_slots
from bvjax.memory.retrieval import SelectedBank, Selection
from bvjax.memory.rules import check_generation
from bvjax.memory.spare_slots import SpareBank
from bvjax.random import purpose_key
from bvjax.sharding import ONE_DEVICE, Layout


@struct.dataclass
class Story:
    """An encoded example as a rollout uses it: its captions, and its own latents to compare with."""

    text: Float[Array, "c t d"]
    embedding: Float[Array, "c d"]
    anchor: Float[Array, "1 h w z"]
    chunks: Float[Array, "c l h w z"]


@struct.dataclass
class Live:
    """A rollout between two windows.  One whose `done` is the number of chunks is over."""

    bank: SpareBank
    story: Story
    anchor: Float[Array, "1 h w z"]  # as the model made it
    done: Int[Array, ""]  # chunks made so far
    key_data: UInt32[Array, "words"]  # of the seed of the video


@struct.dataclass
class AnchorExit:
    """The anchor of a window's video."""

    latents: Float[Array, "1 h w z"]
    real: Float[Array, "1 h w z"]
    text: Float[Array, "t d"]  # of the story's first caption
    fresh: Bool[Array, ""]  # whether it was made with this window, up to the exit step
    noisy: Float[Array, "1 h w z"]  # what the exit evaluation was given, where it is fresh


@struct.dataclass
class Window:
    """The chunks of a window: what the model made, what the story has there, and what a derivative needs."""

    latents: Float[Array, "n l h w z"]
    real: Float[Array, "n l h w z"]
    text: Float[Array, "n t d"]
    embedding: Float[Array, "n d"]
    start: Int[Array, ""]  # chunks of the story before the window
    noisy: Float[Array, "n l h w z"]  # what the exit evaluations were given
    selection: Selection  # the entries that each chunk saw, stacked
    exit_step: Int[Array, ""]
    key_data: UInt32[Array, "words"]
    anchor: AnchorExit


@dataclasses.dataclass(frozen=True)
class SelfRollout:
    """The model that rolls itself out, `window` chunks at a time.

    `live` rollouts go on to the end of their story, window after window; others begin anew each time, and their
    window begins anywhere.
    """

    model: ModelConfig
    null_text: Any  # float32 [t, dt]; read with guidance alone
    window: int
    live: bool
    layout: Layout = ONE_DEVICE

    def __post_init__(self):
        """Raises `UserError` for what a self-rollout cannot do."""
        model = self.model
        check_generation(model.retrieval.kind)
        if model.sampler.kind != "few_step":
            raise UserError(
                f"sampler.kind is {model.sampler.kind!r}; Self Forcing trains a few-step generator, so it must be "
                "few_step"
            )
        if model.chunk.first == "overlap":
            raise UserError(
                "chunk.first='overlap' hands the end of each window to the next, which a self-rollout does not do; "
                "use chunk.first='separate'"
            )
        if model.guidance.two_banks:
            raise UserError(
                "guidance.bank='two' keeps a second bank, which a self-rollout does not; use guidance.bank='one'"
            )
        if model.memory.offload != "none":
            raise UserError(
                f"memory.offload is {model.memory.offload!r}; it must be none in a self-rollout, whose bank stays on "
                "the device"
            )
        if model.levels.start != "full":
            raise UserError(
                f"levels.start is {model.levels.start!r}; it must be full in a self-rollout, which begins with noise"
            )
        if self.window < 1:
            raise UserError(f"self_forcing.window is {self.window}; it must be 1 or more")

    @property
    def grid(self) -> ChunkGrid:
        return ChunkGrid.of(self.model)

    @property
    def last_step(self) -> int:
        """The last evaluation of the sampler."""
        return self.model.sampler.steps - 1

    def check_story(self, chunks: int) -> None:
        """Raises `UserError` for stories that are shorter than a window."""
        if self.window > chunks:
            raise UserError(
                f"self_forcing.window is {self.window}, but the stories have {chunks} chunks; it must be 1 to "
                f"{chunks}"
            )

    def over(self, story: Story) -> Live:
        """A rollout that is over: the next window begins a new one.  `story` gives the sizes."""
        self.check_story(len(story.text))
        seed = jax.random.key_data(jax.random.key(0))
        return Live(
            bank=self._empty_bank(len(story.text)),
            story=jax.tree.map(jnp.zeros_like, story),
            anchor=jnp.zeros(story.anchor.shape, jnp.float32),
            done=jnp.int32(len(story.text)),
            key_data=seed,
        )

    def _empty_bank(self, chunks: int) -> SpareBank:
        """As many spare slots as entries of a window can evict others in a story of so many chunks."""
        evicted = max(chunks + 1 - self.model.memory.slots, 0)  # the anchor is an entry too
        return spare_slots.init_spare_bank(self.model, min(evicted, self.window), self.layout)

    def ended_unless_finite(self, live: Live, window: Window) -> Live:
        """The rollout, or one that is over where it, its story or its newest window has a number that is not finite.

        Zeros are in its place: nothing that is not finite is carried from update to update.
        """
        numbers = [
            x
            for x in jax.tree.leaves((live, window.latents))
            if jnp.issubdtype(x.dtype, jnp.inexact)
        ]
        finite = jnp.stack([jnp.isfinite(x).all() for x in numbers]).all()
        kept = jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros_like(x)), live)
        done = jnp.where(finite, live.done, len(live.story.text))
        return dataclasses.replace(kept, done=done)

    # ---- forward -------------------------------------------------------------------------------
    def next_window(
        self,
        params: Any,
        live: Live | None,
        story: Story,
        key: Key[Array, ""],
        exit_step: Int[Array, ""],
        start: Int[Array, ""] | None = None,
    ) -> tuple[Live, Window]:
        """The rollout after its next window, and that window.

        Args:
            params: of the DiT.
            live: a rollout to go on with; one that has not enough chunks left, or None, begins `story`.
            story: what begins now, if one does.
            key: the seed of a video that begins now, and of where its window begins.
            exit_step: of the chunks of the window, the same for all videos of an update.
            start: chunks before the first window of a story that begins now; None draws it: any with `live` off,
                else fewer than a window has, so that videos do not all stand at the same chunk.
        """
        chunks = len(story.text)
        self.check_story(chunks)
        room = chunks - self.window
        if start is None:
            most = min(self.window - 1, room) if self.live else room
            start = jax.random.randint(purpose_key(key, "window start"), (), 0, most + 1)

        def begin():
            return self._begin(params, story, key, exit_step, start)

        if live is None:
            live, first, *anchor = begin()
        else:
            go_on = lambda: (live, live.done, jnp.zeros((), bool), jnp.zeros_like(live.anchor))
            live, first, *anchor = jax.lax.cond(live.done > room, begin, go_on)
        return self._roll(params, live, first, exit_step, *anchor)

    def _begin(self, params, story, key, exit_step, start):
        """A rollout with its anchor in the bank; whether that was made up to the exit step, and what it was given."""
        key_data = jax.random.key_data(key)
        bank = self._empty_bank(len(story.text))
        latents = noisy = jnp.zeros(story.anchor.shape, jnp.float32)
        fresh = jnp.zeros((), bool)
        if self.model.chunk.first == "separate":
            inputs = self._inputs(story, key_data, 0, jnp.int32(0))
            # Where chunks come before the window, the anchor is of them: made as generation makes it.
            fresh = start == 0
            step = jnp.where(fresh, exit_step, self.last_step)
            noisy, latents = sample_to_exit(params, self.model, inputs, None, step, self.layout)
            if self.model.memory.anchor:
                seen = MemoryState(SelectedBank(bank.bank, self._select(bank, inputs)), None)
                bank = self._write(params, bank, inputs, seen, latents)
        return Live(bank, story, latents, jnp.int32(0), key_data), start, fresh, noisy

    def _roll(
        self, params, live: Live, first, exit_step, fresh, noisy_anchor
    ) -> tuple[Live, Window]:
        """Chunks from `live.done` to the end of the window that begins at `first`."""
        story, window = live.story, self.window
        shape = (window, *story.chunks.shape[1:])
        empty = jax.tree.map(
            lambda x: jnp.zeros((window, *x.shape), x.dtype),
            jax.eval_shape(
                lambda bank: self._select(bank, self._inputs(story, live.key_data, 0)), live.bank
            ),
        )
        blank = jnp.zeros(shape, jnp.float32)

        def body(number, carry):
            bank, latents, noisy, selections = carry
            inside = number >= first
            bank = jax.lax.cond(inside, spare_slots.hold, spare_slots.begin_window, bank)
            inputs = self._inputs(story, live.key_data, number)
            selection = self._select(bank, inputs)
            step = jnp.where(inside, exit_step, self.last_step)
            seen = MemoryState(SelectedBank(bank.bank, selection), None)
            given, made = sample_to_exit(params, self.model, inputs, seen, step, self.layout)
            bank = self._write(params, bank, inputs, seen, made)
            row = jnp.where(inside, number - first, window)  # behind the end: dropped
            keep = lambda all_, one: all_.at[row].set(one, mode="drop")
            return (
                bank,
                keep(latents, made),
                keep(noisy, given),
                jax.tree.map(keep, selections, selection),
            )

        bank = spare_slots.begin_window(live.bank)
        carry = bank, blank, blank, empty
        bank, latents, noisy, selections = jax.lax.fori_loop(live.done, first + window, body, carry)
        part = lambda x: jax.lax.dynamic_slice_in_dim(x, first, window)
        record = Window(
            latents=latents,
            real=part(story.chunks).astype(jnp.float32),
            text=part(story.text),
            embedding=part(story.embedding),
            start=first,
            noisy=noisy,
            selection=selections,
            exit_step=exit_step,
            key_data=live.key_data,
            anchor=AnchorExit(
                latents=live.anchor,
                real=story.anchor.astype(jnp.float32),
                text=story.text[0],
                fresh=fresh,
                noisy=noisy_anchor,
            ),
        )
        return dataclasses.replace(live, bank=bank, done=first + window), record

    def _write(self, params, bank: SpareBank, inputs, seen, latents) -> SpareBank:
        """The bank with an entry of finished latents."""
        gathered = self.layout.mesh is not None
        encoded, _ = encode_chunk(params, self.model, seen, inputs, latents, self.layout, gathered)
        if encoded is None:
            return bank
        return spare_slots.write(
            bank, encoded.entry, inputs.embedding[None], inputs.chunk_id, self.model, self.layout,
            latents[None],
        )  # fmt: skip

    def _select(self, bank: SpareBank, inputs: ChunkInput) -> Selection:
        table = spare_slots.table_of(bank)
        return spare_slots.placed(bank, select_entries(self.model, table, inputs))

    def _inputs(
        self, story: Story, key_data: Array, row: Int[Array, ""] | int, chunk_id: Any = None
    ) -> ChunkInput:
        """The inputs of the chunk in a row of the captions, or of the anchor (id 0 of row 0)."""
        if chunk_id is None:
            chunk_id = jnp.int32(row + self.grid.first_id)
        return self._chunk_input(story.text[row], story.embedding[row], key_data, chunk_id)

    def _chunk_input(self, text, embedding, key_data, chunk_id) -> ChunkInput:
        return ChunkInput(
            chunk_id=chunk_id,
            text=jnp.asarray(text, jnp.float32),
            embedding=jnp.asarray(embedding, jnp.float32),
            null_text=jnp.asarray(self.null_text, jnp.float32),
            key=jax.random.wrap_key_data(key_data),
        )

    # ---- backward ------------------------------------------------------------------------------
    def chunk_latents(
        self, params: Any, bank: SpareBank, window: Window, row: Int[Array, ""]
    ) -> Latents:
        """The latents of one chunk of a window, by its exit evaluation; differentiable in `params`.

        Args:
            bank: after the window, before the next.
        """
        selection = jax.tree.map(lambda x: x[row], window.selection)
        inputs = self._chunk_input(
            window.text[row], window.embedding[row], window.key_data,
            jnp.int32(window.start + row + self.grid.first_id),
        )  # fmt: skip
        seen = jax.lax.stop_gradient(MemoryState(SelectedBank(bank.bank, selection), None))
        return exit_latents(
            params, self.model, inputs, seen, window.noisy[row], window.exit_step, self.layout
        )

    def anchor_latents(self, params: Any, window: Window) -> Latents:
        """The anchor's latents, as `chunk_latents`."""
        inputs = self._chunk_input(
            window.anchor.text, jnp.zeros_like(window.embedding[0]), window.key_data, jnp.int32(0)
        )
        return exit_latents(
            params, self.model, inputs, None, window.anchor.noisy, window.exit_step, self.layout
        )

    def pull_back(
        self,
        params: Any,
        bank: SpareBank,
        window: Window,
        cotangent: Float[Array, "n l h w z"],
        anchor_cotangent: Float[Array, "1 h w z"] | None = None,
    ) -> Any:
        """The gradient with respect to `params` of a window's latents, given that of a loss of them.

        Args:
            bank: after the window, before the next.
            cotangent: the loss's derivative with respect to `window.latents`.
            anchor_cotangent: with respect to `window.anchor.latents`, where the window has made one; None: the
                loss does not depend on it.
        """

        def of_chunk(total, inputs):
            row, given = inputs
            _, pull = jax.vjp(lambda p: self.chunk_latents(p, bank, window, row), params)
            return jax.tree.map(jnp.add, total, sharded(pull(given)[0])), None

        sharded = self.layout.constrain_parameters
        start = sharded(jax.tree.map(jnp.zeros_like, params))
        if anchor_cotangent is not None and self.model.chunk.first == "separate":
            start = jax.lax.cond(
                window.anchor.fresh,
                lambda: sharded(
                    jax.vjp(lambda p: self.anchor_latents(p, window), params)[1](anchor_cotangent)[
                        0
                    ]
                ),
                lambda: start,
            )
        total, _ = jax.lax.scan(of_chunk, start, (jnp.arange(self.window), cotangent))
        return total
