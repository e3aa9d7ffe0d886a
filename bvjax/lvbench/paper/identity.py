"""E of Eq. 25: what a subject looks like, as a unit vector."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from bvjax.errors import UserError
from bvjax.lvbench.batching import Batcher
from bvjax.lvbench.metric import MetricContext

ENCODERS = ("histogram", "dino")
CROP_SIDE = 64  # pixels of a crop for histograms
WINDOW_STD = 0.6  # of the half sides: standard deviation of the window over a crop
LIGHTNESS_BINS, COLOUR_BINS = 4, 10  # bins of L, and of a and of b
ORIENTATIONS, CELLS = 8, 4  # bins of orientation, cells a side
COLOUR_SHARE = 0.75  # share of colour in the cosine
DINO_SIDE = 224  # pixels of a crop for DINO: the size that it was trained on


class Encoder(Protocol):
    """Turns crops of a frame into unit vectors."""

    settings: Mapping[str, Any]

    def embed(self, frame: UInt8[np.ndarray, "h w 3"], box: tuple[int, int, int, int]) -> Any:
        """Something whose `value()` is the unit vector of frame[y0:y1, x0:x1]."""


@dataclasses.dataclass(frozen=True)
class _ComputedVector:
    vector: Float[np.ndarray, "d"]

    def value(self) -> Float[np.ndarray, "d"]:
        return self.vector


class Histogram:
    """Colours (CIELAB) and gradient orientations, the middle of the crop counting most.

    The vector is two unit vectors side by side, so a cosine is 0.75 of the cosine of colours plus
    0.25 of that of orientations.  Histograms are not mean-centred: the cosine stays in 0..1, the
    first segment is near 1, and disjoint colours leave at most 0.25.  Limits: it knows nothing of
    faces; another light, faded colours or another pose count as another look; two subjects of one
    colouring look the same; what is seen around the subject inside its box counts a little.
    """

    settings = {
        "encoder": "histogram",
        "side": CROP_SIDE,
        "bins": [LIGHTNESS_BINS, COLOUR_BINS, COLOUR_BINS, ORIENTATIONS, CELLS],
        "colour": COLOUR_SHARE,
    }

    def embed(self, frame, box) -> _ComputedVector:
        x0, y0, x1, y1 = box
        crop = frame[y0:y1, x0:x1]
        crop = cv2.resize(crop, (CROP_SIDE, CROP_SIDE), interpolation=cv2.INTER_AREA)
        return _ComputedVector(histograms(crop))


def histograms(crop: UInt8[np.ndarray, "s s 3"]) -> Float[np.ndarray, "d"]:
    """The unit vector of a crop of `SIDE` pixels a side."""
    lab = cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    return np.concatenate(
        [
            np.sqrt(COLOUR_SHARE) * _unit(_colours(lab)),
            np.sqrt(1 - COLOUR_SHARE) * _unit(_orientations(lab[..., 0])),
        ]
    )


def _colours(lab: Float[np.ndarray, "s s 3"]) -> Float[np.ndarray, "d"]:
    """Counts in bins of (L, a, b), each pixel shared by the two nearest bins of each axis."""
    shape = np.array([LIGHTNESS_BINS, COLOUR_BINS, COLOUR_BINS])
    low, high = np.array([0.0, -80.0, -80.0]), np.array([100.0, 80.0, 80.0])
    bin_positions = (lab.reshape(-1, 3) - low) / (high - low) * shape - 0.5
    bin_positions = np.clip(bin_positions, 0, shape - 1 - 1e-4)
    base = bin_positions.astype(int)
    remainder = bin_positions - base
    counts = np.zeros(LIGHTNESS_BINS * COLOUR_BINS * COLOUR_BINS)
    for corner in np.ndindex(2, 2, 2):
        share = np.prod(np.where(corner, remainder, 1 - remainder), axis=1) * _WINDOW.ravel()
        bins = (base + corner) @ (COLOUR_BINS * COLOUR_BINS, COLOUR_BINS, 1)
        counts += np.bincount(bins, share, len(counts))
    return counts


def _orientations(light: Float[np.ndarray, "s s"]) -> Float[np.ndarray, "d"]:
    """Length of gradients by direction modulo 180 degrees, in a grid of cells."""
    gx, gy = (cv2.Sobel(light, cv2.CV_32F, 1 - i, i, ksize=3) for i in (0, 1))
    orientation = np.arctan2(gy, gx) / np.pi * ORIENTATIONS
    base = np.floor(orientation)
    remainder = orientation - base
    rows = np.arange(CROP_SIDE) * CELLS // CROP_SIDE
    cell = rows[:, None] * CELLS + rows
    length = np.hypot(gx, gy) * _WINDOW
    counts = np.zeros(CELLS * CELLS * ORIENTATIONS)
    for step, share in ((0, 1 - remainder), (1, remainder)):
        bins = cell * ORIENTATIONS + (base.astype(int) + step) % ORIENTATIONS
        counts += np.bincount(bins.ravel(), (share * length).ravel(), len(counts))
    return counts


def _window() -> Float[np.ndarray, "s s"]:
    bell = np.exp(-0.5 * (np.linspace(-1, 1, CROP_SIDE) / WINDOW_STD) ** 2)
    return np.outer(bell, bell)


_WINDOW = _window()


def _unit(x: Float[np.ndarray, "d"]) -> Float[np.ndarray, "d"]:
    return x / max(np.linalg.norm(x), 1e-12)


class Dino:
    """The class token of DINO ViT-B/16 for the square around the box; needs `dino_vitb16`."""

    settings = {"encoder": "dino_vitb16", "side": DINO_SIDE}

    def __init__(self, context: MetricContext):
        from bvjax.lvbench.nets import dino
        from bvjax.lvbench.official.preprocess import dino_input

        forward = lambda params, crops: dino.dino(params, dino_input(crops))
        params = dino.prepare(context.load("dino_vitb16"))
        self._batcher = Batcher(forward, params, context.options.batch, context.layout)

    def embed(self, frame, box) -> Any:
        crop = square(frame, box)
        interpolation = cv2.INTER_AREA if len(crop) > DINO_SIDE else cv2.INTER_LINEAR
        crop = cv2.resize(crop, (DINO_SIDE, DINO_SIDE), interpolation=interpolation)
        return _PendingUnitVector(self._batcher.submit(crop))


@dataclasses.dataclass(frozen=True)
class _PendingUnitVector:
    pending: Any

    def value(self) -> Float[np.ndarray, "d"]:
        return _unit(np.asarray(self.pending.value(), np.float64))


def square(
    frame: UInt8[np.ndarray, "h w 3"], box: tuple[int, int, int, int]
) -> UInt8[np.ndarray, "s s 3"]:
    """The smallest square around a box, moved into the frame where it can be."""
    x0, y0, x1, y1 = box
    side = min(max(x1 - x0, y1 - y0), *frame.shape[:2])
    left = int(np.clip((x0 + x1 - side) // 2, 0, frame.shape[1] - side))
    top = int(np.clip((y0 + y1 - side) // 2, 0, frame.shape[0] - side))
    return frame[top : top + side, left : left + side]


def encoder_of(context: MetricContext) -> Encoder:
    """Returns the encoder of `context.options.subject`; raises `UserError` for any other."""
    name = context.options.subject
    if name not in ENCODERS:
        raise UserError(f"the option subject is {name!r}; it can be {' or '.join(ENCODERS)}")
    return Histogram() if name == "histogram" else Dino(context)
