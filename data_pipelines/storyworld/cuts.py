"""Stories of several shots: the camera cuts to another place instead of panning there.

A story with cuts is the story of the same seed with some of its pans replaced. The chunk that panned begins at the new
place, with those who were to be met there; who stayed behind is gone at once. What is drawn and what ground truth
says follow from the script as always, so that a frame before the cut shows nothing of after it, nor the other way
round. Captions of other chunks are those of the single take.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from data_pipelines.storyworld import captions
from data_pipelines.storyworld.wordings import ACTION_PHRASES, PLACE_PHRASES
from data_pipelines.storyworld.world import Beat, ChunkPlan, Story

CHANCE = 0.75  # that a pan to another place becomes a cut
STREAM = 5  # of the random numbers of which pans, and of captions
SHAPES = ("at {place}, {first} {v} and {second} {w}", "{first} {v} while {second} {w} at {place}")


def with_cuts(story: Story) -> Story:
    """The story with cuts: some of its pans, one at least where it has any; a function of the story alone."""
    rng = np.random.Generator(np.random.Philox(key=[story.seed, STREAM]))
    pans = [i for i, chunk in enumerate(story.chunks) if chunk.travel]
    chosen = [i for i in pans if rng.random() < CHANCE] or pans[:1]
    chunks, lines = list(story.chunks), list(story.captions)
    for i in chosen:
        chunks[i] = _cut(chunks[i])
    story = dataclasses.replace(story, chunks=tuple(chunks))
    for i in chosen:
        lines[i] = _caption(rng, story, i)
    return dataclasses.replace(story, captions=tuple(lines))


def cuts_of(story: Story) -> tuple[int, ...]:
    """The chunks that begin a shot, counted from 1."""
    return tuple(i for i, chunk in enumerate(story.chunks, start=1) if chunk.cut)


def as_json(story: Story) -> dict:
    """The story as `bvjax.story` reads it, cuts and all."""
    items = zip(story.captions, story.chunks, strict=True)
    return {"captions": [{"shot": "cut", "caption": text} if c.cut else text for text, c in items]}


def _cut(chunk: ChunkPlan) -> ChunkPlan:
    """A chunk that begins where it would have panned to."""
    beats = tuple(_there(beat) for beat in chunk.actions if not beat.left_behind)
    gone = {beat.subject for beat in chunk.actions if beat.left_behind}
    return dataclasses.replace(
        chunk,
        cut=True,
        travel=0,
        camera="hold",
        slot0=chunk.slot1,
        dx0=chunk.dx1,
        zoom0=chunk.zoom1,
        weather_before=chunk.weather,
        subjects=tuple(s for s in chunk.subjects if s not in gone),
        actions=beats,
    )


def _there(beat: Beat) -> Beat:
    """A subject that stands at the new place from the first frame on, one that would have walked along too."""
    return dataclasses.replace(
        beat, x0=beat.x1, enter=0, follows=False, face0=beat.face1, settled=False
    )


def _caption(rng: np.random.Generator, story: Story, index: int) -> str:
    """Says who and what the new shot shows: described where new, by name where seen before."""
    chunk = story.chunks[index]
    place = story.places[chunk.place]
    where = place.toponym
    if chunk.place_introduced:
        where += ", " + str(rng.choice(PLACE_PHRASES[place.kind]))
    while True:
        cast = [
            captions.describe(rng, story.subjects[b.subject])
            if b.subject in chunk.introduced
            else story.subjects[b.subject].name
            for b in chunk.actions
        ]
        verbs = [str(rng.choice(ACTION_PHRASES[b.action])) for b in chunk.actions]
        if not cast:
            text = f"at {where}, nobody is in sight"
        elif len(cast) == 1:
            shape = "at {place}, {first} {v}" if rng.random() < 0.5 else "{first} {v} at {place}"
            text = shape.format(place=where, first=cast[0], v=verbs[0])
        else:
            shape = SHAPES[int(rng.integers(len(SHAPES)))]
            text = shape.format(place=where, first=cast[0], v=verbs[0], second=cast[1], w=verbs[1])
        if len(text.split()) <= captions.MAX_WORDS:
            return f"{text[0].upper()}{text[1:]} {captions.time_stamp(index)}."
