"""Aesthetic: how pleasing the frames are to a predictor that can be chosen (Eq. 23).

handmade         `handmade` below: published statistics, no weights
laion            the complementary metric's predictor, CLIP ViT-L/14 and the LAION head: about 0..10
MODULE:FUNCTION  a function of your own, frames [f, h, w, 3] uint8 to scores [f]
"""

from __future__ import annotations

import importlib
import inspect
import pathlib
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import UInt8

from bvjax.errors import UserError
from bvjax.files import sha256_of
from bvjax.lvbench.metric import MetricContext
from bvjax.lvbench.paper.measuring import Numbers, PaperMetric, Series
from bvjax.lvbench.paper.working import SHORT, small, small_luma
from bvjax.lvbench.video import Block, Video

NAME = "paper/aesthetic"
VIVID_COLOURFULNESS = 109.0  # Hasler & Suesstrunk's "extremely colourful"
SHARP_VARIANCE = (
    500.0  # squared grey levels: variance of the Laplacian that is half as good as it gets
)
_EXPOSURE = np.exp(-0.5 * ((np.arange(256) / 255 - 0.5) / 0.2) ** 2)


def make(context: MetricContext) -> PaperMetric:
    """Raises `UserError` for a predictor that cannot be found."""
    choice = context.options.aesthetic
    settings = {"predictor": choice}
    if choice == "handmade":
        numbers, settings["short_side"] = _handmade, SHORT
    elif choice == "laion":
        from bvjax.lvbench.official.aesthetic import laion_scores

        batcher = laion_scores(context)
        numbers = lambda block: (
            (t, batcher.submit(frame)) for t, frame in enumerate(block.frames, start=block.first)
        )
    else:
        function = named_function(choice)
        numbers, settings["source"] = _per_frame_scores(choice, function), _source(function)

    def start(video: Video, segments: int) -> Series:
        return Series(video, segments, numbers, missing="aesthetic score")

    return PaperMetric(NAME, settings, 1, start)


def _handmade(block: Block) -> Numbers:
    count = len(block.frames)
    pictures, lumas = small(block)[-count:], small_luma(block)[-count:]
    for t, (picture, luma) in enumerate(zip(pictures, lumas, strict=True), start=block.first):
        yield t, handmade(picture, luma)


def handmade(picture: UInt8[np.ndarray, "h w 3"], luma: UInt8[np.ndarray, "h w"]) -> float:
    """0..1: the mean of four statistics of a working picture.

    Colourfulness (Hasler & Suesstrunk 2003): sigma + 0.3 mu of the opponent colours R - G and
    (R + G) / 2 - B, over 109, at most 1.  Contrast: the standard deviation of luminance over the
    largest there is.  Exposure (Mertens et al. 2007): mean of exp(-(Y - 1/2)^2 / (2 * 0.2^2)).
    Sharpness: v / (v + 500), v the variance of luminance's Laplacian.

    It has learned nothing: it knows neither composition nor content, vivid noise pleases it, and
    its value compares with no learned predictor's.  Along one video it shows fading or growing
    colours, loss of contrast, darkening, and blur.
    """
    colour = cv2.transform(picture.astype(np.float32), _OPPONENT)
    mean, std = cv2.meanStdDev(colour)
    colourfulness = np.hypot(*std.ravel()) + 0.3 * np.hypot(*mean.ravel())
    contrast = cv2.meanStdDev(luma)[1].item() / 127.5
    exposure = np.bincount(luma.ravel(), minlength=256) @ _EXPOSURE / luma.size
    detail = cv2.meanStdDev(cv2.Laplacian(luma, cv2.CV_16S))[1].item() ** 2
    terms = (
        min(colourfulness / VIVID_COLOURFULNESS, 1.0),
        contrast,
        exposure,
        detail / (detail + SHARP_VARIANCE),
    )
    return float(np.mean(terms))


_OPPONENT = np.array([[1.0, -1.0, 0.0], [0.5, 0.5, -1.0]], np.float32)


def named_function(choice: str) -> Callable[[np.ndarray], np.ndarray]:
    """The function MODULE:FUNCTION; raises `UserError` where there is none."""
    module, colon, name = choice.partition(":")
    legal = "handmade, laion or MODULE:FUNCTION"
    if not (module and colon and name):
        raise UserError(f"the option aesthetic is {choice!r}; it can be {legal}")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"the option aesthetic is {choice!r}, which fails: {error}") from None
    if not callable(function):
        raise UserError(f"the option aesthetic is {choice!r}, which is no function")
    return function


def _source(function: Callable) -> str:
    """A hash of the file that defines the predictor: an edited one makes new scores."""
    try:
        return sha256_of(pathlib.Path(inspect.getsourcefile(function)))
    except TypeError:  # no Python function; its name has to do
        return ""


def _per_frame_scores(
    choice: str, function: Callable[[np.ndarray], np.ndarray]
) -> Callable[[Block], Numbers]:
    def numbers(block: Block) -> Numbers:
        scores = np.asarray(function(block.frames), np.float64)
        if scores.shape != (len(block.frames),):
            raise UserError(
                f"the aesthetic predictor {choice} gave {list(scores.shape)} scores for "
                f"{len(block.frames)} frames"
            )
        return enumerate(scores.tolist(), start=block.first)

    return numbers
