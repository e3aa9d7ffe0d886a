"""Do words have a look?  Whether a first frame alone shows the species, colour and place of its caption.

The milestone of training on single pictures: there is no chunk yet that could show a subject.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from bvjax.config import ChunkConfig
from bvjax.generate.pictures import decode_first, generate_pictures
from data_pipelines.storyworld import COLOURS, PLACES, SPECIES, render, truth
from data_pipelines.storyworld.recast import Moment, moments
from data_pipelines.storyworld.world import HELD_OUT_COMBOS
from experiments.evaluation.judge import HEADS, Judge
from experiments.evaluation.results import Record
from experiments.evaluation.sightings import in_frame
from experiments.evaluation.under_test import SPLIT, UnderTest

TRIES = 12  # pictures of a panorama, of which the first with one subject in view is taken


@dataclasses.dataclass(frozen=True)
class Asked:
    """A caption that describes one subject, and what it says."""

    caption: str
    pixels: UInt8[np.ndarray, "h w 3"]  # as the world draws it
    truth: dict[str, int]  # of each head of the judge
    unseen: bool  # a (species, colour) pair that the train split never shows


def asked(index: int, tested: UnderTest) -> Asked | None:
    """Returns a picture of held-out panorama `index` with one subject, wholly in view; None if none has."""
    c = tested.model.chunk
    for moment in moments(index, TRIES, split=SPLIT, fps=c.fps):
        cast = moment.story.chunks[0].subjects
        if len(cast) == 1 and _alone(moment, cast[0], c):
            break
    else:
        return None
    subject = moment.story.subjects[cast[0]]
    named = {
        "species": SPECIES.index(subject.species),
        "colour": COLOURS.index(subject.colour),
        "place": PLACES.index(moment.story.places[moment.story.chunks[0].place].kind),
    }
    unseen = (subject.species, subject.colour) in HELD_OUT_COMBOS
    size = dict(height=c.height, width=c.width, fps=c.fps)
    pixels = render(moment.story, [moment.frame], **size)[0]
    return Asked(moment.caption, pixels, named, unseen)


def _alone(moment: Moment, subject: int, chunk: ChunkConfig) -> bool:
    height, width = chunk.height, chunk.width
    facts = truth(moment.story, [moment.frame], height=height, width=width, fps=chunk.fps)
    x0, _, x1, _ = facts.boxes[0, subject]
    others = in_frame(facts, height, width)[0].sum() > 1
    return bool(facts.visible[0, subject] and x0 >= 0 and x1 <= width and not others)


def generate(tested: UnderTest, items: list[Asked], seed: int) -> UInt8[np.ndarray, "n h w 3"]:
    """Returns a first frame for each caption; picture i is a function of (seed, i, caption)."""
    tested.need("dit", "vae", "text")
    text, _ = tested.encoders.text([item.caption for item in items])
    latents = generate_pictures(
        tested.params["dit"], tested.model, text, tested.null_text, jax.random.key(seed)
    )
    return decode_first(tested.params["vae"], tested.model, latents)


def judge_pictures(
    judge: Judge, items: list[Asked], frames: UInt8[np.ndarray, "n h w 3"]
) -> list[Record]:
    """Records of what the judge names right in each picture."""
    seen = np.ones((len(items), 1), bool)
    verdict = judge.verdict(frames[:, None], seen, seen)
    return [
        {
            "right": {head: bool(verdict[head][i] == item.truth[head]) for head in HEADS},
            "unseen": item.unseen,
        }
        for i, item in enumerate(items)
    ]


def answers(items: list[Asked]) -> list[dict[str, Any]]:
    """The words for what each picture is to show: the key of a reading (`reading.py`)."""
    names = {"species": SPECIES, "colour": COLOURS, "place": PLACES}
    return [{head: names[head][item.truth[head]] for head in HEADS} for item in items]
