"""make_story: from a seed to a cast, a script and captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bvjax.errors import UserError
from data_pipelines.storyworld import captions, cuts, timeline
from data_pipelines.storyworld.world import (
    ACCESSORIES,
    ACTIONS,
    COLOURS,
    HELD_OUT_COMBOS,
    MOST_CHUNKS,
    NAMES,
    PLACE_SPACING,
    PLACES,
    SPECIES,
    TOPONYMS,
    WEATHERS,
    Beat,
    ChunkPlan,
    Place,
    Story,
    Subject,
    check_number,
    check_seed,
)

SPLITS = ("train", "heldout")
ZOOM_IN, ZOOM_OUT, DRIFT = 1.12, 0.88, 0.10
PAIR_X = 0.28


def _combo(rng: np.random.Generator, split: str, species: list[str], colours: list[str]):
    """A (species, colour) out of what is allowed; the train split never draws a held-out pair."""
    pairs = [
        (s, c)
        for s in species
        for c in colours
        if split == "heldout" or (s, c) not in HELD_OUT_COMBOS
    ]
    return pairs[int(rng.integers(len(pairs)))]


def _cast(rng: np.random.Generator, split: str, count: int) -> list[Subject]:
    """Distinct names and colours; by a fair coin someone else has the species of subject 1."""
    names = rng.choice(len(NAMES), count, replace=False)
    duplicate = int(rng.choice([i for i in range(count) if i != 1])) if rng.random() < 0.5 else None
    combos: dict[int, tuple[str, str]] = {1: _combo(rng, split, list(SPECIES), list(COLOURS))}
    for i in (0, *range(2, count)):
        colours = [c for c in COLOURS if c not in {v[1] for v in combos.values()}]
        used_species = {v[0] for v in combos.values()}
        species = (
            [combos[1][0]] if i == duplicate else [s for s in SPECIES if s not in used_species]
        )
        combos[i] = _combo(rng, split, species, colours)
    return [
        Subject(
            name=NAMES[names[i]],
            species=combos[i][0],
            colour=combos[i][1],
            accessory=str(rng.choice(ACCESSORIES, p=(0.3, 0.175, 0.175, 0.175, 0.175))),
            size=round(float(rng.uniform(0.60, 0.66)), 3),
        )
        for i in range(count)
    ]


def _weathers(rng: np.random.Generator, n_chunks: int) -> list[str]:
    """One state for the whole story, or (1 in 4) one change somewhere in the middle."""
    first, second = rng.choice(len(WEATHERS), 2, replace=False)
    change = int(rng.integers(5, 12)) if rng.random() < 0.25 else n_chunks
    return [WEATHERS[first if i < change else second] for i in range(n_chunks)]


class _ScriptState:
    """Carries positions, facings and the camera from chunk to chunk while the script is written."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.x: dict[int, float] = {}
        self.face: dict[int, int] = {}
        self.action: dict[int, str] = {}
        self.slot, self.dx, self.zoom = 0, 0.0, 1.0

    def _choose_action(self, who: int, moves: timeline.Moves) -> str:
        busy = who in moves.leave or who in moves.arrive or who in moves.follow
        options = [a for a in ACTIONS if not (busy and a in ("walk", "sleep"))]
        options = [a for a in options if not (a == "walk" and len(moves.visible) > 1)]
        previous = self.action.get(who)
        if previous in options and previous != "walk" and self.rng.random() < 0.25:
            return previous
        return options[int(self.rng.integers(len(options)))]

    def beats(self, moves: timeline.Moves, travels: bool) -> list[Beat]:
        rng, beats = self.rng, []
        cast = sorted(moves.visible)
        remaining = sorted(moves.visible - moves.left_behind)
        sides = dict.fromkeys(cast, 0)
        if len(remaining) == 2:
            on_stage = [w for w in remaining if w in self.x]
            first = on_stage[0] if on_stage else remaining[0]
            side = 1 if self.x.get(first, rng.uniform(-1, 1)) > 0 else -1
            sides = {w: side if w == first else -side for w in remaining}
        for who in cast:
            action = self._choose_action(who, moves)
            behind, follows = who in moves.left_behind, who in moves.follow
            x1 = PAIR_X * sides[who] if sides[who] else float(rng.uniform(-0.14, 0.14))
            enter = 0
            if who in moves.arrive:
                x0 = x1
                if not travels:
                    enter = sides[who] or int(rng.choice((-1, 1)))
            else:
                x0 = self.x.get(who, x1)
                keep = behind or (not sides[who] and action != "walk" and not follows)
                if keep or (sides[who] and np.sign(x0) == sides[who] and abs(x0) > 0.2):
                    x1 = x0
                elif action == "walk" and not sides[who]:
                    x1 = float(rng.uniform(0.06, 0.22)) * (-1 if x0 > 0 else 1)
            leave = 0
            if who in moves.leave:
                leave = sides[who] or int(rng.choice((-1, 1)))
            face0 = self.face.get(who, int(rng.choice((-1, 1)))) if not enter else -enter
            moved = abs(x1 - x0) > 0.02
            face1 = (-enter) or (int(np.sign(x1 - x0)) if moved else face0)
            if sides[who]:
                face1 = -sides[who]
            beats.append(Beat(who, action, round(x0, 4), round(x1, 4), enter, leave, behind,
                              follows, face0, face1,
                              settled=self.action.get(who) == action and not enter))  # fmt: skip
        self.x = {b.subject: b.x1 for b in beats if not b.leave and not b.left_behind}
        self.face = {w: b.face1 for w in self.x for b in beats if b.subject == w}
        self.action = {w: b.action for w in self.x for b in beats if b.subject == w}
        return beats

    def camera(self, moves: timeline.Moves, beats: list[Beat], travel: int) -> tuple:
        """(name, dx1, zoom1): pans and zooms leave home only while the cast stands still."""
        rng = self.rng
        if travel:
            return ("pan right" if travel > 0 else "pan left"), 0.0, 1.0
        home = self.dx == 0.0 and self.zoom == 1.0
        still = len(moves.visible) < 2 and not moves.leave
        if not home:
            stay = still and not moves.arrive and rng.random() < 0.5
            return ("hold", self.dx, self.zoom) if stay else ("return", 0.0, 1.0)
        if not still or rng.random() < 0.5:
            return "hold", 0.0, 1.0
        x = beats[0].x1 if beats else 0.0
        kind = str(rng.choice(("zoom in", "zoom out", "pan")))
        if kind == "zoom in" and not moves.arrive:
            return kind, round(0.6 * x, 4), ZOOM_IN
        if kind == "zoom out":
            return kind, 0.0, ZOOM_OUT
        side = int(np.sign(x)) or 1
        return ("pan right" if side > 0 else "pan left"), DRIFT * side, 1.0


def _direction(rng: np.random.Generator, old: int, new: int, n_places: int) -> int:
    """Returns the direction around the ring: random for two places, the shorter one for three."""
    if n_places == 2:
        return int(rng.choice((-1, 1)))
    return 1 if (new - old) % n_places == 1 else -1


def make_story(seed: int, split: str = "train", n_chunks: int = 15, shots: bool = False) -> Story:
    """A story as a pure function of (seed, split, n_chunks); with `shots` the same with cuts (`cuts`).

    The two splits draw from disjoint random streams; the train split never uses a (species, colour)
    pair of HELD_OUT_COMBOS. A story of n < 15 chunks is the beginning of a 15-chunk script.
    Raises `UserError` for an unknown split, and for a seed or n_chunks that cannot be.
    """
    if split not in SPLITS:
        raise UserError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    check_seed(seed)
    check_number("n_chunks", n_chunks, 1, MOST_CHUNKS)
    rng = np.random.default_rng([SPLITS.index(split), seed])
    third = bool(rng.random() < 0.65)
    subjects = _cast(rng, split, 2 + third)
    places, moves = timeline.sample_timeline(rng, third, n_chunks)
    story_places = draw_places(rng, max(places) + 1)
    weathers = _weathers(rng, n_chunks)
    story = write_story(rng, seed, split, subjects, story_places, places, moves, weathers)
    return cuts.with_cuts(story) if shots else story


def draw_places(rng: np.random.Generator, count: int) -> tuple[Place, ...]:
    """Returns `count` places of different kinds in the order of the panorama."""
    kinds = rng.permutation(len(PLACES))[:count]
    toponyms = rng.permutation(len(TOPONYMS))
    return tuple(
        Place(TOPONYMS[toponyms[i]], PLACES[k], i * PLACE_SPACING, int(rng.integers(2**31)))
        for i, k in enumerate(kinds)
    )


def write_story(
    rng: np.random.Generator,
    seed: int,
    split: str,
    subjects: Sequence[Subject],
    story_places: tuple[Place, ...],
    places: Sequence[int],
    moves: Sequence[timeline.Moves],
    weathers: Sequence[str],
) -> Story:
    """Returns the story of a timeline, with its script and captions.

    Args:
        subjects: some may never be shown, in a short story; they are left out.
        places: of each chunk, an index into `story_places`; from chunk to chunk the same, or a neighbour on the ring.
        moves: of each chunk.
        weathers: of each chunk.
    """
    shown_subjects = sorted(set().union(*(m.visible for m in moves)))
    index = {w: i for i, w in enumerate(shown_subjects)}
    chunks = _script(rng, places, moves, weathers, len(story_places), index)
    cast = tuple(subjects[w] for w in shown_subjects)
    story = Story(seed, split, cast, story_places, chunks, (), len(chunks))
    return captions.with_captions(story, rng)


def _script(rng, places, moves, weathers, n_places: int, index: dict[int, int]) -> tuple:
    state, introduced, visited, chunks = _ScriptState(rng), set(), set(), []
    for i, (place, move) in enumerate(zip(places, moves, strict=True)):
        travel = (
            _direction(rng, places[i - 1], place, n_places) if i and place != places[i - 1] else 0
        )
        beats = state.beats(move, bool(travel))
        name, dx1, zoom1 = state.camera(move, beats, travel)
        slot1 = state.slot + travel
        chunks.append(
            dict(
                place=place,
                subjects=tuple(sorted(index[w] for w in move.visible)),
                introduced=tuple(sorted(index[w] for w in move.visible - introduced)),
                place_introduced=place not in visited,
                actions=beats,
                camera=name,
                weather=weathers[i],
                travel=travel,
                slot0=state.slot,
                slot1=slot1,
                dx0=state.dx,
                dx1=dx1,
                zoom0=state.zoom,
                zoom1=zoom1,
                weather_before=weathers[max(i - 1, 0)],
                place_returned=bool(travel) and place in visited,
            )
        )
        state.slot, state.dx, state.zoom = slot1, dx1, zoom1
        introduced |= move.visible
        visited.add(place)
    return tuple(
        ChunkPlan(**{**c, "actions": _link(c, after, index)})
        for c, after in zip(chunks, [*chunks[1:], None], strict=True)
    )


def _link(chunk: dict, after: dict | None, index: dict[int, int]) -> tuple[Beat, ...]:
    """Renumber the beats and mark those whose action goes on in the next chunk."""
    settled = {b.subject for b in after["actions"] if b.settled} if after else set()
    out = []
    for b in chunk["actions"]:
        fields = dict(vars(b), subject=index[b.subject], stays=b.subject in settled and not b.leave)
        out.append(Beat(**fields))
    return tuple(out)
