"""Camera motion between two frames: one similarity transform fitted to the optical flow."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float

from bvjax.lvbench.paper.flow import Flow, FlowMethod
from bvjax.lvbench.video import Block

GRID_STEP = 8  # pixels of a working picture between the points that are fitted; at least 8 a side
RANSAC_ERROR = 1.0  # pixels at a shorter side of 480: what counts as agreement
MIN_POINTS = 12  # points


def camera_motion(flow: FlowMethod, block: Block) -> Float[np.ndarray, "p h w 2"]:
    """The part of the block's flow that is the camera's, in pixels of the video; made once."""
    return block.cached(f"paper/camera/{flow.name}", lambda: _fields(flow(block), block))


def _fields(flow: Flow, block: Block) -> Float[np.ndarray, "p h w 2"]:
    height, width = block.frames.shape[1:3]
    positions = pixel_positions(flow.field.shape[1:3], (height, width))
    error = RANSAC_ERROR * min(height, width) / 480
    camera_fields = np.empty_like(flow.field)
    for i, (field, textured) in enumerate(zip(flow.field, flow.textured, strict=True)):
        matrix = fit(positions, field, textured, error) - np.eye(2, 3)
        x, y = positions[:1, :, :1], positions[:, :1, 1:]
        camera_fields[i] = x * matrix[:, 0] + (y * matrix[:, 1] + matrix[:, 2])
    return camera_fields


def fit(
    positions: Float[np.ndarray, "h w 2"],
    field: Float[np.ndarray, "h w 2"],
    textured: Bool[np.ndarray, "h w"],
    error: float,
) -> Float[np.ndarray, "2 3"]:
    """The similarity x -> M [x, 1] (shift, zoom, roll) that most of the flow agrees with.

    RANSAC over a grid of points, so that what moves by itself does not count while it is the
    lesser part.  A similarity knows no parallax: near things seem to move when the camera travels.
    Returns the identity where there is too little texture.
    """
    step = max(1, min(GRID_STEP, min(textured.shape) // 8))
    grid = np.s_[step // 2 :: step, step // 2 :: step]
    is_textured = textured[grid]
    points = positions[grid][is_textured]
    moved_points = points + field[grid][is_textured]
    if len(points) < MIN_POINTS:
        return np.eye(2, 3)
    matrix, _ = cv2.estimateAffinePartial2D(
        points, moved_points, method=cv2.RANSAC, ransacReprojThreshold=error, maxIters=500
    )
    return np.eye(2, 3) if matrix is None else matrix


def pixel_positions(size: tuple[int, int], full: tuple[int, int]) -> Float[np.ndarray, "h w 2"]:
    """(x, y) in the video of each pixel of a working picture; (0, 0) is a corner pixel's centre."""
    (height, width), (full_height, full_width) = size, full
    x = (np.arange(width) + 0.5) * full_width / width - 0.5
    y = (np.arange(height) + 0.5) * full_height / height - 0.5
    return np.stack(np.meshgrid(x, y), axis=-1).astype(np.float32)
