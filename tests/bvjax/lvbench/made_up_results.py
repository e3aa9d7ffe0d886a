"""Results of evaluations that never happened, for looking at reports of any size."""

import io
import pathlib

import numpy as np
import PIL.Image

from bvjax.lvbench import results
from bvjax.lvbench.metric import Scores
from bvjax.lvbench.prompts import Prompts
from bvjax.lvbench.runner import MeasuredVideo
from bvjax.lvbench.suites import METRIC_ENTRIES
from bvjax.lvbench.video import Video

KEYS = ("subject", "background", "motion", "aesthetic", "clarity")
WAVER = {"subject": 0.01, "background": 0.006, "motion": 0.001, "aesthetic": 0.03, "clarity": 0.08}
HOSTILE = """</script><img src=x onerror=alert(1)> "quoted" 'too' & <!-- ${title}"""


def made_up(
    count=12,
    segments=10,
    suites=("official",),
    names=None,
    failed=(),
    missing=(),
    prompt="",
    seed=0,
):
    """The content of results.json for `count` videos whose scores were drawn.

    failed: (name, reason) of videos beside them. missing: (place of the video, metric) whose first
    score is 0, so that it has no VDE. prompt: of all videos.
    """
    generator = np.random.default_rng(seed)
    entries = [e for e in METRIC_ENTRIES.values() if e.suite in suites and e.key in KEYS]
    names = names or [f"folder/video {place:03d}.mp4" for place in range(count)]
    measured = []
    for place, name in enumerate(names):
        scores = {}
        for entry in entries:
            chunks = 0.8 * _level(generator, WAVER[entry.key], segments)
            zero = (place, entry.name) in missing
            chunks[0] *= not zero
            whole = float(chunks.mean()) if entry.complement else None
            reason = f"{name} starts with nothing" if zero else ""
            scores[entry.name] = Scores(tuple(chunks.tolist()), whole, 960 + place, reason)
        video = Video(
            path=pathlib.Path(name),
            name=name,
            sha256=f"{place:064x}",
            frames=16 * (60 + place),
            fps=16.0,
            height=480,
            width=854,
        )
        measured.append(MeasuredVideo(video, name, scores))
    measured += [MeasuredVideo(None, name, failures=(f"{name}: {why}",)) for name, why in failed]
    return results.build(
        config={"name": "made up", "suite": "all", "segments": segments, "weights": "linear"},
        provenance={"bvjax": "0.1.0", "weights": {"dino_vitb16": "ab" * 32}, "decoder": None},
        entries=entries,
        measured_videos=measured,
        prompts=Prompts({name: prompt for name in names}, "cd" * 32) if prompt else None,
    )


def _level(generator, waver, segments):
    """A curve that wavers about 1 and in two of five cases falls at some chunk."""
    level = np.exp(generator.normal(0, waver / 3, segments).cumsum())
    if generator.random() < 0.4:
        level[generator.integers(1, segments) :] *= np.exp(-generator.exponential(8 * waver))
    return level


def stills(content, width=160, noise=False):
    """A JPEG for each chunk of each video: colours that change along it."""
    generator = np.random.default_rng(0)
    height = width * 9 // 16
    result = {}
    for place, video in enumerate(content["videos"]):
        files = []
        for chunk in range(content["config"]["segments"]):
            picture = np.zeros((height, width, 3), np.uint8)
            picture[:] = (40 + 20 * chunk % 200, (place * 37) % 255, 255 - 20 * chunk % 200)
            picture[height // 3 : height // 2, 10 + 8 * chunk : 30 + 8 * chunk] = 250
            if noise:
                picture = picture // 2 + generator.integers(0, 120, picture.shape, np.uint8)
            buffer = io.BytesIO()
            PIL.Image.fromarray(picture).save(buffer, "JPEG", quality=80)
            files.append(buffer.getvalue())
        result[video["name"]] = files
    return result
