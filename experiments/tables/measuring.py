"""The record of one video: drift by the suite paper with ground truth, what is recalled, sharpness and seams."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from bvjax.lvbench.formatting import finite
from bvjax.lvbench.metric import MetricContext, Options
from bvjax.lvbench.suites import choose
from bvjax.lvbench.vde import drift_weights
from bvjax.lvbench.video import Block, Video
from bvjax.runs.report.drift_report import measure_later
from bvjax.sharding import Layout
from data_pipelines.storyworld import chunk_frames
from experiments.evaluation.judge import Judge
from experiments.tables.generating import Made
from experiments.tables.measures import SCORES
from experiments.tables.stories import HeldoutStory, true_clarity

BLOCK = 16  # frames that metrics are given at a time
Frames = UInt8[np.ndarray, "f h w 3"]


def record_of(
    made: Made, held: HeldoutStory, truth: Path, judge: Judge, fps: int
) -> dict[str, Any]:
    """All that is kept of a video; JSON values."""
    found = scores(made.frames, truth, fps)
    return {
        "scores": found,
        "sharpness": found["clarity"]["level"] / true_clarity(truth),
        "seam": seam(made.frames, held.story.n_chunks, fps),
        "sightings": judged(made.frames, held, judge, fps),
        "seconds": made.seconds,
        "warm": made.warm,
        "memory_bytes": made.memory_bytes,
    }  # fmt: skip


def scores(frames: Frames, truth: Path, fps: int) -> dict[str, dict[str, Any]]:
    """Each score of the suite paper: of the tenths of the video, its drift and its level, None where there is none."""
    height, width = frames.shape[1:3]
    video = Video(truth, truth.name, "", len(frames), float(fps), height, width, truth=truth)
    context = MetricContext(Options(), Layout(), load=_no_weights)
    metrics = [entry.make(context) for entry in choose("paper", tuple(SCORES))]
    running = [metric.begin(video, context.options.segments) for metric in metrics]
    for block in _blocks(frames):
        for measurement in running:
            measurement.add(block)
    result = {}
    for metric, measurement in zip(metrics, running, strict=True):
        tenths = np.asarray(measurement.scores().chunks, np.float64)
        known = tenths[np.isfinite(tenths)]
        result[metric.name.rpartition("/")[2]] = {
            "tenths": [finite(x) for x in tenths],
            "vde": drift_of_known(tenths),
            "level": float(known.mean()) if len(known) else None,
        }
    return result


def drift_of_known(tenths: Float[np.ndarray, "n"]) -> float | None:
    """VDE (Eq. 19), where some tenths have no score: of the others, their weights scaled to the sum of all.

    Subjects come and go in a story, and nothing is said of a subject in a tenth that does not show it. None where the
    first tenth has no score above 0, or no other has one.
    """
    first, later = tenths[0], tenths[1:]
    known = np.isfinite(later)
    if not (np.isfinite(first) and first > 0 and known.any()):
        return None
    weights = drift_weights(len(tenths))
    change = np.abs(later[known] - first) / first
    return float(weights.sum() * (weights[known] @ change) / weights[known].sum())


def seam(frames: Frames, chunks: int, fps: int) -> float | None:
    """The median over joins of the step across a join, in steps inside the chunk after it; None of one chunk."""
    spans = [chunk_frames(chunk, fps) for chunk in range(2, chunks + 1)]
    steps = [
        measure_later(frames[s.start : s.stop], frames[s.start - 1])().seam
        for s in spans
        if s.stop <= len(frames)
    ]
    known = [step for step in steps if step is not None]
    return float(np.median(known)) if known else None


def judged(frames: Frames, held: HeldoutStory, judge: Judge, fps: int) -> list[dict[str, Any]]:
    """Each sighting of the story with what the judge finds right in the video."""
    if not held.sightings:
        return []
    places = [chunk_frames(s.chunk, fps).start + np.flatnonzero(s.frames) for s in held.sightings]
    looked_at = np.unique(np.concatenate(places))  # each frame once, in few calls of one size
    logits = judge.logits(frames[looked_at])
    found = []
    for sighting, own in zip(held.sightings, places, strict=True):
        rows = np.searchsorted(looked_at, own)
        right = {
            head: int(logits[head][rows].sum(axis=0).argmax()) == label
            for head, label in sighting.truth.items()
        }
        found.append(
            {
                "kind": sighting.kind,
                "index": sighting.index,
                "chunk": sighting.chunk,
                "gap": sighting.gap,
                "recall": sighting.recall,
                "right": right,
            }
        )
    return found


def _blocks(frames: Frames) -> Iterator[Block]:
    shared: dict[str, Any] = {}
    for first in range(0, len(frames), BLOCK):
        previous = frames[first - 1] if first else None
        yield Block(first, frames[first : first + BLOCK], previous, _video_cache=shared)


def _no_weights(name: str) -> dict[str, np.ndarray]:
    raise AssertionError(f"the suite paper asked for weights {name}")
