"""Scenes: a film decoded once from end to end; its cuts, its length, and samples of its frames measured."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np

from bvjax.errors import UserError
from bvjax.media.video_frames import TimedFrame, timed_frames
from data_pipelines.curation.measure import NAMES, Measurer
from data_pipelines.curation.rows import Row
from data_pipelines.curation.settings import Scenes

WIDTH = 256  # pixels of the pictures in which cuts are looked for, as PySceneDetect does by itself
_VARIABLE = 0.2  # of a frame's mean time by which the times of frames may differ at a constant rate


def scenes(row: Row, settings: Scenes) -> list[Row]:
    """Adds `frames`, `seconds`, `fps`, `variable_rate`, `cuts` (seconds) and `tracks` (by name, a value a sample).

    Raises `UserError` for a film that cannot be decoded to its end, or a detector without its file.
    """
    measurer, detector = Measurer(settings), make_detector(settings, row["stated_fps"])
    starts: list[Fraction] = []
    numbers: list[int] = []  # of the frames that begin a scene
    samples: list[dict[str, Any]] = []
    step, end = 1 / Fraction(settings.samples).limit_denominator(1000), Fraction(0)
    for index, shown in enumerate(timed_frames(row["path"], name=row["film"])):
        starts.append(shown.start)
        end = max(end, shown.end)
        numbers += detector.add(index, _small(shown))
        if shown.start >= len(samples) * step:
            samples.append({"t": round(float(shown.start), 4)} | measurer(shown.picture()))
    if not starts:
        raise UserError("the film has no frames")
    numbers += detector.finish()
    cuts = sorted({round(float(starts[n]), 4) for n in numbers if 0 < n < len(starts)})
    tracks = {name: [sample[name] for sample in samples] for name in ("t", *NAMES)}
    return [{**row, **_times(starts, end), "cuts": cuts, "tracks": tracks}]


def _times(starts: list[Fraction], end: Fraction) -> dict[str, Any]:
    gaps = np.diff(np.array(starts, np.float64))
    mean = float(gaps.mean()) if len(gaps) else float(end)
    variable = bool(len(gaps) and (np.abs(gaps - mean) > _VARIABLE * mean).mean() > 0.02)
    return {
        "frames": len(starts),
        "seconds": round(float(end), 4),
        "fps": round(1 / mean, 4) if mean else 0.0,
        "variable_rate": variable,
    }


def _small(shown: TimedFrame) -> np.ndarray:
    """BGR for the detectors, whatever the rotation."""
    frame = shown.frame
    width = min(WIDTH, frame.width)
    height = max(2, round(frame.height * width / frame.width))
    return frame.reformat(width=width, height=height, format="bgr24").to_ndarray()


@dataclasses.dataclass
class Detector:
    """PySceneDetect's detector, fed with frames that were decoded here."""

    detector: Any
    fps: float

    def add(self, index: int, picture: np.ndarray) -> list[int]:
        """Numbers of frames with which scenes begin, as they become known."""
        from scenedetect import FrameTimecode

        self._last = FrameTimecode(index, fps=self.fps)
        return [cut.frame_num for cut in self.detector.process_frame(self._last, picture)]

    def finish(self) -> list[int]:
        """Those that become known at the end."""
        return [cut.frame_num for cut in self.detector.post_process(self._last)]


def make_detector(settings: Scenes, fps: float) -> Detector:
    """The detector of the settings; raises `UserError` where its file or its package is missing."""
    fps = fps if 1 <= fps <= 1000 else 25.0  # only frames are counted
    if not settings.transnet:
        from scenedetect.detectors import AdaptiveDetector

        return Detector(
            AdaptiveDetector(
                adaptive_threshold=settings.threshold,
                min_scene_len=settings.least_frames,
                min_content_val=settings.least_content,
            ),
            fps,
        )
    try:
        from scenedetect.detectors import TransnetV2Detector

        detector = TransnetV2Detector(settings.transnet, min_scene_len=settings.least_frames)
    except ImportError as error:
        raise UserError(f"scenes.transnet needs onnxruntime: {error}") from None
    except Exception as error:  # onnxruntime has kinds of its own for files that are no networks
        raise UserError(f"scenes.transnet cannot be used: {error}") from None
    return Detector(detector, fps)
