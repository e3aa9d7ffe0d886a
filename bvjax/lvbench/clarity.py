"""VDE Clarity's score: how sharp a frame is (Eq. 20)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8


def clarity(frames: UInt8[np.ndarray, "f h w 3"]) -> Float[np.ndarray, "f"]:
    """Var(Laplacian(Y)) of each frame, in squared grey levels (Eq. 20).

    Blur lowers it, noise raises it.  It depends on the content and the resolution, so only ratios
    along one video mean something.
    """
    return np.array([laplacian(luminance(frame)).var(dtype=np.float64) for frame in frames])


def luminance(rgb: UInt8[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n"]:
    """Y of ITU-R BT.601, 0..255."""
    return rgb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def laplacian(y: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h-2 w-2"]:
    """The 3x3 five-point Laplacian, inside the border: no pixel outside the frame is made up."""
    centre = y[1:-1, 1:-1]
    return y[:-2, 1:-1] + y[2:, 1:-1] + y[1:-1, :-2] + y[1:-1, 2:] - 4.0 * centre
