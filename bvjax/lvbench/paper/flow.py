"""The optical flow that metrics of a block share (u_t of Eq. 21 and 24).

All methods work on pictures with a shorter side of at most 240 pixels; lengths are in pixels of
the video.  Half the resolution costs a quarter of the time and, on known shifts, an error
of a twentieth of a pixel at 480p.

dis   OpenCV's Dense Inverse Search (Kroeger et al. 2016), preset "ultrafast", but down to the finest scale
lk    Lucas-Kanade of `bvjax.lvbench.motion`
raft  RAFT (Teed & Deng 2020) with the published weights
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from bvjax.errors import UserError
from bvjax.lvbench.batching import Batcher
from bvjax.lvbench.metric import MetricContext
from bvjax.lvbench.motion import optical_flow
from bvjax.lvbench.paper.working import SHORT, first_pair, small, small_luma
from bvjax.lvbench.video import Block

METHODS = ("dis", "lk", "raft")
TEXTURE = 4.0  # squared grey levels: mean squared gradient below which nothing is seen to move
PAIRS = (
    16  # in a block of the runner: metrics need a block's flow at once, so batches are no larger
)
WINDOW = 9  # pixels of a working picture that the mean is over


@dataclasses.dataclass(frozen=True)
class Flow:
    """The flow of a block's pairs (t - 1, t).

    first: t of the first pair. field: (right, down) displacement of what frame t - 1 shows at each
    pixel of its working picture, in pixels of the video. textured: where there is something to
    follow; elsewhere the field is noise (on flat areas with camera noise of 2 grey levels, DIS
    finds motion of several pixels), and metrics leave it out.
    """

    first: int
    field: Float[np.ndarray, "p h w 2"]
    textured: Bool[np.ndarray, "p h w"]

    def __len__(self) -> int:
        return len(self.field)


class FlowMethod(Protocol):
    """A method that computes the flow of a block."""

    name: str

    def __call__(self, block: Block) -> Flow:
        """Returns the flow of the block's pairs, computed once per block."""


def flow_method(context: MetricContext) -> FlowMethod:
    """Returns the flow of `context.options.flow`, shared by all metrics; raises `UserError` for others."""
    name = context.options.flow
    if name not in METHODS:
        raise UserError(f"the option flow is {name!r}; it can be {', '.join(METHODS)}")
    return context.cached(f"paper/flow/{name}", lambda: _method(context))


def _method(context: MetricContext) -> FlowMethod:
    name = context.options.flow
    if name == "dis":
        return Dis()
    size = min(context.options.batch, PAIRS)
    if name == "lk":
        swap = lambda _, first, second: optical_flow(first, second)[..., ::-1]
        return Batched("lk", Batcher(swap, {}, size, context.layout), colour=False)
    from bvjax.lvbench.nets import raft

    params = raft.prepare(context.load("raft_things"))
    batcher = Batcher(raft.flow, params, size, context.layout)
    return Batched("raft", batcher, colour=True, multiple=8)


def flow_settings(name: str) -> dict[str, object]:
    """The settings of the flow that change scores."""
    return {"flow": name, "short_side": SHORT, "texture": TEXTURE}


class Dis:
    """OpenCV's DIS."""

    name = "dis"

    def __call__(self, block: Block) -> Flow:
        return block.cached("paper/flow/dis", lambda: self._compute(block))

    def _compute(self, block: Block) -> Flow:
        pictures = small_luma(block)
        search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        search.setFinestScale(0)
        padding = max(0, 16 - min(pictures[0].shape))  # it refuses pictures of fewer pixels
        padded = [_pad(picture, padding) for picture in pictures]
        height, width = pictures[0].shape
        field = np.empty((len(padded) - 1, height, width, 2), np.float32)
        for i in range(len(field)):
            field[i] = search.calc(padded[i], padded[i + 1], None)[:height, :width]
        return _flow(block, field)


class Batched:
    """A flow that is computed on the device."""

    def __init__(self, name: str, batcher: Batcher, colour: bool, multiple: int = 1):
        self.name, self._batcher = name, batcher
        self._colour, self._multiple = colour, multiple

    def __call__(self, block: Block) -> Flow:
        return block.cached(f"paper/flow/{self.name}", lambda: self._compute(block))

    def _compute(self, block: Block) -> Flow:
        pictures = small(block) if self._colour else small_luma(block)
        height, width = pictures[0].shape[:2]
        pads = [(0, -side % self._multiple) for side in (height, width)]
        pads += [(0, 0)] * (pictures[0].ndim - 2)
        padded = [np.pad(p, pads, mode="edge").astype(np.float32) for p in pictures]
        pairs = zip(padded[:-1], padded[1:], strict=True)
        pending = [self._batcher.submit(first, second) for first, second in pairs]
        field = np.zeros((len(pending), height, width, 2), np.float32)
        for i, result in enumerate(pending):
            field[i] = result.value()[:height, :width]
        return _flow(block, field)


def _flow(block: Block, field: Float[np.ndarray, "p h w 2"]) -> Flow:
    height, width = field.shape[1:3]
    full_height, full_width = block.frames.shape[1:3]
    field *= np.array([full_width / width, full_height / height], np.float32)
    lumas = small_luma(block)[:-1]
    textured = np.empty(field.shape[:3], bool)
    for i, luma in enumerate(lumas):
        textured[i] = texture(luma) >= TEXTURE
    return Flow(first_pair(block), field, textured)


def texture(luma: UInt8[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Mean over a window of the squared gradient (central differences), squared grey levels."""
    gradients = (
        cv2.Sobel(luma, cv2.CV_32F, dx, 1 - dx, ksize=1, scale=0.5, borderType=cv2.BORDER_REPLICATE)
        for dx in (1, 0)
    )
    squares = sum(cv2.multiply(g, g) for g in gradients)
    return cv2.blur(squares, (WINDOW, WINDOW), borderType=cv2.BORDER_REPLICATE)


def _pad(picture: UInt8[np.ndarray, "h w"], edge: int) -> UInt8[np.ndarray, "h2 w2"]:
    if not edge:
        return picture
    return cv2.copyMakeBorder(picture, 0, edge, 0, edge, cv2.BORDER_REPLICATE)
