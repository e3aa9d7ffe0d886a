"""Measures of frames along a film, about twice a second: numbers that later stages decide by.

Flow is DIS between neighbouring samples on pictures whose shorter side is 240, in pixels of one whose shorter side is
480; the camera's part is one similarity transform (shift, zoom, roll) fitted to it, the subject's what is left. Only
where there is texture: elsewhere optical flow is noise. Writing and fixed marks are found without weights, by edges;
both measures are coarse, and say nothing about what is written.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from bvjax.lvbench.metric import MetricContext, Options
from bvjax.lvbench.paper import aesthetic
from bvjax.lvbench.paper.camera import camera_motion
from bvjax.lvbench.paper.clarity import sharpness
from bvjax.lvbench.paper.flow import flow_method
from bvjax.lvbench.paper.working import shrink
from bvjax.lvbench.video import Block
from bvjax.media.video_frames import Frame
from data_pipelines.curation.settings import Scenes

SIDE = 480  # pixels: the shorter side of the picture that lengths refer to
CORNER = 0.3  # of height and width that is a corner
LATER = 6  # samples after which what has not moved stands still
BLACK = 24  # grey levels up to which a row at the border is a bar
NAMES = (
    "flow",
    "camera",
    "subject",
    "sharpness",
    "luma",
    "text",
    "aesthetic",
    "bars",
    "still",
    "hash",
)


class Measurer:
    """Measures sample after sample of one film."""

    def __init__(self, settings: Scenes):
        """Raises `UserError` for a method that there is not, or whose weights are missing."""
        self._context = _context(settings)
        self._flow = flow_method(self._context)
        self._aesthetic = scorer(settings)
        self._previous: Frame | None = None
        self._edges: collections.deque[np.ndarray] = collections.deque(maxlen=LATER)

    def __call__(self, picture: Frame) -> dict[str, Any]:
        """The numbers of `NAMES`; those of flow are 0 for the first sample."""
        picture = at_side(picture, SIDE)
        small = shrink(picture)
        luma = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        numbers = self._motion(picture)
        self._previous = picture
        return {
            **numbers,
            "sharpness": _rounded(sharpness(picture)),
            "luma": _rounded(luma.mean()),
            "text": _rounded(text_share(luma)),
            "aesthetic": _rounded(self._aesthetic(picture)),
            "bars": [_rounded(bar) for bar in bars(luma)],
            "still": self._still(luma),
            "hash": picture_hash(luma),
        }

    def _still(self, luma: np.ndarray) -> list[float]:
        edges = edge_pixels(luma)
        before = self._edges[0] if self._edges else None
        self._edges.append(edges)
        if before is None or before.shape != edges.shape:
            return [0.0] * 5
        return standing_still(edges, before)

    def _motion(self, picture: Frame) -> dict[str, float]:
        if self._previous is None or self._previous.shape != picture.shape:
            return dict.fromkeys(("flow", "camera", "subject"), 0.0)
        block = Block(0, np.stack([self._previous, picture]), None)
        flow, camera = self._flow(block), camera_motion(self._flow, block)
        seen, scale = flow.textured[0], SIDE / min(picture.shape[:2])
        if not seen.any():
            return dict.fromkeys(("flow", "camera", "subject"), 0.0)
        fields = {"flow": flow.field[0], "camera": camera[0], "subject": flow.field[0] - camera[0]}
        length = lambda field: np.sqrt((field**2).sum(-1))[seen].mean() * scale
        return {name: _rounded(length(field)) for name, field in fields.items()}


@functools.lru_cache(maxsize=2)
def _context(settings: Scenes) -> MetricContext:
    from bvjax.lvbench import weights
    from bvjax.sharding import ONE_DEVICE

    options = Options(flow=settings.flow, aesthetic=settings.aesthetic)
    folder = Path(settings.weights) if settings.weights else weights.default_folder()
    return MetricContext(options, ONE_DEVICE, lambda name: weights.load(name, folder))


@functools.lru_cache(maxsize=2)
def scorer(settings: Scenes) -> Callable[[Frame], float]:
    """The aesthetic score of a picture, by the scorer that is chosen; raises `UserError`."""
    choice = settings.aesthetic
    if choice == "handmade":
        return lambda picture: aesthetic.handmade(
            shrink(picture), cv2.cvtColor(shrink(picture), cv2.COLOR_RGB2GRAY)
        )
    if choice == "laion":
        from bvjax.lvbench.official.aesthetic import laion_scores

        batcher = laion_scores(_context(settings))
        return lambda picture: float(batcher.submit(picture).value())
    function = aesthetic.named_function(choice)
    return lambda picture: float(np.asarray(function(picture[None]), np.float64).reshape(()))


def at_side(picture: Frame, side: int) -> Frame:
    """A picture whose shorter side is `side`; a smaller one as it is."""
    height, width = picture.shape[:2]
    scale = side / min(height, width)
    if scale >= 1:
        return np.ascontiguousarray(picture)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA)


def bars(luma: UInt8[np.ndarray, "h w"]) -> tuple[float, float, float, float]:
    """Shares of height and width that are black bars: top, bottom, left, right; all 0 in a black picture."""
    rows, columns = luma.max(axis=1) > BLACK, luma.max(axis=0) > BLACK
    if not rows.any():
        return (0.0, 0.0, 0.0, 0.0)
    height, width = luma.shape
    return (
        float(rows.argmax() / height),
        float(rows[::-1].argmax() / height),
        float(columns.argmax() / width),
        float(columns[::-1].argmax() / width),
    )


def text_share(luma: UInt8[np.ndarray, "h w"]) -> float:
    """The share of a picture in lines of writing: wide boxes that strong vertical edges fill densely and evenly."""
    gradient = cv2.morphologyEx(luma, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    strong = (gradient > 80).astype(np.uint8)
    joined = cv2.morphologyEx(strong, cv2.MORPH_CLOSE, np.ones((1, 9), np.uint8))
    count, _, boxes, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    upright = np.abs(cv2.Sobel(luma, cv2.CV_16S, 1, 0)) > 160
    area = 0
    for x, y, width, height, filled in boxes[1:count]:
        if not (
            5 <= height <= luma.shape[0] // 6
            and width >= 2.5 * height
            and filled > 0.45 * width * height
        ):
            continue
        part = upright[y : y + height, x : x + width]
        steps = np.abs(np.diff(part.astype(np.int8), axis=1)).sum(axis=1)
        if np.median(steps) >= 0.75 * width / height:  # strokes, several a letter
            area += width * height
    return float(area / luma.size)


def edge_pixels(luma: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Mask of pixels whose grey levels differ strongly from their neighbours'."""
    return cv2.morphologyEx(luma, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 60


def standing_still(now: Bool[np.ndarray, "h w"], before: Bool[np.ndarray, "h w"]) -> list[float]:
    """Share of the edges in the four corners and in the middle that was there before, beyond chance: 0..1.

    Chance is the share of all pixels that were edges: (p - c) / (1 - c).
    """
    height, width = now.shape
    rows, columns = round(CORNER * height), round(CORNER * width)
    regions = [
        np.s_[:rows, :columns], np.s_[:rows, -columns:], np.s_[-rows:, :columns], np.s_[-rows:, -columns:],
        np.s_[rows:-rows, columns:-columns],
    ]  # fmt: skip
    shares = []
    for region in regions:
        edges, chance = now[region], float(before[region].mean())
        if (
            edges.sum() < 0.002 * edges.size or chance > 0.9
        ):  # next to nothing to be seen, or nothing else
            shares.append(0.0)
            continue
        kept = float(before[region][edges].mean())
        shares.append(_rounded(max(0.0, (kept - chance) / (1 - chance))))
    return shares


def picture_hash(luma: UInt8[np.ndarray, "h w"]) -> str:
    """The perceptual hash of 64 bits (pHash: signs of the low cosine terms against their median), hexadecimal."""
    small = cv2.resize(luma, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:8, :8]
    middle = np.median(low.ravel()[1:])
    return np.packbits((low > middle).ravel()).tobytes().hex()


def _rounded(value: Any) -> float:
    return round(float(value), 4)
