"""results.json: what an evaluation found, for people, tables and scripts.

{
  "format": "bvjax-lvbench-1",
"config": {"name", "segments", "weights", ...},   the request
  "provenance": {...},                              what it was made with
  "metrics": {METRIC: {"title", "suite", "complement", "better": {"vde", "whole"}}},
  "videos": [{"name", "sha256", "frames", "fps", "height", "width", "seconds", "prompt",
              "scores": {METRIC: {"chunks", "vde", "vde_normalised", "wmape", "whole", "weight",
                                  "moved": {"chunk", "before", "after", "largest", "step"},
                                  "reason"}}}],
  "failed": [{"name", "reason"}],
  "prompts": {"missing", "unused"} or null,
  "aggregate": {METRIC: {"vde": {"mean", "median", "low", "high", "n", "excluded"},
                         "vde_normalised": {"mean", "median", "low", "high", "n"},
                         "whole": {"mean", "median", "low", "high", "n", "frame_weighted",
                                   "video_mean"}}}
}

METRIC is "SUITE/KEY".  What is not a finite number is null, and the score's reason says why;
`excluded` are the videos that a mean leaves out.  low and high: 95 % intervals over videos.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bvjax.errors import UserError
from bvjax.files import read_json
from bvjax.lvbench import intervals
from bvjax.lvbench.change import movement
from bvjax.lvbench.formatting import finite
from bvjax.lvbench.metric import Scores
from bvjax.lvbench.prompts import Prompts
from bvjax.lvbench.results_check import find_damage
from bvjax.lvbench.suites import MetricEntry
from bvjax.lvbench.vde import drift

if TYPE_CHECKING:
    from bvjax.lvbench.runner import MeasuredVideo

FORMAT = "bvjax-lvbench-1"
# VBench's means of these count pairs of frames, not videos.
FRAME_WEIGHTED = ("subject_consistency", "background_consistency")

Results = Mapping[str, Any]


def build(
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    entries: Sequence[MetricEntry],
    measured_videos: Sequence[MeasuredVideo],
    prompts: Prompts | None = None,
) -> dict[str, Any]:
    """The content of results.json.

    Args:
        config: with `weights` of the VDE ("linear" or "log"), and `segments`.
        measured_videos: all videos; broken ones, and those too short for all metrics, become failures.
    """
    videos = [
        _video(m, config["weights"], prompts) for m in measured_videos if m.video and m.scores
    ]
    unmatched = None
    if prompts is not None:
        missing, unused = prompts.unmatched(
            m.name for m in measured_videos if not (m.video and m.video.prompt)
        )
        unmatched = {"missing": missing, "unused": unused}
    return {
        "format": FORMAT,
        "config": dict(config),
        "provenance": dict(provenance),
        "metrics": {entry.name: _metric(entry) for entry in entries},
        "videos": videos,
        "failed": [_failed(m.name, sentence) for m in measured_videos for sentence in m.failures],
        "prompts": unmatched,
        "aggregate": {entry.name: _aggregate(entry, videos) for entry in entries},
    }


def load_results(path: str | pathlib.Path) -> dict[str, Any]:
    """Reads results.json; raises `UserError` where it is not what `build` makes."""
    path = pathlib.Path(path)
    content = read_json(path, "the results")
    format_name = content.get("format") if isinstance(content, dict) else None
    if format_name != FORMAT:
        raise UserError(
            f"{path} is not a results.json: its format is {format_name!r}, not {FORMAT!r}"
        )
    problem = find_damage(content)
    if problem:
        raise UserError(f"the results {path} are damaged: {problem}")
    return content


def check_comparable(a: Results, b: Results) -> list[str]:
    """The metrics that both results have.

    Raises `UserError` that names what is different where numbers do not mean the same: segments,
    weights of the VDE, suites without a metric in common, a metric's settings.
    """
    names = [_name(a, "A"), _name(b, "B")]
    for key, what in (("segments", "chunks"), ("weights", "VDE weights")):
        value_a, value_b = a["config"][key], b["config"][key]
        if value_a != value_b:
            raise UserError(
                f"{what} are {value_a} in {names[0]} and {value_b} in {names[1]}; they must be the same"
            )
    shared_metrics = [metric for metric in a["metrics"] if metric in b["metrics"]]
    if not shared_metrics:
        value_a, value_b = (
            ", ".join(sorted({m["suite"] for m in results["metrics"].values()})) or "none"
            for results in (a, b)
        )
        raise UserError(
            f"{names[0]} and {names[1]} have no metric in common: the suites are {value_a} and {value_b}"
        )
    for metric in shared_metrics:
        value_a, value_b = (
            results["config"].get("metrics", {}).get(metric, {}) for results in (a, b)
        )
        for key in sorted({*value_a, *value_b}):
            if value_a.get(key) != value_b.get(key):
                raise UserError(
                    f"{metric} was measured with {key} {value_a.get(key)} in {names[0]} and "
                    f"{value_b.get(key)} in {names[1]}; its settings must be the same"
                )
    return shared_metrics


def _name(results: Results, default: str) -> str:
    return str(results["config"].get("name") or default)


def _metric(entry: MetricEntry) -> dict[str, Any]:
    return {
        "title": entry.title,
        "suite": entry.suite,
        "complement": entry.complement,
        "better": {
            "vde": "lower" if entry.measures_quality else None,
            "whole": "higher" if entry.complement and entry.measures_quality else None,
        },
    }


def _video(measured: MeasuredVideo, weights: str, prompts: Prompts | None) -> dict[str, Any]:
    video = measured.video
    return {
        "name": video.name,
        "sha256": video.sha256,
        "frames": video.frames,
        "fps": finite(video.fps),
        "height": video.height,
        "width": video.width,
        "seconds": finite(video.frames / video.fps) if video.fps else None,
        "prompt": (prompts.text(video.name) if prompts else None) or video.prompt,
        "scores": {metric: _scores(s, weights) for metric, s in measured.scores.items()},
    }


def _scores(scores: Scores, weights: str) -> dict[str, Any]:
    drift_scores = drift(scores.chunks, weights)
    # The metric knows why a segment has no score; where it does not, the drift's words have to do.
    reasons = [scores.reason] if scores.reason else []
    if drift_scores.reason and not (scores.reason and any(map(math.isnan, scores.chunks))):
        reasons.append(drift_scores.reason)
    return {
        "chunks": [finite(chunk) for chunk in scores.chunks],
        "vde": finite(drift_scores.vde),
        "vde_normalised": finite(drift_scores.normalised),
        "wmape": finite(drift_scores.wmape),
        "whole": finite(scores.whole),
        "weight": scores.weight,
        "moved": movement(scores.chunks).as_dict(),
        "reason": "; ".join(reasons),
    }


def _failed(name: str, sentence: str) -> dict[str, str]:
    return {"name": name, "reason": sentence.removeprefix(f"{name}: ")}


def _aggregate(entry: MetricEntry, videos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    excluded = []
    for video in videos:
        scores = video["scores"].get(entry.name)
        if scores is None:
            excluded.append({"name": video["name"], "reason": "it was not measured"})
        elif scores["vde"] is None:
            excluded.append({"name": video["name"], "reason": scores["reason"]})
    return {
        "vde": {**_summary(_values(videos, entry.name, "vde")), "excluded": excluded},
        "vde_normalised": _summary(_values(videos, entry.name, "vde_normalised")),
        "whole": _whole(entry, videos),
    }


def _whole(entry: MetricEntry, videos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean as VBench takes it: over frames for consistencies, else over videos."""
    values = _values(videos, entry.name, "whole")
    summary = {**_summary(values), "frame_weighted": None}
    summary["video_mean"] = summary["mean"]
    if entry.complement in FRAME_WEIGHTED and values:
        weights = [
            v["scores"][entry.name]["weight"]
            for v in videos
            if v["scores"].get(entry.name, {}).get("whole") is not None
        ]
        weighted = _interval(values, weights)
        summary |= {**weighted, "frame_weighted": weighted["mean"]}
    return summary


def _values(videos: Sequence[Mapping[str, Any]], metric: str, key: str) -> list[float]:
    values = (video["scores"].get(metric, {}).get(key) for video in videos)
    return [value for value in values if value is not None]


def _summary(values: Sequence[float]) -> dict[str, Any]:
    median = float(np.median(values)) if values else None
    return {**_interval(values), "median": median}


def _interval(values: Sequence[float], weights: Sequence[float] | None = None) -> dict[str, Any]:
    """{mean, low, high, n}; one video has no interval."""
    interval = intervals.mean(values, weights=weights)
    del interval["infinite"]  # there are none: a drift is finite or None
    if interval["n"] < 2:
        interval["low"] = interval["high"] = None
    return interval
