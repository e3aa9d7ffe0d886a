"""Checks of a results.json that came from another machine or version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bvjax.lvbench.vde import WEIGHTS

_SECTION_TYPES = {
    "config": dict,
    "provenance": dict,
    "metrics": dict,
    "videos": list,
    "failed": list,
    "aggregate": dict,
}
_SUMMARY_KEYS = ("vde", "vde_normalised", "whole")
_MAX_CHUNKS = 100_000
_MAX_MAGNITUDE = 1e100  # so that sums of scores and their squares stay numbers


def find_damage(content: Mapping[str, Any]) -> str:
    """Returns a sentence about the first value that `results` would not have written; "" for none."""
    for key, type_ in _SECTION_TYPES.items():
        if not isinstance(content.get(key), type_):
            return f'"{key}" is missing or of another kind'
    segments, weights = (content["config"].get(key) for key in ("segments", "weights"))
    if type(segments) is not int or not 2 <= segments <= _MAX_CHUNKS:
        return f"the number of chunks is {segments!r}"
    settings = content["config"].get("metrics", {})
    if not isinstance(settings, dict) or not all(isinstance(s, dict) for s in settings.values()):
        return "the settings of its metrics are of another kind"
    unmatched = content.get("prompts")
    if unmatched is not None and not (
        isinstance(unmatched, dict)
        and all(_is_string_list(unmatched.get(key, [])) for key in ("missing", "unused"))
    ):
        return "its list of prompts is of another kind"
    if weights not in WEIGHTS:
        return f"the VDE weights are {weights!r}"
    for metric, metadata in content["metrics"].items():
        if not (
            isinstance(metadata, dict)
            and {"title", "suite", "complement", "better"} <= metadata.keys()
        ):
            return f"the metric {metric} has no title, suite, complement or direction"
        if not all(isinstance(metadata[key], str) for key in ("title", "suite", "complement")):
            return f"the title, suite or complement of the metric {metric} is not text"
        if not (
            isinstance(metadata["better"], dict) and {"vde", "whole"} <= metadata["better"].keys()
        ):
            return f"the metric {metric} has no directions"
        summaries = content["aggregate"].get(metric)
        for key in _SUMMARY_KEYS:
            statistics = summaries.get(key) if isinstance(summaries, dict) else None
            if not isinstance(statistics, dict) or not _is_number(statistics.get("mean", "")):
                return f"the metric {metric} has no mean {key}"
            if not all(_is_number(statistics.get(key)) for key in ("median", "low", "high", "n")):
                return f"the metric {metric} has numbers about {key} that are none"
        if not _is_exclusion_list(summaries["vde"].get("excluded", [])):
            return f"what the metric {metric} leaves out is of another kind"
    names: set[str] = set()
    for number, video in enumerate(content["videos"], start=1):
        name = video.get("name") if isinstance(video, dict) else None
        if not isinstance(name, str):
            return f"video {number} has no name"
        if name in names:
            return f"{name} is there twice"
        names.add(name)
        if not isinstance(video.get("prompt"), str | None):
            return f"the prompt of {name} is not text"
        if not isinstance(video.get("scores"), dict):
            return f"{name} has no scores"
        for metric, scores in video["scores"].items():
            if metric not in content["metrics"]:
                return f"{name} has scores of the unknown metric {metric}"
            problem = _scores(scores, segments)
            if problem:
                return f"{metric} of {name} {problem}"
    return ""


def _scores(scores: Any, segments: int) -> str:
    chunks = scores.get("chunks") if isinstance(scores, dict) else None
    if not isinstance(chunks, list) or not all(map(_is_number, chunks)):
        return "has no scores of chunks"
    if len(chunks) != segments:
        return f"has {len(chunks)} chunks, not {segments}"
    for key in _SUMMARY_KEYS:
        if not _is_number(scores.get(key, "")):
            return f"has no number {key}"
    return ""


def _is_number(value: Any) -> bool:
    """Null, or a number that can be reckoned with."""
    if value is None:
        return True
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and -_MAX_MAGNITUDE
        <= value
        <= _MAX_MAGNITUDE  # false for NaN; whole numbers may be of any length
    )


def _is_string_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_exclusion_list(value: Any) -> bool:
    """A list of {name, reason}."""
    return isinstance(value, list) and all(
        isinstance(item, dict)
        and isinstance(item.get("name"), str)
        and isinstance(item.get("reason"), str)
        for item in value
    )
