"""A salient subject: the region that differs from the frame's border or moves by itself, tracked.

Limits.  There is no knowledge of things: one region is followed, the most conspicuous one near the
middle when it first shows; a subject of the background's colours that stands still is missed; of
several the tracker may change from one to another; a striking still object is taken for a subject.
An animal in a meadow is followed well; a head that talks in a driving car is left for the window,
the landscape moving in it.  Give boxes (NAME.truth.npz) or another `Detector` where that matters.
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
MIN_AREA, MAX_AREA = 0.004, 0.4  # share of the frame that a subject's pixels can be
FRAME_WEIGHT = 0.5  # share of a frame's own map in the running mean that is looked at
FOLLOW, RESIZE = 0.6, 0.1  # of the way to the newly found centre and sides, in a frame; sides at
# least 1 / (frames since the subject was found), so that a first, rough box does not linger
SEARCH_MARGIN = (
    0.25  # of its sides, around the box: where the subject is looked for in the next frame
)
MIN_REGION_WEIGHT = (
    0.25  # of the weight of the heaviest region there: what other regions of a subject have
)
TAIL = 0.02  # of the saliency there that may lie outside the box, at each side
MAX_FRAMES_LOST = 12  # frames that a lost subject is thought to stay where it was

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
        self._box, self._frames_lost, self._frames_tracked = NOWHERE.astype(np.float64), 0, 0
        self._mean_saliency: Float[np.ndarray, "h w"] | None = None

    def boxes(self, block: Block) -> Float[np.ndarray, "f 4"]:
        """(x0, y0, x1, y1) in pixels of the video; NaN where nothing stands out."""
        boxes = np.empty((len(block.frames), 4), np.float32)
        for i, (picture, motion) in enumerate(self._frames_with_motion(block)):
            saliency = self._update_saliency(picture, motion)
            self._update_box(saliency)
            height, width = saliency.shape
            boxes[i] = self._box * np.array([self._size[1] / width, self._size[0] / height] * 2)
        return boxes

    def _update_saliency(self, picture, motion) -> Float[np.ndarray, "h w"]:
        saliency = saliency_map(picture, motion)
        if (saliency > THRESHOLD).mean() > MAX_AREA:  # everything moves by itself: colour is left
            saliency = saliency_map(picture, None)
        self._mean_saliency = (
            saliency
            if self._mean_saliency is None
            else self._mean_saliency + FRAME_WEIGHT * (saliency - self._mean_saliency)
        )
        return self._mean_saliency

    def _update_box(self, saliency: Float[np.ndarray, "h w"]) -> None:
        new_box = box_near(saliency, self._box)
        if new_box is not None:
            box_change = new_box - self._box
            centre_shift, side_change = (
                (box_change[:2] + box_change[2:]) / 2,
                (box_change[2:] - box_change[:2]) / 2,
            )
            self._frames_tracked += 1
            shift, growth = (
                FOLLOW * centre_shift,
                max(RESIZE, 1 / (self._frames_tracked + 1)) * side_change,
            )
            self._box = self._box + np.concatenate([shift - growth, shift + growth])
            self._frames_lost = 0
            return
        self._frames_lost += 1
        if self._frames_lost > MAX_FRAMES_LOST or np.isnan(self._box[0]):
            new_box, self._frames_tracked = find_region(saliency), 0
            self._box = NOWHERE.astype(np.float64) if new_box is None else new_box

    def _frames_with_motion(self, block: Block):
        pictures = small(block)
        pictures = pictures[len(pictures) - len(block.frames) :]
        subject_motion, pair = self._subject_motion(block), first_pair(block)
        for t, picture in enumerate(pictures, start=block.first):
            yield picture, subject_motion[t - pair] if t >= pair else None

    def _subject_motion(self, block: Block) -> Float[np.ndarray, "p h w"]:
        """Speed beside the camera's, 1 where it stands out fully."""
        flow = self._flow(block)
        residual_flow = (flow.field - camera_motion(self._flow, block)) * flow.textured[..., None]
        full_speed = MOTION * min(self._size) / 480
        return np.sqrt(np.einsum("phwc,phwc->phw", residual_flow, residual_flow)) / full_speed


def saliency_map(
    picture: UInt8[np.ndarray, "h w 3"], motion: Float[np.ndarray, "h w"] | None
) -> Float[np.ndarray, "h2 w2"]:
    """0..1: contrast of colour to the border (more in the middle of the frame), or own motion."""
    scale = min(1.0, SHORT / min(picture.shape[:2]))
    size = tuple(max(8, round(side * scale)) for side in picture.shape[1::-1])
    lab = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    lab = cv2.cvtColor(lab, cv2.COLOR_RGB2Lab)
    contrast = _contrast(lab)
    saliency = np.clip(contrast, 0.0, 1.0) * _centre_weight(lab.shape[:2])
    if motion is not None:
        moving = np.minimum(cv2.resize(motion, size, interpolation=cv2.INTER_AREA), 1.0)
        saliency = 1 - (1 - saliency) * (1 - moving)
    return cv2.blur(saliency.astype(np.float32), (3, 3), borderType=cv2.BORDER_REPLICATE)


def find_region(saliency: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "4"] | None:
    """The box of the region that weighs most; None where all are too small or large."""
    mask = (saliency > THRESHOLD).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    weight = np.bincount(labels.ravel(), saliency.ravel(), count)
    area = stats[:, cv2.CC_STAT_AREA] / mask.size
    weight[(area < MIN_AREA) | (area > MAX_AREA)] = 0
    weight[0] = 0  # what is not salient
    best = int(weight.argmax())
    if weight[best] == 0:
        return None
    left, top, width, height = stats[best, :4].astype(np.float64)
    return np.array([left, top, left + width, top + height])


def box_near(
    saliency: Float[np.ndarray, "h w"], box: Float[np.ndarray, "4"]
) -> Float[np.ndarray, "4"] | None:
    """The box of what is salient near where the subject was; None where there is too little."""
    if np.isnan(box[0]):
        return None
    edge = np.maximum(SEARCH_MARGIN * (box[2:] - box[:2]), 1.0)
    x0, y0 = np.maximum(np.floor(box[:2] - edge), 0).astype(int)
    x1, y1 = np.maximum(np.ceil(box[2:] + edge), 0).astype(int)
    saliency_near = saliency[y0:y1, x0:x1]
    count, labels = cv2.connectedComponents((saliency_near > THRESHOLD).astype(np.uint8))
    weight = np.bincount(labels.ravel(), saliency_near.ravel(), count)
    weight[0] = 0  # what is not salient
    saliency_near = np.where(
        (weight >= MIN_REGION_WEIGHT * weight.max())[labels] & (labels > 0), saliency_near, 0.0
    )
    if np.count_nonzero(saliency_near) < 0.5 * MIN_AREA * saliency.size:
        return None
    left, right = _extent(saliency_near.sum(axis=0))
    top, bottom = _extent(saliency_near.sum(axis=1))
    return np.array([x0 + left, y0 + top, x0 + right, y0 + bottom])


def _extent(weight: Float[np.ndarray, "n"]) -> tuple[float, float]:
    """Returns the interval that holds a profile of weights except for `TAIL` at each end."""
    share = np.concatenate([[0.0], np.cumsum(weight)]) / weight.sum()
    low, high = np.interp([TAIL, 1 - TAIL], share, np.arange(len(share)))
    return float(low), float(high)


def _contrast(lab: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """Distance to the nearest colour of the border beyond the border's own variety, in CONTRAST."""
    ring = np.concatenate(
        [
            lab[:2].reshape(-1, 3),
            lab[-2:].reshape(-1, 3),
            lab[:, :2].reshape(-1, 3),
            lab[:, -2:].reshape(-1, 3),
        ]
    )
    border_means = (
        lab[:2].mean(0),
        lab[:, -2:].mean(1),
        lab[-2:].mean(0)[::-1],
        lab[:, :2].mean(1)[::-1],
    )
    colours = np.stack([p.mean(0) for p in np.array_split(np.concatenate(border_means), COLOURS)])
    variety = np.sqrt(_nearest(ring, colours)).mean()
    distance = np.sqrt(_nearest(lab.reshape(-1, 3), colours)).reshape(lab.shape[:2])
    return (distance - 2 * variety) / CONTRAST


def _nearest(
    colours: Float[np.ndarray, "n 3"], others: Float[np.ndarray, "k 3"]
) -> Float[np.ndarray, "n"]:
    """Squared distance of each colour to the nearest of the others."""
    squares = (colours**2).sum(1)[:, None] + (others**2).sum(1) - 2 * colours @ others.T
    return np.maximum(squares.min(axis=1), 0.0)


def _centre_weight(size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    y, x = (np.linspace(-1, 1, side) for side in size)
    return np.exp(-0.5 * ((y / 0.7) ** 2)[:, None] - 0.5 * (x / 0.7) ** 2)
