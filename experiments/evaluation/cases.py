"""Evaluation cases: something comes back that only memory can draw right.

A subject (or a place) returns after at least five chunks, more than the rolling arm holds, in which
not a sliver of it was seen; it was not in frame 0; and the caption of its return gives its name and
nothing of its looks.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from bvjax.config import ChunkConfig, ModelConfig
from data_pipelines.storyworld import (
    COLOURS,
    PLACES,
    SPECIES,
    Story,
    chunk_frames,
    make_story,
    mentions,
    return_cases,
    truth,
)
from data_pipelines.storyworld.latents import SEEN
from experiments.evaluation.sightings import alone, settled
from experiments.evaluation.under_test import SPLIT

CHANCE = {"species": 1 / len(SPECIES), "colour": 1 / len(COLOURS), "place": 1 / len(PLACES)}
CHANCE["both"] = CHANCE["species"] * CHANCE["colour"]


@dataclasses.dataclass(frozen=True)
class Case:
    """One return; chunks count from 1."""

    seed: int  # of the held-out story
    kind: str  # subject | place
    index: int  # into story.subjects or story.places
    chunk: int  # in which it returns
    last_seen: int
    first_seen: int
    distractor: bool  # another subject of the story has the same species
    unseen: bool  # its (species, colour) is one that training never showed
    truth: dict[str, int]  # species and colour, or place

    @property
    def key(self) -> str:
        return f"{self.seed}-{self.kind}-{self.index}-{self.chunk}"

    def right(self, verdict: dict[str, int]) -> dict[str, bool]:
        """Returns which of the labels of the case the judge names right."""
        return {head: bool(verdict[head] == want) for head, want in self.truth.items()}


def rolling_gap(model: ModelConfig) -> int:
    """Chunks that something must be unseen for: 5, or more than the rolling arm holds."""
    return max(5, model.retrieval.num_retrieved + model.retrieval.num_recent + 1)


def story_cases(seed: int, model: ModelConfig) -> list[Case]:
    """All cases of one held-out story, by chunk."""
    story = make_story(seed, SPLIT)
    cases = []
    for returned in return_cases(story, model.chunk.fps, rolling_gap(model)):
        if not named_but_not_described(story, returned.kind, returned.index, returned.chunk):
            continue
        if returned.kind == "subject":
            subject = story.subjects[returned.index]
            labels = {
                "species": SPECIES.index(subject.species),
                "colour": COLOURS.index(subject.colour),
            }
            unseen = story.unseen_combos[returned.index]
        else:
            labels, unseen = {"place": PLACES.index(story.places[returned.index].kind)}, False
        cases.append(
            Case(
                seed,
                returned.kind,
                returned.index,
                returned.chunk,
                returned.last_seen_chunk,
                returned.first_seen_chunk,
                bool(returned.same_species_distractor),
                bool(unseen),
                labels,
            )
        )
    return cases


def named_but_not_described(story: Story, kind: str, index: int, chunk: int) -> bool:
    """Does the caption of the chunk name the thing and keep silent on how it looks?"""
    mentioned = mentions(story.captions[chunk - 1])
    if kind == "place":
        place = story.places[index]
        return place.toponym in mentioned["toponyms"] and place.kind not in mentioned["places"]
    subject = story.subjects[index]
    described = subject.species in mentioned["species"] or subject.colour in mentioned["colours"]
    return subject.name in mentioned["names"] and not described


def find_cases(first_seed: int, subjects: int, model: ModelConfig) -> Iterator[Case]:
    """Cases of the stories from `first_seed` on, until `subjects` of them are subjects.

    Returning places in the same stories come along; there are about half as many.
    """
    count = 0
    for seed in itertools.count(first_seed):
        for case in story_cases(seed, model):
            count += case.kind == "subject"
            if count > subjects:
                return
            yield case
        if count == subjects:
            return


def judged_frames(
    story: Story, chunk: int, kind: str, index: int, config: ChunkConfig
) -> Bool[np.ndarray, "f"]:
    """Frames of a chunk in which ground truth shows the subject by itself, or the place settled."""
    facts = truth(
        story,
        chunk_frames(chunk, config.fps),
        height=config.height,
        width=config.width,
        fps=config.fps,
    )
    if kind == "place":
        return settled(facts, PLACES.index(story.places[index].kind))
    return alone(facts, index, config.height, config.width)


def shows(
    case: Case, seen: Float[np.ndarray, "c s"], place: Float[np.ndarray, "c"]
) -> Float[np.ndarray, "c"]:
    """Returns how much each chunk shows of what returns, by ground truth (0 below `SEEN`): what an oracle
    retrieves by, and what counts as a retrieval hit."""
    share = seen[:, case.index] if case.kind == "subject" else place == case.truth["place"]
    share = np.asarray(share, np.float32)
    return np.where(share >= SEEN, share, 0.0).astype(np.float32)
