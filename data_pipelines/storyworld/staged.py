"""Stories staged for a question: somebody is met, is away for a given number of chunks, and comes back.

Subject 0 opens the story at place 0 (two chunks). Subject 1 is met at place 1 (two chunks), is not in view, not even in
part, for `gap` chunks, and comes back to place 1 in the last chunk of the story. In the gap the camera goes once around
the other places, and the other subjects take turns. With one place, all of this happens there.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from bvjax.errors import UserError
from data_pipelines.storyworld import timeline
from data_pipelines.storyworld.captions import describe
from data_pipelines.storyworld.plan import draw_places, write_story
from data_pipelines.storyworld.wordings import ACTION_PHRASES, PLACE_PHRASES
from data_pipelines.storyworld.world import (
    ACCESSORIES,
    COLOURS,
    NAMES,
    PLACES,
    SPECIES,
    WEATHERS,
    Story,
    Subject,
    check_seed,
)

OPENING, STAY = 2, 2  # chunks of subject 0 before subject 1 is met, and of that meeting
MOST_GAP, MOST_SUBJECTS, MOST_PLACES = 1000, len(SPECIES), len(PLACES)
WORDINGS = ("name", "description", "paraphrase")
STREAM = 5  # of the random numbers of staged stories
PARAPHRASES = (
    "once more the camera visits {place}, and there {who} {verb}",
    "the view takes us to {place} again, and {who} {verb} there",
    "our scene is {place} once more, where {who} remains and {verb}",
    "again {place} is in view, and {who} {verb} here",
)


@dataclasses.dataclass(frozen=True)
class Staging:
    """The numbers of a staged story; raises `UserError` for ones that cannot be."""

    gap: int = 12  # chunks between the meeting and the return
    subjects: int = 3
    places: int = 2

    def __post_init__(self):
        for name, least, most in (
            ("gap", 2, MOST_GAP),
            ("subjects", 2, MOST_SUBJECTS),
            ("places", 1, MOST_PLACES),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise UserError(
                    f"a staged story has a {name} of {least} to {most}, not {value}"
                    if name == "gap"
                    else f"a staged story has {least} to {most} {name}, not {value}"
                )
        if self.gap < 2 * self._scenes:
            raise UserError(
                f"a gap of {self.gap} chunks is too short for {self.subjects} subjects and {self.places} places; "
                f"it must be {2 * self._scenes} or more"
            )

    @property
    def _scenes(self) -> int:
        """Scenes of the gap that show all others and all places, once."""
        return max(1, self.subjects - 2, self.places - 1)

    @property
    def met(self) -> range:
        """Chunks, counted from 1, in which subject 1 is met."""
        return range(OPENING + 1, OPENING + STAY + 1)

    @property
    def returns(self) -> int:
        """The chunk in which it comes back, the last of the story."""
        return OPENING + STAY + self.gap + 1

    def timeline(self) -> tuple[list[frozenset[int]], list[int]]:
        """Casts and places of all chunks."""
        home = min(1, self.places - 1)
        count = max(self._scenes, round(self.gap / 3))
        others = [*range(2, self.subjects), 0]
        tour = [*range(2, self.places), 0]
        casts = [frozenset({0})] * OPENING + [frozenset({1})] * STAY
        places = [0] * OPENING + [home] * STAY
        for scene, chunks in enumerate(np.array_split(range(self.gap), count)):
            casts += [frozenset({others[scene % len(others)]})] * len(chunks)
            places += [tour[scene * len(tour) // count]] * len(chunks)
        return [*casts, frozenset({1})], [*places, home]


def staged_story(seed: int, staging: Staging, wording: str = "name") -> Story:
    """A held-out story as a pure function of its arguments.

    Stories of one seed have the same subjects, looks and light, whatever the staging. In those with an odd seed subject
    0 has the species of subject 1; all other species differ, and all colours.

    Args:
        wording: of the last caption (`reworded`).

    Raises `UserError` for a seed or a wording that cannot be.
    """
    check_seed(seed)
    rng = np.random.default_rng([STREAM, seed])
    subjects = _cast(rng, same_species=bool(seed % 2))
    story_places = draw_places(rng, MOST_PLACES)[: staging.places]
    weather = WEATHERS[int(rng.integers(len(WEATHERS)))]
    casts, places = staging.timeline()
    rng = np.random.default_rng([STREAM, seed, *dataclasses.astuple(staging)])
    wanted = [i for i, cast in enumerate(casts) if 1 in cast]
    while True:  # where the camera turns away, who stays is in view for a moment of the next chunk
        moves = timeline.derive_moves(rng, casts, places)
        if moves is None:
            raise ValueError(f"the timeline of {staging} does not fit")
        if [i for i, move in enumerate(moves) if 1 in move.visible] == wanted:
            break
    weathers = [weather] * len(casts)
    story = write_story(
        rng, seed, "heldout", subjects[: staging.subjects], story_places, places, moves, weathers
    )
    return reworded(story, wording)


def reworded(story: Story, wording: str) -> Story:
    """Returns a staged story with another last caption.

    name         as it is: the name of who comes back and of the place, and nothing of their looks.
    description  their looks in place of the names.
    paraphrase   the names, in a sentence that no other caption of storyworld is like.

    Raises `UserError` for another wording.
    """
    if wording not in WORDINGS:
        raise UserError(f"the wording is {wording!r}; it can be {', '.join(WORDINGS)}")
    if wording == "name":
        return story
    rng = np.random.default_rng([STREAM, story.seed, WORDINGS.index(wording)])
    pick = lambda options: str(options[int(rng.integers(len(options)))])
    text, subject = story.captions[-1], story.subjects[1]
    place = story.places[story.chunks[-1].place]
    sentence, space, stamp = text.rpartition(" (")
    if wording == "description":
        looks = describe(rng, subject).replace(f" named {subject.name}", "")
        looks = looks.replace(f" called {subject.name}", "")
        sentence = sentence.replace(subject.name, looks)
        sentence = sentence.replace(place.toponym, pick(PLACE_PHRASES[place.kind]))
    else:
        (beat,) = [b for b in story.chunks[-1].actions if b.subject == 1]
        slots = dict(who=subject.name, place=place.toponym, verb=pick(ACTION_PHRASES[beat.action]))
        sentence = pick(PARAPHRASES).format(**slots)
    caption = f"{sentence[0].upper()}{sentence[1:]}{space}{stamp}"
    return dataclasses.replace(story, captions=(*story.captions[:-1], caption))


def _cast(rng: np.random.Generator, same_species: bool) -> list[Subject]:
    """All subjects that a story can have."""
    names, species, colours = (rng.permutation(words) for words in (NAMES, SPECIES, COLOURS))
    species[:2] = species[[1, 1]] if same_species else species[:2]
    return [
        Subject(
            name=str(names[i]),
            species=str(species[i]),
            colour=str(colours[i]),
            accessory=str(rng.choice(ACCESSORIES)),
            size=round(float(rng.uniform(0.60, 0.66)), 3),
        )
        for i in range(MOST_SUBJECTS)
    ]
