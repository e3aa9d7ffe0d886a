"""Vocabulary and data types of storyworld: who can appear, where, under which light."""

from __future__ import annotations

import dataclasses
import operator

from bvjax.errors import UserError

SPECIES = ("fox", "rabbit", "bear", "owl", "frog", "turtle", "elephant", "giraffe")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
ACCESSORIES = ("none", "hat", "scarf", "bow tie", "backpack")
PLACES = ("meadow", "forest", "desert", "beach", "snowfield", "city", "lake", "canyon")
WEATHERS = ("morning", "sunset", "overcast", "rain", "snow", "night")
ACTIONS = ("walk", "hop", "wave", "sit", "sleep", "spin", "look", "dance")
CAMERAS = ("hold", "pan left", "pan right", "zoom in", "zoom out", "return")
# Names and toponyms are drawn without regard to attributes, and no two of them share a word:
# they are the only thread between a first appearance and a return.
NAMES = (
    "Pip", "Bo", "Nia", "Otto", "Milo", "Tess", "Juno", "Kit", "Zuzu", "Remy", "Hugo", "Ada",
    "Finn", "Gus", "Mabel", "Rufus", "Cleo", "Dot", "Nell", "Yuki", "Lulu", "Theo", "Vera", "Enzo",
)  # fmt: skip
TOPONYMS = (
    "Willow Hollow", "Thistle Row", "Juniper Nook", "Marrow End", "Hazel Cross", "Quill Corner",
    "Larkspur Gate", "Ember Reach", "Bramble Loop", "Cobble Mile", "Fennel Rest", "Anvil Bend",
    "Clover Yard", "Tinder Point", "Pepper Rise", "Maple Turn",
)  # fmt: skip

COLOUR_RGB: dict[str, tuple[int, int, int]] = {
    "red": (214, 34, 40),
    "orange": (250, 136, 22),
    "yellow": (250, 222, 52),
    "green": (52, 168, 66),
    "cyan": (58, 208, 216),
    "blue": (38, 84, 220),
    "purple": (140, 52, 190),
    "pink": (255, 146, 196),
}

# Latin square: one held-out colour per species and one held-out species per colour.
HELD_OUT_COMBOS = frozenset((s, COLOURS[(3 * i + 2) % 8]) for i, s in enumerate(SPECIES))

CHUNK_SECONDS = 4.0
# Horizontal lengths are in frame widths, vertical ones in frame heights.
PLACE_SPACING = 2.0
# What can be asked for.  Sides are pixels; a story of the most chunks lasts 11 hours.
LEAST_SIDE, LARGEST_SIDE, LARGEST_FPS = 16, 4096, 240
MOST_CHUNKS, MOST_STORIES, LARGEST_SEED = 10_000, 1_000_000, 2**63 - 1
EXIT_X = 1.05  # a subject this far from the centre of its place is out of every legal view


@dataclasses.dataclass(frozen=True)
class Subject:
    """One character. `size` is its standing height as a fraction of the frame's shorter side."""

    name: str
    species: str
    colour: str
    accessory: str
    size: float


@dataclasses.dataclass(frozen=True)
class Place:
    """One stretch of the panorama. `x` is its centre, in frame widths; `look` seeds its details."""

    toponym: str
    kind: str
    x: float
    look: int = 0


@dataclasses.dataclass(frozen=True)
class Beat:
    """The script of one subject in one chunk.

    x0, x1: where it stands at the start and the end of its stay, in frame widths from the centre of
    its place. enter, leave: 0, or the side (-1 left, +1 right) it comes in from or walks out to.
    left_behind: it stays at the old place while the camera pans away. follows: it walks with the
    camera to the new place. face0, face1: facing (-1 or +1) at the start and after arriving.
    settled, stays: the same action ran in the chunk before / runs in the next (no fade).
    """

    subject: int
    action: str
    x0: float
    x1: float
    enter: int = 0
    leave: int = 0
    left_behind: bool = False
    follows: bool = False
    face0: int = 1
    face1: int = 1
    settled: bool = False
    stays: bool = False


@dataclasses.dataclass(frozen=True)
class ChunkPlan:
    """The script of one chunk (4 s).

    place: index into the story's places, of the place the chunk ends in. subjects: indices of all
    subjects visible at some time in the chunk. introduced: those seen for the first time.
    travel: 0, or the direction (-1 left, +1 right) of the pan to a new place. slot0, slot1: camera
    position in units of PLACE_SPACING at both ends (the panorama is a ring: slot modulo the number
    of places is the place). dx0, dx1: camera offset in frame widths; zoom0, zoom1.
    """

    place: int
    subjects: tuple[int, ...]
    introduced: tuple[int, ...]
    place_introduced: bool
    actions: tuple[Beat, ...]
    camera: str
    weather: str
    travel: int
    slot0: int
    slot1: int
    dx0: float
    dx1: float
    zoom0: float
    zoom1: float
    weather_before: str
    place_returned: bool = False
    cut: bool = False  # it begins a shot: what is before it is elsewhere (`cuts`)


@dataclasses.dataclass(frozen=True)
class Story:
    """A whole take, or several with cuts between them: its cast, its places, its script and its captions, free of fps."""

    seed: int
    split: str
    subjects: tuple[Subject, ...]
    places: tuple[Place, ...]
    chunks: tuple[ChunkPlan, ...]
    captions: tuple[str, ...]
    n_chunks: int
    chunk_seconds: float = CHUNK_SECONDS

    @property
    def unseen_combos(self) -> tuple[bool, ...]:
        """Per subject: is its (species, colour) one that the train split never shows?"""
        return tuple((s.species, s.colour) in HELD_OUT_COMBOS for s in self.subjects)


def chunk_frames(chunk: int, fps: int = 8) -> range:
    """Frames of a 1-based chunk: 1+T(c-1) .. Tc with T = 4 fps. Frame 0 belongs to no chunk."""
    if chunk < 1:
        raise ValueError(f"chunk must be >= 1 (chunks count from 1), got {chunk}")
    length = int(CHUNK_SECONDS * fps)
    return range(1 + length * (chunk - 1), 1 + length * chunk)


def check_size(height: int, width: int, fps: int) -> None:
    """Raises `UserError` for sizes that cannot be rendered."""
    if not all(LEAST_SIDE <= side <= LARGEST_SIDE for side in (height, width)):
        raise UserError(
            f"frames must be {LEAST_SIDE}x{LEAST_SIDE} to {LARGEST_SIDE}x{LARGEST_SIDE} pixels, "
            f"got {height}x{width}"
        )
    check_number("fps", fps, 1, LARGEST_FPS)


def check_seed(seed: int) -> None:
    """Raises `UserError` for a seed that no story has."""
    check_number("seed", seed, 0, LARGEST_SEED)


def check_number(name: str, value: int, least: int, most: int) -> None:
    """Raises `UserError` for a whole number that is not from `least` to `most`."""
    if not least <= operator.index(value) <= most:
        raise UserError(f"{name} must be {least} to {most}, got {value}")


def num_frames(story: Story, fps: int = 8) -> int:
    """1 + n_chunks * 4 * fps."""
    return 1 + story.n_chunks * int(CHUNK_SECONDS * fps)
