"""The cost of LV-Bench's suite `paper` on a minute of video, without weights:

python -m experiments.benchmarks.paper_suite
python -m experiments.benchmarks.paper_suite --seconds 10 --flow lk
python -m experiments.benchmarks.paper_suite --video FILE

Unless a file is given, it makes 60 s of 854 x 480 at 24 frames a second in H.264: a textured place
that a camera pans and zooms over, with a subject that walks about.  First as the evaluator runs
(frames are counted, then decoded while earlier ones are measured), then once more part by part,
where what several metrics share is told apart and nothing overlaps.
"""

from __future__ import annotations

import os
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from absl import app, flags
from jaxtyping import UInt8

from bvjax.lvbench import runner, suites
from bvjax.lvbench.metric import Metric, MetricContext, Options
from bvjax.lvbench.paper.camera import camera_motion
from bvjax.lvbench.paper.flow import flow_method
from bvjax.lvbench.paper.scene import scene_of
from bvjax.lvbench.paper.working import small, small_luma
from bvjax.lvbench.store import Store
from bvjax.lvbench.video import blocks, probe
from bvjax.media.video_frames import location, tag, yuv420
from bvjax.sharding import Layout
from experiments.benchmarks import metrics
from experiments.benchmarks.clock import Clock, peak_gigabytes

SECONDS = flags.DEFINE_integer("seconds", 60, "Length of the video that is made.")
HEIGHT = flags.DEFINE_integer("height", 480, "Its height; the width is 16 / 9 of it.")
FPS = flags.DEFINE_integer("fps", 24, "Its frames a second.")
VIDEO = flags.DEFINE_string("video", None, "A video to measure instead.")
FLOW = flags.DEFINE_string("flow", "dis", "Optical flow: dis or lk.")

TARGET_SECONDS = 60.0


class _Problems(runner.NullProgress):
    """Prints the problems of a run and ignores its progress."""

    def problem(self, sentence):
        print(sentence)


def main(argv):
    del argv
    context = MetricContext(Options(flow=FLOW.value), Layout(), load=lambda name: {})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(VIDEO.value or make_clip(Path(folder) / "walk.mp4"))
        video = probe(path, path)
        print(
            f"{video.frames} frames of {video.width}x{video.height}, H.264; counting and decoding are "
            f"included, making the video is not; {os.cpu_count()} cores\n"
        )
        wall, busy = as_evaluated(path, Path(folder), context)
        clock, frames = by_part(path, context)
    total = sum(clock.seconds.values())
    print("| part | seconds | ms a frame |\n|---|---:|---:|")
    for name, seconds in clock.seconds.items():
        print(f"| {name} | {seconds:.2f} | {1e3 * seconds / frames:.2f} |")
    print(f"| one after the other | {total:.1f} | {1e3 * total / frames:.2f} |")
    print(f"| **as the evaluator runs** | **{wall:.1f}** | {1e3 * wall / frames:.2f} |")
    print(f"\nOf all threads: {busy:.1f} s; peak memory {peak_gigabytes():.2f} GB.")
    metrics.note("paper suite, a minute at 480p", wall, "s", TARGET_SECONDS)


def as_evaluated(path: Path, folder: Path, context: MetricContext) -> tuple[float, float]:
    """Seconds on the clock and of all threads, from counting the frames to the scores."""
    start, busy = time.perf_counter(), _processor_seconds()
    metrics = _metrics(context)
    job = runner.MeasurementJob(
        path, Store(folder / "scores"), metrics, context.options.segments, {}
    )
    runner.measure(job, _Problems())
    wall, busy = time.perf_counter() - start, _processor_seconds() - busy
    measured, pending = runner.collect(job)
    assert len(measured[0].scores) == len(metrics) and not pending
    return wall, busy


def by_part(path: Path, context: MetricContext) -> tuple[Clock, int]:
    """The same, with a clock around each part."""
    clock = Clock()
    with clock.part("count frames"):
        video = probe(path, path)
    metrics, flow = _metrics(context), flow_method(context)
    measurements = [(m.name, m.begin(video, context.options.segments)) for m in metrics]
    scene = lambda block: scene_of(block, video)
    shared = {
        "smaller pictures": lambda block: (small(block), small_luma(block)),
        f"optical flow ({flow.name})": flow,
        "camera": lambda block: camera_motion(flow, block),
        "subject's boxes": lambda block: scene(block).boxes(block),
        "background's masks": lambda block: scene(block).background(block),
    }
    source = blocks(video)
    while True:
        with clock.part("decode to RGB"):
            block = next(source, None)
        if block is None:
            break
        for name, compute in shared.items():
            with clock.part(name):
                compute(block)
        for name, measurement in measurements:
            with clock.part(name):
                measurement.add(block)
    for name, measurement in measurements:
        with clock.part(name):
            measurement.scores()
    return clock, video.frames


def make_clip(path: Path) -> Path:
    """The video described above."""
    height, fps = HEIGHT.value, FPS.value
    width = round(height * 16 / 18) * 2
    place, subject = (
        _texture(0, 3 * height, 3 * width, 60),
        _texture(1, height // 3, width // 8, 90),
    )
    mask = np.zeros(subject.shape[:2], np.uint8)
    centre = (mask.shape[1] // 2, mask.shape[0] // 2)
    cv2.ellipse(mask, centre, (centre[0] - 2, centre[1] - 2), 0, 0, 360, 255, -1)
    subject = cv2.addWeighted(subject, 0.6, np.full_like(subject, (200, 30, 40)), 0.4, 0)
    with av.open(location(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        tag(stream)
        stream.options = {"preset": "veryfast", "crf": "20"}
        for i in range(SECONDS.value * fps):
            frame = _view(place, subject, mask, i / fps, height, width)
            container.mux(stream.encode(yuv420(frame)))
        container.mux(stream.encode())
    return path


def _view(place, subject, mask, seconds: float, height: int, width: int):
    zoom = 1 + 0.1 * np.sin(seconds / 5)
    left = width * (1 + 0.6 * np.sin(seconds / 9))
    top = height * (1 + 0.3 * np.sin(seconds / 6))
    warp = np.array([[zoom, 0, -zoom * left], [0, zoom, -zoom * top]])
    frame = cv2.warpAffine(place, warp, (width, height), flags=cv2.INTER_LINEAR)
    x = int(width * (0.45 + 0.25 * np.sin(seconds)))
    y = int(height * (0.4 + 0.03 * np.sin(8 * seconds)))
    window = frame[y : y + mask.shape[0], x : x + mask.shape[1]]
    window[mask > 0] = subject[mask > 0]
    return frame


def _texture(seed: int, height: int, width: int, contrast: float) -> UInt8[np.ndarray, "h w 3"]:
    """Noise of several sizes, as pictures of nature have it."""
    rng, total = np.random.default_rng(seed), np.zeros((height, width, 3), np.float32)
    for size in (2, 8, 32, 128):
        coarse = rng.normal(size=(-(-height // size) + 1, -(-width // size) + 1, 3))
        total += cv2.resize(coarse.astype(np.float32), (width, height)) * np.sqrt(size)
    return np.clip(127 + contrast * total / total.std(), 0, 255).astype(np.uint8)


def _metrics(context: MetricContext) -> list[Metric]:
    return [entry.make(context) for entry in suites.choose("paper")]


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system


if __name__ == "__main__":
    app.run(main)
