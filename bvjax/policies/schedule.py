"""Rounds: what a policy makes a video of, in numbers that people can read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Int

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
class Commit:
    """A finished chunk that is encoded and written to the bank."""

    chunk: int  # id
    caption: int  # row of the captions, or NULL


@dataclasses.dataclass(frozen=True)
class Round:
    """A window, the passes over it, and what is done before and after them."""

    places: tuple[Place, ...]
    passes: int
    emits: tuple[int, ...] = ()  # ids of chunks that are finished now, as they come out
    commits: tuple[Commit, ...] = ()
    refresh: tuple[Commit, ...] = ()  # entries that are encoded again before the passes
    restart: bool = False  # the bank is emptied before the passes
    entry_times: Mapping[int, int] = dataclasses.field(default_factory=dict)  # of named entries

    def alone(self, steps: int) -> bool:
        """Returns whether it is one chunk from noise to the end."""
        return len(self.places) == 1 and self.places[0].start == 0 and self.passes == steps


def chunk_alone(chunk: int, caption: int, steps: int, **others) -> Round:
    """The round of a chunk by itself that sees what `retrieval` brings, is written and comes out."""
    return Round(
        places=(Place(chunk, 0, caption),),
        passes=steps,
        emits=(chunk,),
        commits=(Commit(chunk, caption),),
        **others,
    )


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
