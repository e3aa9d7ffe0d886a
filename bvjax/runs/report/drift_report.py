"""Changes along a video: a few numbers per chunk that need no other network.

Long generated videos fail by slow drift: they blur, freeze or jitter, shift in colour, or jump
where two chunks meet.  One `ChunkDrift` per chunk shows each of these; `report` joins them with
what the memory did.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from bvjax.lvbench.clarity import clarity, luminance
from bvjax.lvbench.motion import motion_async
from bvjax.lvbench.vde import vde


@dataclasses.dataclass(frozen=True)
class ChunkDrift:
    """Measures of one chunk, in grey levels 0..255 unless stated."""

    clarity: float  # variance of the Laplacian of luminance, mean over frames (Eq. 20)
    motion: float  # mean length of the optical flow inside the chunk, pixels per frame (Eq. 21)
    colour: tuple[float, float, float]  # mean red, green, blue
    saturation: float  # mean of (max - min) / max over the channels, 0..1
    seam: float | None  # step across the chunk's start / median step inside; None without a past


def measure_later(
    frames: UInt8[np.ndarray, "f h w 3"], previous: UInt8[np.ndarray, "h w 3"] | None = None
) -> Callable[[], ChunkDrift]:
    """Drift measures of a chunk's frames; `previous` is the last frame before them.

    Does not wait for the optical flow, which is queued after the device's other work; calling what is
    returned does.
    """
    flow = motion_async(frames) if len(frames) > 1 else np.zeros(1)
    rgb = frames.astype(np.float32)
    luma = luminance(frames)
    steps = np.abs(np.diff(luma, axis=0)).mean(axis=(1, 2))
    seam = None
    if previous is not None and len(steps):
        across = np.abs(luma[0] - luminance(previous)).mean()
        seam = float((across + 1e-3) / (np.median(steps) + 1e-3))  # a still chunk has seam 1
    high, low = rgb.max(-1), rgb.min(-1)
    measures = dict(
        clarity=float(clarity(frames).mean()),
        colour=tuple(float(c) for c in rgb.mean(axis=(0, 1, 2))),
        saturation=float(((high - low) / np.maximum(high, 1.0)).mean()),
        seam=seam,
    )
    return lambda: ChunkDrift(motion=float(np.asarray(flow, np.float64).mean()), **measures)


def report(
    captions: Sequence[str],
    drift: Mapping[int, ChunkDrift],
    memory: Mapping[int, Mapping[str, Any]],
    header: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of report.json.

    Args:
        captions: one per chunk, as the model got them.
        drift: measures by chunk number (1, 2, ...).
        memory: what the bank did, by chunk number: `retrieved`, `kept_ratio`, `coverage`,
            `clipped`.
        header: other fields, which come first (seed, sizes, versions).

    `clipped_share` is of the writes of all chunks and layers, `coverage` their mean: what `memory.tau`
    asks for, as far as a slot holds it.
    `chunk_drift` is a mean change over the story's chunks, of the frames before they were encoded; a
    VDE, over equal parts of the finished video, is `evaluate`'s to give.
    """
    chunks = [
        {
            "chunk": number,
            "caption": captions[number - 1],
            **dataclasses.asdict(drift[number]),
            **memory.get(number, {}),
        }
        for number in sorted(drift)
    ]
    shares = [share for chunk in chunks for share in chunk.get("clipped", [])]
    covered = [
        share
        for chunk in chunks
        for share, kept in zip(chunk.get("coverage", []), chunk.get("kept_ratio", []), strict=True)
        if kept > 0  # what is never written covers nothing
    ]
    return {
        **header,
        "chunk_drift": {name: _drift([c[name] for c in chunks]) for name in ("clarity", "motion")},
        "clipped_share": float(np.mean(shares)) if shares else 0.0,
        "coverage": round(float(np.mean(covered)), 4) if covered else None,
        "chunks": chunks,
    }


def _drift(scores: Sequence[float]) -> float | None:
    """VDE over the chunks, normalised (Eq. 19); None where chunk 1 has nothing to compare with."""
    value = float(vde(np.array(scores), normalise=True))
    return round(value, 4) if np.isfinite(value) else None
