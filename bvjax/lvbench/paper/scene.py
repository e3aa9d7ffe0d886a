"""Subject boxes and background masks, from ground truth or from a detector."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
from jaxtyping import Bool, Float

from bvjax.lvbench.paper.salient import NOWHERE, Salient
from bvjax.lvbench.paper.working import first_pair, working_size
from bvjax.lvbench.video import Block, Video, load_truth

MARGIN = 0.1  # of a box's sides that are left out of the background around it
EDGE = 4  # working pixels left out around a given mask's subjects: flow spreads over their outline


class BoxSource(Protocol):
    """Follows one video's subject."""

    def boxes(self, block: Block) -> Float[np.ndarray, "f 4"]:
        """(x0, y0, x1, y1) of each frame, pixels of the video, NaN where there is no subject.

        Blocks come in order, each once.
        """


class Detector(Protocol):
    """Finds and follows the main subject of videos (detector and tracker in one)."""

    name: str

    def begin(self, video: Video) -> BoxSource:
        """Starts on a video."""


class Scene:
    """A video's boxes and masks, shared by the metrics that measure it; blocks come in order."""

    def __init__(self, video: Video, detector: Detector):
        """Raises `UserError` for ground truth that does not fit."""
        self._video, self._detector = video, detector
        self._truth_boxes = load_truth(video, ("boxes",)).get("boxes")
        self._source, self._last_box = detector.begin(video), NOWHERE

    def boxes(self, block: Block) -> Float[np.ndarray, "f 4"]:
        """Returns the subject's box in each frame: the ground truth's, else the detector's."""
        return self._boxes_with_previous(block)[1:]

    def background(self, block: Block) -> Bool[np.ndarray, "p h w"]:
        """Returns for each pair (t - 1, t) the working pixels that are background in both frames.

        The ground truth's mask, eroded; without one, all outside the subject's box, slightly enlarged.
        """
        return block.cached("paper/background", lambda: self._compute_background(block))

    def _boxes_with_previous(self, block: Block) -> Float[np.ndarray, "f+1 4"]:
        """Boxes of the frame before the block and of its frames."""
        return block.cached(
            f"paper/boxes/{self._detector.name}", lambda: self._compute_boxes(block)
        )

    def _compute_boxes(self, block: Block) -> Float[np.ndarray, "f+1 4"]:
        if self._truth_boxes is not None:
            boxes_of_block = self._truth_boxes[block.first : block.first + len(block.frames)]
        else:
            boxes_of_block = self._source.boxes(block)
        boxes_with_previous = np.concatenate([self._last_box[None], boxes_of_block]).astype(
            np.float32
        )
        self._last_box = boxes_with_previous[-1]
        return boxes_with_previous

    def _compute_background(self, block: Block) -> Bool[np.ndarray, "p h w"]:
        if block.first == 0:
            truth = load_truth(self._video, ("background",), packed=True)
            self._masks = truth.get("background")
        end = block.first + len(block.frames)
        if self._masks is not None:
            frame_masks = [self._truth_mask(t) for t in range(first_pair(block) - 1, end)]
        else:
            boxes = self._boxes_with_previous(block)[block.previous is None :]
            frame_masks = [self._outside_box(box) for box in boxes]
        pairs = zip(frame_masks[:-1], frame_masks[1:], strict=True)
        size = working_size(self._video.height, self._video.width)
        return np.array([before & after for before, after in pairs], bool).reshape(-1, *size)

    def _truth_mask(self, t: int) -> Bool[np.ndarray, "h w"]:
        """Working pixels with nothing but background around them."""
        mask = np.unpackbits(self._masks[t], axis=-1, count=self._video.width)
        height, width = working_size(*mask.shape)
        mask = cv2.resize(mask * 255, (width, height), interpolation=cv2.INTER_AREA)
        return cv2.erode(mask, np.ones((2 * EDGE + 1, 2 * EDGE + 1), np.uint8)) == 255

    def _outside_box(self, box: Float[np.ndarray, "4"]) -> Bool[np.ndarray, "h w"]:
        height, width = working_size(self._video.height, self._video.width)
        mask = np.ones((height, width), bool)
        if not np.isnan(box).any():
            scale = np.array([width / self._video.width, height / self._video.height])
            low, high = box[:2] * scale, box[2:] * scale
            edge = MARGIN * (high - low)
            left, top = np.maximum(np.floor(low - edge), 0).astype(int)
            right, bottom = np.maximum(np.ceil(high + edge), 0).astype(int)
            mask[top:bottom, left:right] = False
        return mask


def scene_of(block: Block, video: Video, detector: Detector | None = None) -> Scene:
    """The scene of a video, one for all who measure it: boxes are followed once per frame."""
    detector = detector or Salient()
    return block.cached_for_video(f"paper/scene/{detector.name}", lambda: Scene(video, detector))
