"""Small clips with a textured place, a subject that walks, and a defect from some segment on."""

from __future__ import annotations

import functools
import pathlib

import cv2
import numpy as np

from bvjax.lvbench.metric import MetricContext, Options
from bvjax.lvbench.video import Block, Video
from bvjax.sharding import Layout

HEIGHT, WIDTH = 96, 136
SEGMENTS, LENGTH = 6, 8
FRAMES = SEGMENTS * LENGTH
AT = 4  # the segment, counted from 1, that a defect begins with
SUBJECT = (40, 28)  # height, width
ORANGE, BLUE = (230, 120, 30), (40, 60, 220)


def context(**options) -> MetricContext:
    return MetricContext(Options(segments=SEGMENTS, **options), Layout(), load=lambda name: {})


def video_of(frames, truth=None) -> Video:
    """What is known of a video that exists as an array alone."""
    count, height, width = frames.shape[:3]
    return Video(pathlib.Path("clip.mp4"), "clip.mp4", "", count, 24.0, height, width, truth)


def blocks_of(frames, size=16):
    video_cache = {}
    for first in range(0, len(frames), size):
        previous = frames[first - 1] if first else None
        yield Block(first, frames[first : first + size], previous, _video_cache=video_cache)


def measure(metrics, frames, truth=None, size=16, segments=SEGMENTS):
    """{name: scores} of metrics that see a video's blocks together, as the runner hands them."""
    video = video_of(frames, truth)
    begun = [(metric.name, metric.begin(video, segments)) for metric in metrics]
    for block in blocks_of(frames, size):
        for _, measurement in begun:
            measurement.add(block)
    return {name: measurement.scores() for name, measurement in begun}


def drifts(chunks):
    """|m_i - m_1| / m_1 of the segments before the defect begins, and from there on."""
    relative = np.abs(np.array(chunks) / chunks[0] - 1)
    return relative[1 : AT - 1], relative[AT - 1 :]


@functools.cache
def texture(seed, height, width, smooth=1.5):
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    return (x := cv2.GaussianBlur(noise, (0, 0), smooth)) / x.std()


@functools.cache
def clip(defect: str = "", camera: tuple[float, float] = (0.0, 0.0), frames: int = FRAMES):
    """[t, h, w, 3] uint8; camera: (right, down) pixels a frame."""
    output = np.empty((frames, HEIGHT, WIDTH, 3), np.uint8)
    for t in range(frames):
        bad = defect if t >= (AT - 1) * LENGTH else ""
        output[t] = output[t - 1] if bad == "freeze" else _frame(t, bad, camera)
    return output


def box_of(t):
    """(x0, y0, x1, y1) of the subject."""
    left = WIDTH / 2 - SUBJECT[1] / 2 + 20 * np.sin(0.05 * t)
    top = HEIGHT / 2 - SUBJECT[0] / 2 + 5 * np.cos(0.05 * t)
    left, top = round(left), round(top)
    return left, top, left + SUBJECT[1], top + SUBJECT[0]


def _frame(t, defect, camera):
    rng = np.random.default_rng(t)
    wide = texture(0, 3 * HEIGHT, 3 * WIDTH)
    x, y = WIDTH + camera[0] * t, HEIGHT + camera[1] * t
    if defect == "jitter":
        x, y = x + rng.choice([-2, 2]), y + rng.choice([-2, 2])
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    if defect == "melt":
        columns += 4 * cv2.GaussianBlur(rng.normal(size=rows.shape), (0, 0), 6) / 0.047
        rows += 4 * cv2.GaussianBlur(rng.normal(size=rows.shape), (0, 0), 6) / 0.047
    place = cv2.remap(wide, np.float32(columns + x), np.float32(rows + y), cv2.INTER_CUBIC)
    picture = np.array([120, 130, 110]) + 30 * place[..., None]
    picture = np.clip(picture, 0, 255)
    _draw(picture, box_of(t), BLUE if defect == "swap" else ORANGE)
    if defect == "blur":
        picture = cv2.GaussianBlur(picture, (0, 0), 1.5)
    if defect == "fade":
        picture = 0.3 * picture + 0.7 * picture.mean(-1, keepdims=True)
    return picture.round().astype(np.uint8)


def _draw(picture, box, colour):
    x0, y0, x1, y1 = box
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    centre = (mask.shape[1] // 2, mask.shape[0] // 2)
    cv2.ellipse(mask, centre, (centre[0] - 1, centre[1] - 1), 0, 0, 360, 1, -1)
    cloth = np.array(colour) + 20 * texture(1, *mask.shape)[..., None]
    picture[y0:y1, x0:x1][mask > 0] = np.clip(cloth, 0, 255)[mask > 0]
