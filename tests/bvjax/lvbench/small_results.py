"""An evaluation of five videos whose numbers can be checked by hand."""

import math
import pathlib

from bvjax.lvbench.metric import Scores
from bvjax.lvbench.results import build
from bvjax.lvbench.runner import MeasuredVideo
from bvjax.lvbench.suites import METRIC_ENTRIES
from bvjax.lvbench.video import Video

CONFIG = {"name": "ours", "segments": 3, "weights": "linear"}
NAMES = ("official/subject", "official/motion", "paper/clarity")


def measured(name, frames=30, fps=10.0, failures=(), **scores):
    video = Video(pathlib.Path(name), name, "ab" * 32, frames, fps, 48, 64)
    named = {key.replace("_", "/", 1): value for key, value in scores.items()}
    return MeasuredVideo(video, name, named, failures)


def evaluation(prompts=None):
    result = [
        measured("a.mp4", official_subject=Scores((0.9, 0.8, 0.9), 0.8, weight=29),
                 official_motion=Scores((0.9, 0.9, 0.9), 0.9),
                 paper_clarity=Scores((10.0, 20.0, 5.0), 12.0)),
        measured("b/b.mp4", 300, official_subject=Scores((0.6, 0.6, 0.3), 0.5, weight=299),
                 official_motion=Scores((0.0, 0.5, 0.5), 0.3),
                 paper_clarity=Scores((1.0, math.nan, 1.0), math.inf, reason="no edge in chunk 2")),
        measured("c.gif", 20, 0.0, ("c.gif has 20 frames; official/subject needs at least 9",),
                 paper_clarity=Scores((2.0, 2.0, 2.0), 2.0)),
        measured("short.mp4", 2, failures=("short.mp4 has 2 frames",)),
        MeasuredVideo(None, "broken.mp4", failures=("broken.mp4: it is damaged",)),
    ]  # fmt: skip
    return build(CONFIG, {"bvjax": "0"}, [METRIC_ENTRIES[name] for name in NAMES], result, prompts)
