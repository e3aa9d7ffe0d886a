"""Dynamic degree: is there enough motion, by RAFT's flow, to call a video moving?

The published number is 1 or 0.  Short segments need few fast pairs, two frames none: see `is_moving`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from bvjax.lvbench.batching import Batcher, PendingResult
from bvjax.lvbench.metric import MetricContext, Scores
from bvjax.lvbench.nets import correlation, raft
from bvjax.lvbench.nets.conv import pad_to
from bvjax.lvbench.official.motion import FRAMES_PER_PAIR
from bvjax.lvbench.video import Block, Video

RATE = 8  # frames a second that are looked at, about
FASTEST_SHARE = 0.05  # of a picture's pixels
_RATE_TOLERANCE = 5e-4  # relative: a rate so near to a whole number is taken for it


def make(context: MetricContext) -> DynamicMetric:
    """Needs `raft_things`."""
    params = raft.prepare(context.load("raft_things"))
    size = max(1, context.options.batch // FRAMES_PER_PAIR)
    return DynamicMetric(Batcher(speed, params, size, context.layout))


def speed(
    params: Mapping[str, Array], first: UInt8[Array, "b h w 3"], second: UInt8[Array, "b h w 3"]
) -> Float[Array, " b"]:
    """Mean length of the flow of the fastest twentieth of the pixels.

    Pixels that were added to make both sides multiples of 8 are among them.
    """
    first, second = (pad_to(x, raft.STRIDE).astype(jnp.float32) for x in (first, second))
    flow = raft.flow(params, first, second)
    lengths = jnp.sqrt(jnp.square(flow).sum(-1)).reshape(len(flow), -1)
    return jnp.sort(lengths, axis=-1)[:, -int(lengths.shape[1] * FASTEST_SHARE) :].mean(-1)


def interval(fps: float) -> int:
    """Returns the stride between sampled frames: max(1, round(fps / 8)), halves to even.

    Time stamps in whole milliseconds make a rate of 12 a little more or less, which would decide
    between 1 and 2.
    """
    nearest = round(fps)
    if abs(fps - nearest) <= _RATE_TOLERANCE * fps:
        fps = nearest
    return max(1, round(fps / RATE))


def is_moving(speeds: Sequence[float], frames: int, shorter: int) -> bool:
    """Returns whether at least round(frames / 4) pairs move by more than 6 / 256 of the shorter side.

    Halves are rounded to even, so two frames need no fast pair and always count as moving; a single
    frame, which has no pair, never does.
    """
    threshold = 6.0 * (shorter / 256.0)
    min_fast_pairs = round(4 * (frames / 16.0))
    return len(speeds) > 0 and sum(s > threshold for s in speeds) >= min_fast_pairs


@dataclasses.dataclass(frozen=True)
class DynamicMetric:
    """The published dynamic degree."""

    batcher: Batcher
    name: str = "official/dynamic"
    settings: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: {"iterations": raft.ITERATIONS, "rate": RATE}
    )
    least_frames: int = 1

    def begin(self, video: Video, segments: int) -> DynamicMeasurement:
        return DynamicMeasurement(self.batcher, video, segments)


class DynamicMeasurement:
    """Speeds between every n-th frame of a video and the next of them."""

    def __init__(self, batcher: Batcher, video: Video, segments: int):
        correlation.check_size("RAFT", video.height, video.width, volumes=1)
        self._batcher, self._segments = batcher, segments
        self._interval = interval(video.fps)
        self._shorter = min(video.height, video.width)
        self._previous: np.ndarray | None = None
        self._pending: list[PendingResult] = []
        self._frames = 0

    def add(self, block: Block) -> None:
        for frame in block.frames[-block.first % self._interval :: self._interval]:
            if self._previous is not None:
                self._pending.append(self._batcher.submit(self._previous, frame))
            self._previous = frame
            self._frames += 1

    def scores(self) -> Scores:
        speeds = [float(pending.value()) for pending in self._pending]
        whole_score = float(is_moving(speeds, self._frames, self._shorter))
        length = self._frames // self._segments
        if not length:
            reason = (
                f"of {self._interval} frames one is looked at, {self._frames} in all; "
                f"{self._segments} chunks need as many"
            )
            return Scores((float("nan"),) * self._segments, whole_score, reason=reason)
        chunks = tuple(
            float(is_moving(speeds[i * length : (i + 1) * length - 1], length, self._shorter))
            for i in range(self._segments)
        )
        return Scores(chunks, whole_score)
