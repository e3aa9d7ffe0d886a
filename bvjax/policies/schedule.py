"""Rounds: what a policy makes a video of, in numbers that people can read."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np
from jaxtyping import Int

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig

NULL = -1  # in place of a row of the captions: the null caption
NOT_BEGUN = -1  # in a level matrix: pure noise, or not in a window yet


@dataclasses.dataclass(frozen=True)
class Place:
    """A chunk in the window of a round."""

    chunk: int  # id
    start: int  # step of the sampler that its first pass takes; below 0 it waits
    caption: int  # row of the captions, or NULL
    sees: tuple[int, ...] = ()  # ids of other chunks of the window
    entries: tuple[int, ...] | None = None  # ids of the bank; None: by `retrieval`
    time: int | None = None  # latent frame at which RoPE says that it begins; None: by `rope.mode`


@dataclasses.dataclass(frozen=True)
class Pack:
    """Finished latent frames that all places see at a lower resolution, as one more place that is never denoised."""

    frames: tuple[int, ...]  # of the whole video, in order
    pool: tuple[int, int, int]  # latents (t, h, w) of which one is the mean
    time: int  # at which RoPE says that the first is; the others follow


@dataclasses.dataclass(frozen=True)
class Commit:
    """A finished chunk that is encoded and written to the bank."""

    chunk: int  # id
    caption: int  # row of the captions, or NULL
    found_by: int | None = None  # row of the caption that retrieval finds it by; None: the same


@dataclasses.dataclass(frozen=True)
class Round:
    """A window, the passes over it, and what is done before and after them."""

    places: tuple[Place, ...]
    passes: int
    emits: tuple[int, ...] = ()  # ids of chunks that are finished now, as they come out
    commits: tuple[Commit, ...] = ()
    refresh: tuple[Commit, ...] = ()  # entries that are encoded again before the passes
    restart: bool = (
        False  # the bank is emptied before the passes, and what `refresh` names begins a new one
    )
    absorb: tuple[int, ...] = ()  # entries that the sink takes in before the passes
    origin: int = 0  # chunk ids of the memory, its times and noise count from here
    entry_times: Mapping[int, int] = dataclasses.field(default_factory=dict)  # of named entries
    packed: tuple[Pack, ...] = ()

    def alone(self, steps: int) -> bool:
        """Returns whether it is one chunk from noise to the end that sees what `retrieval` brings."""
        (place, *others) = self.places
        whole = place.start == 0 and self.passes == steps
        return whole and not others and place.entries is None

    def given(self, chunks: Collection[int], steps: int) -> Round:
        """The round with some chunks clean from the beginning."""
        places = tuple(
            dataclasses.replace(place, start=steps) if place.chunk in chunks else place
            for place in self.places
        )
        return dataclasses.replace(self, places=places)


def chunk_alone(chunk: int, caption: int, steps: int, **others) -> Round:
    """The round of a chunk by itself that sees what `retrieval` brings, is written and comes out."""
    return Round(
        places=(Place(chunk, 0, caption),),
        passes=steps,
        emits=(chunk,),
        commits=(Commit(chunk, caption),),
        **others,
    )


def staggered(
    grid: ChunkGrid, steps: int, lag: int
) -> Iterator[tuple[tuple[tuple[int, int], ...], tuple[int, ...]]]:
    """Chunks in flight, each `lag` steps behind the one before: for each round of `lag` passes, ((id, start), ...)
    in order of time, and the ids that are finished after it.

    The window grows by a chunk a round to steps / lag of them, and shrinks at the end.
    """
    ids, depth = list(grid.chunk_ids), -(-steps // lag)
    for turn in range(len(ids) + depth - 1):
        first, last = max(0, turn - depth + 1), min(turn, len(ids) - 1)
        flying = tuple((ids[j], lag * (turn - j)) for j in range(first, last + 1))
        yield flying, tuple(i for i, start in flying if start + lag >= steps)


def clock(model: ModelConfig, grid: ChunkGrid, ids: Iterable[int]) -> dict[int, int]:
    """The latent frame at which each of some chunks begins, for RoPE.

    With rope.mode="absolute" where it is in the video; otherwise the first of them, the anchor aside, is right behind
    the anchor, so that times do not grow with the video.
    """
    ids = list(ids)
    if model.rope.mode == "absolute":
        return {i: grid.time_base(i) for i in ids}
    anchor = model.memory.anchor
    shift = min((i for i in ids if i > 0 or not anchor), default=1) - 1
    return {
        i: 0 if anchor and i == 0 else grid.time_base(1) + (i - 1 - shift) * grid.latents_per_chunk
        for i in ids
    }


def level_matrix(
    rounds: Iterable[Round], chunks: Iterable[int], steps: int
) -> Int[np.ndarray, "passes chunks"]:
    """The step of the sampler that each chunk takes in each pass; NOT_BEGUN before the first.

    `steps` is that of a finished chunk, whether or not it is in the window.
    """
    ids = list(chunks)
    state = {i: NOT_BEGUN for i in ids}
    rows = []
    for turn in rounds:
        for k in range(turn.passes):
            for place in turn.places:
                state[place.chunk] = int(np.clip(place.start + k, NOT_BEGUN, steps))
            rows.append([state[i] for i in ids])
        for place in turn.places:  # what the round leaves behind
            if place.start + turn.passes >= steps:
                state[place.chunk] = steps
    return np.array(rows, np.int32).reshape(-1, len(ids))


def context_plan(rounds: Iterable[Round]) -> list[dict[int, tuple[tuple[int, ...], ...]]]:
    """For each round what each place sees: (chunks of the window, named entries of the bank)."""
    return [
        {place.chunk: (place.sees, place.entries or ()) for place in turn.places} for turn in rounds
    ]
