"""Small films whose cuts, movement, bars and marks are known."""

from __future__ import annotations

import cv2
import numpy as np

from tests.bvjax.lvbench.clips import write_clip

SIZE = (96, 128)
FPS = 16


def texture(seed: int, size=(96, 900)) -> np.ndarray:
    """Soft blobs of colour, sharp enough to be followed."""
    rng = np.random.default_rng(seed)
    picture = cv2.GaussianBlur(rng.uniform(0, 255, size=(*size, 3)).astype(np.float32), (0, 0), 2.5)
    low, high = np.percentile(picture, (1, 99))
    return np.clip((picture - low) / (high - low) * 220 + 20, 0, 255).astype(np.uint8)


def pan(seed: int, frames: int, speed: float = 1.0) -> list[np.ndarray]:
    """The camera travels over a texture, `speed` pixels a frame."""
    wide = texture(seed)
    return [wide[:, round(t * speed) : round(t * speed) + SIZE[1]] for t in range(frames)]


def still(seed: int, frames: int) -> list[np.ndarray]:
    return pan(seed, frames, 0.0)


def walker(seed: int, frames: int) -> list[np.ndarray]:
    """A square crosses a still picture, a pixel a frame."""
    pictures = [picture.copy() for picture in still(seed, frames)]
    square = texture(seed + 100)[:40, :40]
    for t, picture in enumerate(pictures):
        left = min(t, SIZE[1] - 40)
        picture[30:70, left : left + 40] = square
    return pictures


def barred(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """A sixth of the height black above and below."""
    cut = [picture.copy() for picture in pictures]
    for picture in cut:
        picture[:16] = picture[-16:] = 0
    return cut


def marked(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """A logo in the corner on a plain plate."""
    cut = [picture.copy() for picture in pictures]
    for picture in cut:
        picture[4:24, 92:124] = 30
        cv2.putText(picture, "TV1", (93, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (255, 255, 255), 2)
    return cut


def film(path, *shots):
    """The shots one after the other."""
    return write_clip(path, [picture for shot in shots for picture in shot], SIZE, fps=FPS)
