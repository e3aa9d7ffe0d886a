"""A take in which nothing changes but what repeats: ground for defects that are put in on purpose."""

from __future__ import annotations

import numpy as np

from data_pipelines.storyworld.world import (
    ACCESSORIES,
    CHUNK_SECONDS,
    COLOURS,
    NAMES,
    PLACES,
    SPECIES,
    TOPONYMS,
    Beat,
    ChunkPlan,
    Place,
    Story,
    Subject,
    check_seed,
)

WEATHERS = ("morning", "overcast")  # without particles, in light that shows colours
ACTION = "dance"  # moves without a break, once in two seconds


def steady_story(seed: int, seconds: float) -> Story:
    """One subject dances at one place, under one light, before a camera that stands still.

    Subject, place and light are a pure function of the seed.
    """
    check_seed(seed)
    rng = np.random.default_rng([7, seed])
    subject = _subject(rng, list(SPECIES), list(COLOURS))
    place = Place(str(rng.choice(TOPONYMS)), str(rng.choice(PLACES)), 0.0, int(rng.integers(2**31)))
    weather = str(rng.choice(WEATHERS))
    x = round(float(rng.uniform(-0.1, 0.1)), 4)
    beat = Beat(0, ACTION, x, x, settled=True, stays=True)
    count = max(1, int(np.ceil(seconds / CHUNK_SECONDS)))
    chunk = ChunkPlan(
        place=0, subjects=(0,), introduced=(), place_introduced=False, actions=(beat,),
        camera="hold", weather=weather, travel=0, slot0=0, slot1=0, dx0=0.0, dx1=0.0, zoom0=1.0,
        zoom1=1.0, weather_before=weather,
    )  # fmt: skip
    return Story(seed, "train", (subject,), (place,), (chunk,) * count, (), count)


def stranger(subject: Subject, seed: int) -> Subject:
    """Somebody else of the same name and size: another species, another colour."""
    rng = np.random.default_rng([8, seed])
    other = _subject(
        rng,
        [s for s in SPECIES if s != subject.species],
        [c for c in COLOURS if c != subject.colour],
    )
    return Subject(subject.name, other.species, other.colour, other.accessory, subject.size)


def _subject(rng: np.random.Generator, species: list[str], colours: list[str]) -> Subject:
    return Subject(
        name=str(rng.choice(NAMES)),
        species=str(rng.choice(species)),
        colour=str(rng.choice(colours)),
        accessory=str(rng.choice(ACCESSORIES)),
        size=0.64,
    )
