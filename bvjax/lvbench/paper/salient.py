"""A subject that nobody told: what stands out from the frame's border or moves by itself, tracked.

Limits.  There is no knowledge of things: one region is followed, the most conspicuous one near the
middle when it first shows; a subject of the background's colours that stands still is missed; of
several the tracker may change from one to another; a striking still object is taken for a subject.
Give boxes (NAME.truth.npz) or another `Detector` where that matters.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from bvjax.lvbench.paper.camera import camera_motion
from bvjax.lvbench.paper.flow import Dis, FlowMethod
from bvjax.lvbench.paper.working import first_pair, small
from bvjax.lvbench.video import Block, Video

SHORT = 60  # pixels: shorter side of a saliency map
COLOURS = 16  # mean colours along the border
CONTRAST = 30.0  # Lab distance to all of them that stands out fully
MOTION = 3.0  # pixels a frame at a shorter side of 480, beside the camera's, that do
THRESHOLD = 0.35  # of saliency 0..1
SMALLEST, LARGEST = 0.004, 0.4  # share of the frame that a subject's pixels can be
FOLLOW = 0.3  # of the way to the newly found box that the tracked one goes in a frame
HOLD = 12  # frames that a lost subject is thought to stay where it was

NOWHERE = np.full(4, np.nan, np.float32)


class Salient:
    """A `Detector` (see `scene`) that needs nothing but the frames.

    Motion is seen by DIS, whatever flow the metrics use: it need not be exact.
    """

    name = "salient"

    def __init__(self, flow: FlowMethod | None = None):
        self._flow = flow or Dis()

    def begin(self, video: Video) -> Tracker:
        return Tracker(self._flow, video)


class Tracker:
    """The box of the most salient region, followed from frame to frame."""

    def __init__(self, flow: FlowMethod, video: Video):
        self._flow, self._size = flow, (video.height, video.width)
        self._box, self._lost = NOWHERE, 0

    def boxes(self, block: Block) -> Float[np.ndarray, "f 4"]:
        """(x0, y0, x1, y1) in pixels of the video; NaN where nothing stands out."""
        height, width = self._size
        made = np.empty((len(block.frames), 4), np.float32)
        for i, (picture, motion) in enumerate(self._views(block)):
            saliency = saliency_map(picture, motion)
            scale = np.array([width / saliency.shape[1], height / saliency.shape[0]] * 2)
            found = find(saliency, self._box / scale)
            if found is None:  # everything moves by itself: colour is left
                found = find(saliency_map(picture, None), self._box / scale)
            if found is None:
                self._lost += 1
                self._box = self._box if self._lost <= HOLD else NOWHERE
            else:
                found = (found * scale).astype(np.float32)
                new = np.isnan(self._box[0])
                self._box = found if new else self._box + FOLLOW * (found - self._box)
                self._lost = 0
            made[i] = self._box
        return made

    def _views(self, block: Block):
        pictures = small(block)
        pictures = pictures[len(pictures) - len(block.frames) :]
        own, pair = self._own_motion(block), first_pair(block)
        for t, picture in enumerate(pictures, start=block.first):
            yield picture, own[t - pair] if t >= pair else None

    def _own_motion(self, block: Block) -> Float[np.ndarray, "p h w"]:
        """Speed beside the camera's, 1 where it stands out fully."""
        flow = self._flow(block)
        rest = (flow.field - camera_motion(self._flow, block)) * flow.textured[..., None]
        fully = MOTION * min(self._size) / 480
        return np.sqrt(np.einsum("phwc,phwc->phw", rest, rest)) / fully


def saliency_map(
    picture: UInt8[np.ndarray, "h w 3"], motion: Float[np.ndarray, "h w"] | None
) -> Float[np.ndarray, "h2 w2"]:
    """0..1: contrast of colour to the border (more in the middle of the frame), or own motion."""
    scale = min(1.0, SHORT / min(picture.shape[:2]))
    size = tuple(max(8, round(side * scale)) for side in picture.shape[1::-1])
    lab = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    lab = cv2.cvtColor(lab, cv2.COLOR_RGB2Lab)
    contrast = _contrast(lab)
    saliency = np.clip(contrast, 0.0, 1.0) * _middle(lab.shape[:2])
    if motion is not None:
        moving = np.minimum(cv2.resize(motion, size, interpolation=cv2.INTER_AREA), 1.0)
        saliency = 1 - (1 - saliency) * (1 - moving)
    return cv2.blur(saliency.astype(np.float32), (3, 3), borderType=cv2.BORDER_REPLICATE)


def find(
    saliency: Float[np.ndarray, "h w"], before: Float[np.ndarray, "4"]
) -> Float[np.ndarray, "4"] | None:
    """The box of the region that weighs most; one where the subject was weighs up to five times.

    None where every region is too small or too large to be a subject.
    """
    mask = (saliency > THRESHOLD).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    flat = labels.ravel()
    weight = np.bincount(flat, saliency.ravel(), count)
    if not np.isnan(before[0]):
        x0, y0, x1, y1 = before.round().astype(int)
        there = labels[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
        inside = np.bincount(there.ravel(), minlength=count)
        weight = weight * (1 + 4 * inside / np.maximum(np.bincount(flat, minlength=count), 1))
    area = stats[:, cv2.CC_STAT_AREA] / mask.size
    boxes = stats[:, :4].astype(np.float64)
    extent = boxes[:, 2] * boxes[:, 3] / mask.size
    weight[(area < SMALLEST) | (area > LARGEST) | (extent > 1.5 * LARGEST)] = 0
    weight[0] = 0  # what is not salient
    best = int(weight.argmax())
    if weight[best] == 0:
        return None
    left, top, width, height = boxes[best]
    return np.array([left, top, left + width, top + height])


def _contrast(lab: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """Distance to the nearest colour of the border beyond the border's own variety, in CONTRAST."""
    ring = np.concatenate([lab[:2].reshape(-1, 3), lab[-2:].reshape(-1, 3),
                           lab[:, :2].reshape(-1, 3), lab[:, -2:].reshape(-1, 3)])  # fmt: skip
    around = (
        lab[:2].mean(0),
        lab[:, -2:].mean(1),
        lab[-2:].mean(0)[::-1],
        lab[:, :2].mean(1)[::-1],
    )
    colours = np.stack([p.mean(0) for p in np.array_split(np.concatenate(around), COLOURS)])
    variety = np.sqrt(_nearest(ring, colours)).mean()
    distance = np.sqrt(_nearest(lab.reshape(-1, 3), colours)).reshape(lab.shape[:2])
    return (distance - 2 * variety) / CONTRAST


def _nearest(
    colours: Float[np.ndarray, "n 3"], others: Float[np.ndarray, "k 3"]
) -> Float[np.ndarray, "n"]:
    """Squared distance of each colour to the nearest of the others."""
    squares = (colours**2).sum(1)[:, None] + (others**2).sum(1) - 2 * colours @ others.T
    return np.maximum(squares.min(axis=1), 0.0)


def _middle(size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    y, x = (np.linspace(-1, 1, side) for side in size)
    return np.exp(-0.5 * ((y / 0.7) ** 2)[:, None] - 0.5 * (x / 0.7) ** 2)
