"""Effects of the initial noise on whole minutes: independent, or one base shared by the chunks and shuffled (Eq. 12, 13).

Training draws independent noise.  With a shared base neighbouring chunks begin alike, which may join them more smoothly
and may make them repeat each other; the shuffle is to prevent that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from bvjax.config import NoiseConfig
from bvjax.lvbench.intervals import mean
from bvjax.lvbench.vde import vde
from bvjax.runs.report.drift_report import measure_later
from data_pipelines.storyworld import Story, chunk_frames
from experiments.evaluation.drift import drift_record
from experiments.evaluation.minutes import STORY_CHUNKS, generate_minute
from experiments.evaluation.results import Record, by_arm
from experiments.evaluation.under_test import UnderTest

ARMS = {
    "independent": NoiseConfig(base="independent", shuffle=0),
    **{f"shared, s = {s}": NoiseConfig(base="shared", shuffle=s) for s in (0, 2, 4)},
}
TRUTH = "rendered"


def with_noise(tested: UnderTest, arm: str) -> UnderTest:
    """The same weights, which begin from the noise of `arm`."""
    return dataclasses.replace(tested, model=dataclasses.replace(tested.model, noise=ARMS[arm]))


def chunks_of(
    frames: UInt8[np.ndarray, "f h w 3"], fps: int
) -> Iterator[UInt8[np.ndarray, "n h w 3"]]:
    """The chunks of a minute, without its first frame."""
    for chunk in range(1, STORY_CHUNKS + 1):
        span = chunk_frames(chunk, fps)
        yield frames[span.start : span.stop]


def replay(
    before: UInt8[np.ndarray, "f h w 3"], after: UInt8[np.ndarray, "f h w 3"]
) -> Float[np.ndarray, ""]:
    """Returns how far a chunk repeats the one before: -1 to 1, NaN where one of them stands still.

    The correlation, over pixels and frames, of each frame's deviation from its chunk's mean picture with that of the
    frame at the same place in the other chunk.  What both show all the time does not count.
    """
    one, two = (x.astype(np.float64) - x.mean(axis=0) for x in (before, after))
    size = np.sqrt(np.square(one).sum() * np.square(two).sum())
    return (one * two).sum() / size if size else np.float64(np.nan)


def measure(frames: UInt8[np.ndarray, "f h w 3"], fps: int) -> Record:
    """Replay and seam of each join of two chunks, and drift."""
    chunks = list(chunks_of(frames, fps))
    pairs = list(zip(chunks[:-1], chunks[1:], strict=True))
    return {
        "replay": [float(replay(*pair)) for pair in pairs],
        "seam": [measure_later(after, before[-1])().seam for before, after in pairs],
        **drift_record(frames),
    }


def noise_record(tested: UnderTest, story: Story, seed: int) -> Record:
    """Generates one story; `tested` has the arm's noise."""
    return measure(generate_minute(tested, story, "semantic", seed).frames, tested.model.chunk.fps)


def summary(records: dict[str, Record]) -> dict[str, Any]:
    """Per arm ("arm | ..." names a record): means over minutes, with intervals."""
    return {
        arm: {
            "replay": mean([float(np.nanmean(r["replay"])) for r in minutes]),
            "seam": mean([float(np.median(r["seam"])) for r in minutes]),
            "clarity": mean([float(np.mean(r["clarity"])) for r in minutes]),
            "clarity VDE": mean([float(vde(r["clarity"])) for r in minutes]),
            "motion": mean([float(np.mean(r["motion"])) for r in minutes]),
            "motion VDE": mean([float(vde(r["motion"])) for r in minutes]),
        }
        for arm, minutes in by_arm(records).items()
    }
