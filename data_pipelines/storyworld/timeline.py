"""The subjects on stage and the camera's place, chunk by chunk: the statistics of a story are set here.

Casts: subject 0 opens the story; subject 1 is met in chunks 2-5, leaves, stays unseen for at least
five whole chunks and returns alone; subject 2, where there is one, fills the middle.
Places: 15 % of stories keep one place, 25 % come back to the first place, 60 % come back to a later
one, each after at least five whole chunks without it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

LENGTH = 15
MIN_GAP = 5
A, B, C = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Moves:
    """The movements of subjects in one chunk; each field holds subject indices."""

    start: frozenset[int]
    arrive: frozenset[int]
    leave: frozenset[int]
    left_behind: frozenset[int]
    follow: frozenset[int]

    @property
    def visible(self) -> frozenset[int]:
        return self.start | self.arrive


def _pick(rng: np.random.Generator, options, weights):
    weights = np.asarray(weights, float)
    return options[int(rng.choice(len(options), p=weights / weights.sum()))]


def sample_places(rng: np.random.Generator) -> tuple[list[int], int]:
    """Place index of each of the 15 chunks, and the 1-based chunk of the late return (0: none)."""
    scheme = _pick(rng, ("single", "first", "later"), (0.15, 0.25, 0.60))
    if scheme == "single":
        return [0] * LENGTH, 0
    third = bool(rng.random() < 0.45)
    leave = int(rng.integers(1, 4))  # chunks 1..leave show place 0
    if scheme == "first":
        return_chunk = int(rng.integers(leave + MIN_GAP + 2, LENGTH))
        middle = [1] * (return_chunk - 1 - leave)
        if third:
            cut = int(rng.integers(2, len(middle) - 1))
            middle[cut:] = [2] * (len(middle) - cut)
        places = [0] * leave + middle + [0] * (LENGTH - return_chunk + 1)
        return places, return_chunk
    last_chunk = leave + int(rng.integers(2, 4)) - (leave == 3)  # chunks leave+1..last show place 1
    return_chunk = int(rng.integers(last_chunk + MIN_GAP + 2, LENGTH))
    middle = [2 if third else 0] * (return_chunk - 1 - last_chunk)
    if third and rng.random() < 0.6:
        cut = int(rng.integers(2, len(middle) - 1))
        middle[cut:] = [0] * (len(middle) - cut)
    tail = [1] * (LENGTH - return_chunk + 1)
    if len(tail) >= 5 and rng.random() < 0.4:
        tail[3:] = [0] * (len(tail) - 3)
    return [0] * leave + [1] * (last_chunk - leave) + middle + tail, return_chunk


def _runs(rng: np.random.Generator, count: int, third: bool) -> list[frozenset[int]]:
    """Fill `count` chunks with stays of 2-4 chunks (empty scenes: 1) of subjects A and C."""
    out: list[frozenset[int]] = []
    options = [frozenset({A}), frozenset(), frozenset({C}), frozenset({A, C})]
    while len(out) < count:
        cast = _pick(rng, options if third else options[:2], (5, 1, 4, 1) if third else (6, 1))
        left = count - len(out)
        stay = 1 if not cast else int(rng.integers(2, 5))
        out += [cast] * (left if left - stay <= 1 else stay)
    return out[:count]


def sample_casts(rng: np.random.Generator, third: bool, back: int) -> tuple[list[frozenset], int]:
    """Main cast of each of the 15 chunks and the chunk in which subject B returns."""
    enter = int(rng.integers(2, 6))
    last_chunk = enter + _pick(rng, (0, 1, 2), (2, 5, 3))
    if back >= last_chunk + MIN_GAP + 2 and rng.random() < 0.5:
        return_chunk = back  # subject and place return together
    else:
        return_chunk = int(rng.integers(last_chunk + MIN_GAP + 1, LENGTH))
    last_return_chunk = min(LENGTH, return_chunk + int(rng.integers(1, 4)))
    casts = [frozenset({A})] * (enter - 1)
    if enter > 3 and rng.random() < 0.25:
        casts[-1] = frozenset()
    stay = [frozenset({B})] * (last_chunk - enter + 1)
    if rng.random() < 0.3:
        stay[0] |= {A}
    casts += stay + _runs(rng, return_chunk - 1 - last_chunk, third)
    casts += [frozenset({B})] * (last_return_chunk - return_chunk + 1)
    tail = _runs(rng, LENGTH - last_return_chunk, third)
    if tail and rng.random() < 0.3 and len(tail[0]) == 1:
        tail = [t | {B} if t == tail[0] else t for t in tail]
    return casts + tail, return_chunk


def derive_moves(rng: np.random.Generator, casts, places) -> list[Moves] | None:
    """Turn main casts and places into entrances and exits, or None where they do not fit."""
    moves: list[Moves] = []
    previous: frozenset[int] = casts[0]
    for i, (cast, place) in enumerate(zip(casts, places, strict=True)):
        travels = i > 0 and place != places[i - 1]
        arrive = cast - previous if i else frozenset()
        remaining = previous - cast
        follow = previous & cast if travels else frozenset()
        if len(arrive) > 1 or len(arrive | previous) > 2 or len(follow) > 1:
            return None
        if (remaining and not travels) or (follow and (arrive or remaining)):
            return None
        leave = frozenset()
        if i + 1 < len(casts):
            departing = cast - casts[i + 1]
            may_walk = i > 0 and not departing & arrive
            if places[i + 1] == place:
                if departing and not may_walk:
                    return None
                leave = departing
            elif departing and may_walk:
                staying = cast & casts[i + 1]
                if staying or len(departing) == 2 or rng.random() < 0.6:
                    leave = departing
        moves.append(Moves(previous, arrive, leave, remaining if travels else frozenset(), follow))
        previous = cast - leave
    return moves


def _continue(rng: np.random.Generator, casts, places, third: bool, n_chunks: int) -> list[Moves]:
    """Lengthen a valid timeline in place by free stays of three chunks, and return its moves."""
    options = [frozenset({w}) for w in ((A, B, C) if third else (A, B))] + [frozenset()]
    moves = None
    while moves is None or len(casts) < n_chunks:
        cast = options[int(rng.integers(len(options)))]
        place = int(rng.integers(max(places) + 1)) if rng.random() < 0.5 else places[-1]
        moves = derive_moves(rng, casts + [cast] * 3, places + [place] * 3)
        if moves is not None:
            casts += [cast] * 3
            places += [place] * 3
    return moves


def sample_timeline(rng: np.random.Generator, third: bool, n_chunks: int):
    """(places [n], moves [n]) of `n_chunks` chunks.

    Shorter stories are the beginning of a 15-chunk one; longer ones go on with free stays.
    """
    while True:
        places, back = sample_places(rng)
        casts, return_chunk = sample_casts(rng, third, back)
        moves = derive_moves(rng, casts, places)
        if moves is None:
            continue
        chunks_with_b = [i + 1 for i, m in enumerate(moves) if B in m.visible]
        last = max(i for i in chunks_with_b if i < return_chunk)
        returns_alone = moves[return_chunk - 1].visible - moves[return_chunk - 1].left_behind == {B}
        if return_chunk - last - 1 < MIN_GAP or not returns_alone or moves[0].leave:
            continue
        if third and not any(C in m.visible for m in moves[: return_chunk - 1]):
            continue
        if n_chunks > LENGTH:
            moves = _continue(rng, casts, places, third, n_chunks)
        return places[:n_chunks], moves[:n_chunks]
