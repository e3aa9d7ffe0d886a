"""Frames in which something may be judged: where ground truth shows it, and it alone."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Int

from data_pipelines.storyworld import COLOURS, SPECIES, Story, Truth

EMPTY, UNSURE = -1, -2  # labels of frames without a subject, and without exactly one in full view


def in_frame(facts: Truth, height: int, width: int) -> Bool[np.ndarray, "n s"]:
    """Does any part of the subject's box lie inside the frame?"""
    x0, y0, x1, y1 = np.moveaxis(facts.boxes, -1, 0)
    return (x1 > x0) & (x1 > 0) & (x0 < width) & (y1 > 0) & (y0 < height)


def alone(facts: Truth, subject: int, height: int, width: int) -> Bool[np.ndarray, "n"]:
    """Frames in which the subject is visible and no part of another one is; or, where there is no
    such frame at all, in which it is the only visible one."""
    touching = in_frame(facts, height, width)
    clear = facts.visible[:, subject] & (touching.sum(1) == 1)
    return clear if clear.any() else facts.visible[:, subject] & (facts.visible.sum(1) == 1)


def settled(facts: Truth, kind: int) -> Bool[np.ndarray, "n"]:
    """Frames of the second half of a chunk whose centre shows the place: the camera has arrived."""
    late = np.arange(len(facts.place)) >= len(facts.place) // 2
    return late & (facts.place == kind)


@dataclasses.dataclass(frozen=True)
class Labels:
    """Species, colour and place in each frame as indices; the first two may be EMPTY or UNSURE."""

    species: Int[np.ndarray, "n"]
    colour: Int[np.ndarray, "n"]
    place: Int[np.ndarray, "n"]


def label_frames(story: Story, facts: Truth, height: int, width: int) -> Labels:
    """Labels of frames for training: one subject in full view, none, or unsure."""
    touching = in_frame(facts, height, width)
    species = np.full(len(touching), UNSURE, np.int32)
    colour = species.copy()
    for i, subject in enumerate(story.subjects):
        only = facts.visible[:, i] & (touching.sum(1) == 1)
        species[only] = SPECIES.index(subject.species)
        colour[only] = COLOURS.index(subject.colour)
    empty = ~touching.any(1)
    species[empty], colour[empty] = EMPTY, EMPTY
    return Labels(species, colour, facts.place.astype(np.int32))
