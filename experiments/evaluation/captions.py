"""Do captions matter?  Whether the first chunk shows the species, colour and place it was told."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from bvjax.generate.decoding import decode_piece
from bvjax.generate.rollout import stream
from bvjax.lvbench.intervals import rate
from data_pipelines.storyworld import COLOURS, PLACES, SPECIES, make_story
from experiments.evaluation.cases import CHANCE, judged_frames
from experiments.evaluation.judge import HEADS, Judge
from experiments.evaluation.results import Record
from experiments.evaluation.under_test import SPLIT, UnderTest


def first_chunk(tested: UnderTest, judge: Judge, seed: int, video_seed: int) -> Record | None:
    """Generates frame 0 and chunk 1 of a held-out story from its first caption and judges them.

    Frames count in which ground truth shows the one subject by itself; None when there are none
    (the story opens on an empty scene).
    """
    tested.need("dit", "vae", "text")
    story, model = make_story(seed, SPLIT), tested.model
    introduced = story.chunks[0].subjects
    if len(introduced) != 1:
        return None
    subject_index, home = introduced[0], story.chunks[0].place
    masks = [
        judged_frames(story, 1, kind, i, model.chunk)
        for kind, i in (("subject", subject_index), ("place", home))
    ]
    if not all(mask.any() for mask in masks):
        return None
    conditions, state = tested.conditions(story, chunks=1), None
    for piece in stream(tested.params["dit"], model, conditions, jax.random.key(video_seed)):
        state, frames = decode_piece(tested.params["vae"], model, state, piece.latents)
    verdict = judge.verdict(np.asarray(frames)[None], *(mask[None] for mask in masks))
    subject = story.subjects[subject_index]
    truth = {
        "species": SPECIES.index(subject.species),
        "colour": COLOURS.index(subject.colour),
        "place": PLACES.index(story.places[home].kind),
    }
    return {
        "right": {head: bool(verdict[head][0] == truth[head]) for head in HEADS},
        "unseen": bool(story.unseen_combos[subject_index]),
    }


def summary(records: dict[str, Record]) -> dict[str, Any]:
    """Rates of each head, of species and colour together, and of all three."""
    rights = [record["right"] for record in records.values()]
    result = {head: rate([right[head] for right in rights]) for head in HEADS}
    result["both"] = rate([right["species"] and right["colour"] for right in rights])
    result["all"] = rate([all(right.values()) for right in rights])
    unseen = [r["right"] for r in records.values() if r["unseen"]]
    result["both, unseen pair"] = rate([right["species"] and right["colour"] for right in unseen])
    result["chance"] = CHANCE
    return result
