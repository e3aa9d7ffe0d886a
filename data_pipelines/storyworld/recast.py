"""Pictures of one panorama with many casts: what single latents are learnt from.

Painting a panorama costs five times as much as drawing a frame of it, so that each is used for many pictures: the
places, the lights and the camera are one story's, the cast and what it does are another's.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import UInt8

from data_pipelines.storyworld.captions import standalone
from data_pipelines.storyworld.motion import ENTER, LEAVE
from data_pipelines.storyworld.plan import make_story
from data_pipelines.storyworld.renderer import render
from data_pipelines.storyworld.world import CHUNK_SECONDS, ChunkPlan, Story

STREAM, CLIP_STREAM = 2, 3  # of the random numbers of pictures and of clips


@dataclasses.dataclass(frozen=True)
class Moment:
    """A frame that is not drawn yet, with a caption that needs no other frame to be understood."""

    caption: str
    story: Story  # of one chunk, which the frame is from
    frame: int


@dataclasses.dataclass(frozen=True)
class Picture(Moment):
    """The same, drawn."""

    pixels: UInt8[np.ndarray, "h w 3"]


def recast(scene: Story, other: Story, chunk: int, place: int, weather: str) -> Story:
    """Returns a story of one chunk: that of `other`, at a place and in a weather of `scene`.

    Its panorama is that of `scene`, which is painted once for all such stories.

    Args:
        chunk: 0-based, of `other`; one in which the camera does not travel.
        place: index into the places of `scene`.
    """
    plan = other.chunks[chunk]
    if plan.travel:
        raise ValueError(f"chunk {chunk} travels from place to place, and {place} is one place")
    plan = dataclasses.replace(
        plan, place=place, slot0=place, slot1=place, weather=weather, weather_before=weather
    )
    return dataclasses.replace(
        scene, subjects=other.subjects, chunks=(plan,), captions=(), n_chunks=1
    )


def settled(plan: ChunkPlan, fps: int) -> range:
    """Frames of a chunk, from 1, in which all its subjects are on stage and nobody is on the way in or out."""
    length = int(CHUNK_SECONDS * fps)
    begin = ENTER[1] if any(beat.enter for beat in plan.actions) else 0.0
    end = LEAVE[0] if any(beat.leave for beat in plan.actions) else 1.0
    return range(max(1, int(np.ceil(begin * length))), int(end * length) + 1)


def settled_clip(
    index: int, steady: int, *, split: str, height: int, width: int, fps: int
) -> tuple[UInt8[np.ndarray, "f h w 3"], str]:
    """Returns a clip of panorama `index` from frame 0 to the end of its one chunk, and its caption that stands alone.

    In its last `steady` frames all its subjects are on stage. It is a function of (split, index) alone, and its panorama
    is that of `pictures`.
    """
    rng = np.random.default_rng([CLIP_STREAM, index])
    scene = make_story(index, split)
    length = int(CHUNK_SECONDS * fps)
    while True:
        other = make_story(int(2**41 + rng.integers(2**40)), split)
        for k in map(int, rng.permutation(other.n_chunks)):
            plan = other.chunks[k]
            if plan.travel:
                continue
            moments = settled(plan, fps)
            if moments.start <= length - steady + 1 and moments.stop == length + 1:
                place = int(rng.integers(len(scene.places)))
                story = recast(scene, other, k, place, scene.chunks[0].weather)
                frames = render(story, range(length + 1), height=height, width=width, fps=fps)
                return frames, standalone(rng, story, 0)


def moments(index: int, count: int, *, split: str, fps: int) -> list[Moment]:
    """Returns `count` moments of panorama `index`, a function of (split, index) alone.

    Each has a cast, a chunk and a moment of its own; half of them are in each of two weathers, so that the
    panorama is lit twice at most.
    """
    rng = np.random.default_rng([STREAM, index])
    scene = make_story(index, split)
    lights = [scene.chunks[0].weather, str(rng.choice([c.weather for c in scene.chunks]))]
    chosen = []
    for i in range(count):
        # Far from the seeds of whole stories, which the memory is trained and measured on.
        other = make_story(2**40 + index * count + i, split)
        still = [k for k, plan in enumerate(other.chunks) if not plan.travel]
        place = int(rng.integers(len(scene.places)))
        light = lights[2 * i // count]
        story = recast(scene, other, int(rng.choice(still)), place, light)
        frame = int(rng.choice(settled(story.chunks[0], fps)))
        chosen.append(Moment(standalone(rng, story, 0), story, frame))
    return chosen


def pictures(
    index: int, count: int, *, split: str, height: int, width: int, fps: int
) -> list[Picture]:
    """Returns the `moments` of panorama `index`, drawn."""
    size = dict(height=height, width=width, fps=fps)
    return [
        Picture(**vars(moment), pixels=render(moment.story, [moment.frame], **size)[0])
        for moment in moments(index, count, split=split, fps=fps)
    ]
