"""Held-out stories as tables use them: what is to be seen in which chunk, and the truth that drift is measured with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from bvjax.array_files import read_npz
from bvjax.config import ModelConfig
from bvjax.files import npz_bytes, write_atomic
from bvjax.lvbench.clarity import clarity
from data_pipelines.storyworld import (
    COLOURS,
    PLACES,
    SPECIES,
    Story,
    Truth,
    chunk_frames,
    make_story,
    num_frames,
    render,
    truth,
)
from data_pipelines.storyworld.latents import SEEN
from experiments.evaluation.cases import named_but_not_described
from experiments.evaluation.sightings import alone, in_frame, settled
from experiments.evaluation.under_test import SPLIT

LOOKED_AT = 4  # stories for each that is chosen, at most


@dataclasses.dataclass(frozen=True)
class Sighting:
    """A subject by itself, or a place, in a chunk; chunks count from 1.

    gap: whole chunks since it was last to be seen, 0 where it was in the chunk before; None the first time.
    recall: whether only memory can draw it right: it was out of sight, is not in frame 0, and its caption gives its
    name and nothing of its looks. frames: of the chunk, in which it is judged.
    """

    kind: str  # subject | place
    index: int  # into story.subjects or story.places
    chunk: int
    gap: int | None
    recall: bool
    truth: dict[str, int]
    frames: Bool[np.ndarray, "f"]


@dataclasses.dataclass(frozen=True)
class HeldoutStory:
    """The first chunks of a held-out story, and what there is to judge in them."""

    story: Story
    frames: int
    sightings: tuple[Sighting, ...]
    main_subject: int  # whom the boxes follow: most seen of those of the beginning

    @property
    def name(self) -> str:
        return f"{self.story.seed}-{self.story.n_chunks}"


def read_story(seed: int, chunks: int, model: ModelConfig) -> HeldoutStory:
    """The story of a seed, as long as asked for."""
    story, c = make_story(seed, SPLIT, chunks), model.chunk
    facts = truth(story, height=c.height, width=c.width, fps=c.fps)
    spans = [np.asarray(chunk_frames(chunk, c.fps)) for chunk in range(1, chunks + 1)]
    found = [
        *_of_subjects(story, facts, spans, c.height, c.width),
        *_of_places(story, facts, spans),
    ]
    beginning = facts.visible[: max(1, len(facts.visible) // 10)].any(0)
    main = int(np.argmax(facts.visible.sum(0) * beginning))
    return HeldoutStory(story, num_frames(story, c.fps), tuple(found), main)


def chosen(first_seed: int, count: int, chunks: int, model: ModelConfig) -> list[HeldoutStory]:
    """Held-out stories in which memory has a subject to recall; where there are too few, as of short ones, others too.

    They are the first of four times as many.
    """
    seeds = range(first_seed, first_seed + LOOKED_AT * count)
    useful: list[HeldoutStory] = []
    others: list[HeldoutStory] = []
    for seed in seeds:
        story = read_story(seed, chunks, model)
        recalls = any(s.recall and s.kind == "subject" for s in story.sightings)
        (useful if recalls else others).append(story)
        if len(useful) == count:
            break
    return sorted([*useful, *others[: count - len(useful)]], key=lambda held: held.story.seed)


def truth_file(folder: Path, tested: HeldoutStory, model: ModelConfig) -> Path:
    """The story's ground truth as `bvjax.lvbench` reads it, with the clarity of its rendered frames; made once."""
    c = model.chunk
    path = folder / f"{tested.name}-{c.height}x{c.width}-{c.fps}.truth.npz"
    if path.exists():
        return path
    size = dict(height=c.height, width=c.width, fps=c.fps)
    facts = truth(tested.story, range(tested.frames), masks=True, **size)
    boxes = facts.boxes[:, tested.main_subject].astype(np.float32)
    boxes[~in_frame(facts, c.height, c.width)[:, tested.main_subject]] = np.nan
    frames = render(tested.story, range(tested.frames), **size)
    content = npz_bytes(
        boxes=boxes,
        background=np.packbits(facts.background, axis=-1),
        clarity=clarity(frames).mean(keepdims=True),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)
    return path


def true_clarity(path: Path) -> float:
    """The clarity that `truth_file` keeps."""
    return float(read_npz(path)["clarity"][0])


def _of_subjects(
    story: Story, facts: Truth, spans: list[np.ndarray], height: int, width: int
) -> list[Sighting]:
    touching, found = in_frame(facts, height, width), []
    for i, subject in enumerate(story.subjects):
        labels = {
            "species": SPECIES.index(subject.species),
            "colour": COLOURS.index(subject.colour),
        }
        on_stage = np.array([touching[span, i].any() for span in spans])
        by_itself = alone(facts, i, height, width)
        shown = [by_itself[span] for span in spans]
        found += _sightings(story, "subject", i, labels, on_stage, shown, bool(touching[0, i]))
    return found


def _of_places(story: Story, facts: Truth, spans: list[np.ndarray]) -> list[Sighting]:
    found = []
    for i, place in enumerate(story.places):
        kind = PLACES.index(place.kind)
        in_view = np.array([facts.places_visible[span, kind].any() for span in spans])
        shown = [settled(_part(facts, span), kind) for span in spans]
        at_first = bool(facts.places_visible[0, kind])
        found += _sightings(story, "place", i, {"place": kind}, in_view, shown, at_first)
    return found


def _part(facts: Truth, span: np.ndarray) -> Truth:
    """The facts of some frames; those that `settled` reads."""
    return dataclasses.replace(facts, visible=facts.visible[span], place=facts.place[span])


def _sightings(story, kind, index, labels, in_view, shown, in_first_frame) -> list[Sighting]:
    """The chunks that show a thing well enough to be judged."""
    found = []
    for row, frames in enumerate(shown):
        if frames.mean() < SEEN:
            continue
        before = np.flatnonzero(in_view[:row])
        gap = row - int(before[-1]) - 1 if len(before) else None
        only_named = named_but_not_described(story, kind, index, row + 1)
        recall = bool(gap) and not in_first_frame and only_named
        found.append(Sighting(kind, index, row + 1, gap, recall, labels, frames))
    return found
