"""What is wrong with the content of a results.json that came from somewhere else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bvjax.lvbench.vde import WEIGHTS

_SHAPES = {
    "config": dict,
    "provenance": dict,
    "metrics": dict,
    "videos": list,
    "failed": list,
    "aggregate": dict,
}
_SUMMARIES = ("vde", "vde_normalised", "whole")


def damage(content: Mapping[str, Any]) -> str:
    """What is not as `results` says it must be, in words; empty where all is that tables need."""
    for key, kind in _SHAPES.items():
        if not isinstance(content.get(key), kind):
            return f'"{key}" is missing or of another kind'
    segments, weights = (content["config"].get(key) for key in ("segments", "weights"))
    if type(segments) is not int or segments < 2:
        return f"the number of chunks is {segments!r}"
    if weights not in WEIGHTS:
        return f"the VDE weights are {weights!r}"
    for metric, about in content["metrics"].items():
        if not (
            isinstance(about, dict) and {"title", "suite", "complement", "better"} <= about.keys()
        ):
            return f"the metric {metric} has no title, suite, complement or direction"
        summaries = content["aggregate"].get(metric)
        for key in _SUMMARIES:
            found = summaries.get(key) if isinstance(summaries, dict) else None
            if not isinstance(found, dict) or not _number(found.get("mean", "")):
                return f"the metric {metric} has no mean {key}"
    seen: set[str] = set()
    for place, video in enumerate(content["videos"], start=1):
        name = video.get("name") if isinstance(video, dict) else None
        if not isinstance(name, str):
            return f"video {place} has no name"
        if name in seen:
            return f"{name} is there twice"
        seen.add(name)
        if not isinstance(video.get("scores"), dict):
            return f"{name} has no scores"
        for metric, scores in video["scores"].items():
            if metric not in content["metrics"]:
                return f"{name} has scores of the unknown metric {metric}"
            wrong = _scores(scores, segments)
            if wrong:
                return f"{metric} of {name} {wrong}"
    return ""


def _scores(scores: Any, segments: int) -> str:
    chunks = scores.get("chunks") if isinstance(scores, dict) else None
    if not isinstance(chunks, list) or not all(map(_number, chunks)):
        return "has no scores of chunks"
    if len(chunks) != segments:
        return f"has {len(chunks)} chunks, not {segments}"
    for key in _SUMMARIES:
        if not _number(scores.get(key, "")):
            return f"has no number {key}"
    return ""


def _number(value: Any) -> bool:
    """Finite, or null."""
    if value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
