"""What changes of the caption do: does the new action appear, does the subject stay who it was?  By prompt.change.

A case is a subject of a held-out story alone at its place: two chunks under one caption, in which it does one thing,
and two under another, in which it does another. All arms begin with the same two chunks. Which action a chunk shows is
decided without any network: its map of movement is compared with that of the same scene rendered under each action.
The scene rendered and put through the VAE is an arm of its own, which says how well that works.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from bvjax.config import PromptConfig
from bvjax.generate.conditions import encode_captions
from bvjax.generate.decoding import decode_piece
from bvjax.generate.rollout import stream
from bvjax.lvbench.intervals import mean, rate
from bvjax.runs.report.drift_report import measure_later
from bvjax.story import split_times
from data_pipelines.storyworld import COLOURS, SPECIES, Story, captions, chunk_frames, make_story
from data_pipelines.storyworld.wordings import ACTION_PHRASES
from data_pipelines.storyworld.world import Beat
from experiments.evaluation.judge import Judge
from experiments.evaluation.reconstruction import through_vae
from experiments.evaluation.results import Record, by_arm
from experiments.evaluation.under_test import SPLIT, UnderTest

ACTIONS = ("hop", "wave", "dance", "sleep")  # that move differently, and in place
ARMS = {
    "hard": PromptConfig(),
    "interpolate": PromptConfig(change="interpolate", chunks=1),
    "recache": PromptConfig(change="recache"),
}
TRUTH = "true chunks"
STREAM = 7  # of the random numbers of cases
SHIFT = 16  # pixels that a subject may stand to the side of where it was rendered, at 64 a frame


@dataclasses.dataclass(frozen=True)
class Switch:
    """A story of four chunks: one action in two of them, another in two."""

    story: Story
    old: str
    new: str
    prompts: tuple[str, ...]  # two captions, twice each


def case_of(seed: int) -> Switch:
    """The case of a held-out story; a function of its seed alone."""
    rng = np.random.Generator(np.random.Philox(key=[seed, STREAM]))
    old, new = (str(action) for action in rng.choice(ACTIONS, 2, replace=False))
    story = acting(make_story(seed, SPLIT), (old, old, new, new))
    first = captions.caption(rng, story, 0)
    place = story.places[0].toponym
    phrase = ACTION_PHRASES[new][int(rng.integers(len(ACTION_PHRASES[new])))]
    second = f"{story.subjects[0].name} {phrase} in {place}."
    texts = [split_times(text)[0] for text in (first, second)]
    return Switch(story, old, new, (texts[0], texts[0], texts[1], texts[1]))


def acting(story: Story, actions: tuple[str, ...]) -> Story:
    """The first subject of a story alone in the middle of its first place, in chunks of these actions."""
    opening = story.chunks[0]
    chunks = []
    for i, action in enumerate(actions):
        beat = Beat(
            0, action, 0.0, 0.0,
            settled=i > 0 and actions[i - 1] == action,
            stays=i + 1 < len(actions) and actions[i + 1] == action,
        )  # fmt: skip
        chunks.append(
            dataclasses.replace(
                opening, place=0, subjects=(0,), introduced=(0,) * (i == 0), actions=(beat,),
                place_introduced=i == 0, camera="hold", travel=0, slot0=0, slot1=0, dx0=0.0,
                dx1=0.0, zoom0=1.0, zoom1=1.0, weather_before=opening.weather,
            )
        )  # fmt: skip
    return dataclasses.replace(
        story, subjects=story.subjects[:1], places=(story.places[opening.place],),
        chunks=tuple(chunks), captions=(), n_chunks=len(actions),
    )  # fmt: skip


def movement(frames: UInt8[np.ndarray, "f h w 3"]) -> Float[np.ndarray, "h w"]:
    """Where a chunk moves: the standard deviation over time of each pixel's grey, of unit norm."""
    spread = frames.mean(axis=-1).std(axis=0)
    return spread / max(np.linalg.norm(spread), 1e-6)


def likeness(one: Float[np.ndarray, "h w"], other: Float[np.ndarray, "h w"]) -> float:
    """The largest cosine of two maps of movement over shifts to the side."""
    padded = np.pad(other, ((0, 0), (SHIFT, SHIFT)))
    width = one.shape[1]
    return max(float((one * padded[:, s : s + width]).sum()) for s in range(2 * SHIFT + 1))


def recognise(
    frames: UInt8[np.ndarray, "f h w 3"], models: dict[str, Float[np.ndarray, "h w"]]
) -> str:
    """The action whose rendered movement is most like that of the frames."""
    moved = movement(frames)
    return max(models, key=lambda action: likeness(moved, models[action]))


def rendered_movements(tested: UnderTest, story: Story) -> dict[str, Float[np.ndarray, "h w"]]:
    """The movement of a steady chunk of the scene under each action."""
    frames = chunk_frames(2, tested.model.chunk.fps)
    return {
        action: movement(tested.frames(acting_again(story, action), frames)) for action in ACTIONS
    }


def acting_again(story: Story, action: str) -> Story:
    """The scene of a case under one action throughout."""
    chunks = tuple(
        dataclasses.replace(
            chunk, actions=(dataclasses.replace(chunk.actions[0], action=action, settled=True, stays=True),)
        )
        for chunk in story.chunks
    )  # fmt: skip
    return dataclasses.replace(story, chunks=chunks)


def generate(tested: UnderTest, case: Switch, arm: str, seed: int) -> UInt8[np.ndarray, "f h w 3"]:
    """The case's video under an arm."""
    tested.need("dit", "vae", "text")
    model = dataclasses.replace(tested.model, prompt=ARMS[arm])
    conditions = encode_captions(
        lambda: tested.params["text"], model.text, tested.tokenizer, case.prompts,
        model.guidance.negative,
    )  # fmt: skip
    state, frames = None, []
    for piece in stream(tested.params["dit"], model, conditions, jax.random.key(seed)):
        state, new = decode_piece(tested.params["vae"], model, state, piece.latents)
        frames.append(np.asarray(new))
    return np.concatenate(frames)


def measure(
    tested: UnderTest, judge: Judge, case: Switch, frames: UInt8[np.ndarray, "f h w 3"]
) -> Record:
    """What chunks 3 and 4 show of the new action and of the old one, who they show, and the seam at the switch."""
    models, fps = rendered_movements(tested, case.story), tested.model.chunk.fps
    spans = [chunk_frames(chunk, fps) for chunk in (2, 3, 4)]
    before, first, second = (frames[span.start : span.stop] for span in spans)
    everywhere = np.ones((1, len(first)), bool)
    subject, result = case.story.subjects[0], {}
    want = {"species": SPECIES.index(subject.species), "colour": COLOURS.index(subject.colour)}
    for name, chunk in (("at the switch", first), ("one chunk later", second)):
        shown = recognise(chunk, models)
        verdict = judge.verdict(chunk[None], everywhere, everywhere)
        result[name] = {
            "new": shown == case.new,
            "old": shown == case.old,
            "same": all(int(verdict[head][0]) == label for head, label in want.items()),
        }
    return result | {
        "before": recognise(before, models) == case.old,
        "seam": float(measure_later(first, before[-1])().seam),
    }


def record_of(tested: UnderTest, judge: Judge, seed: int, arm: str, video_seed: int) -> Record:
    """The record of a case under one of `ARMS`, or of `TRUTH`."""
    case = case_of(seed)
    if arm == TRUTH:
        return measure(tested, judge, case, through_vae(tested, tested.frames(case.story)))
    return measure(tested, judge, case, generate(tested, case, arm, video_seed))


def summary(records: dict[str, Record]) -> dict[str, Any]:
    """Rates by arm ("arm | seed" names a record)."""
    return {
        arm: {
            "old action before": rate([r["before"] for r in each]),
            **{
                f"{what}, {when}": rate([r[when][what] for r in each])
                for when in ("at the switch", "one chunk later")
                for what in ("new", "old", "same")
            },
            "seam": mean([r["seam"] for r in each]),
            "chance of an action": 1 / len(ACTIONS),
        }
        for arm, each in by_arm(records).items()
    }
