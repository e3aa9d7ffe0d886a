"""Results in VBench's own files, which its scripts read (scripts/cal_final_score.py among them).

NAME_eval_results.json   {dimension: [mean, [{"video_path", "video_results"}, ...]]}
NAME_full_info.json      [{"prompt_en", "dimension": [...], "video_list": [...]}, ...]

Scales are VBench's: imaging quality of a video is 0..100 but its mean 0..1; dynamic degree of a
video is true or false.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from bvjax.lvbench.formatting import ordered

Results = Mapping[str, Any]


def files(results: Results, name: str = "vbench") -> dict[str, Any]:
    """{file name: content} of both files; nothing where no dimension of VBench was measured.

    A video that a dimension did not measure is not in its list.
    """
    metrics = results["metrics"]
    dimensions = {metrics[m]["complement"]: m for m in ordered(metrics) if metrics[m]["complement"]}
    scores = {}
    for dimension, metric in dimensions.items():
        video_results = [
            {"video_path": _path(results, video), "video_results": _value(dimension, value)}
            for video in results["videos"]
            if (value := video["scores"].get(metric, {}).get("whole")) is not None
        ]
        if video_results:
            scores[dimension] = [results["aggregate"][metric]["whole"]["mean"], video_results]
    if not scores:
        return {}
    info = [
        {
            "prompt_en": video.get("prompt") or _prompt_of(video["name"]),
            "dimension": list(scores),
            "video_list": [_path(results, video)],
        }
        for video in results["videos"]
    ]
    return {f"{name}_full_info.json": info, f"{name}_eval_results.json": scores}


def _value(dimension: str, whole: float) -> float | bool:
    if dimension == "imaging_quality":
        return 100 * whole
    return bool(whole) if dimension == "dynamic_degree" else whole


def _path(results: Results, video: Mapping[str, Any]) -> str:
    """Returns a video's path below the evaluated folder, which may be the video itself."""
    root = pathlib.PurePath(str(results["provenance"].get("videos", "")))
    return str(root if root.name == video["name"] else root / video["name"])


def _prompt_of(name: str) -> str:
    """Returns the prompt in a file's name, as VBench reads it: without suffix and sample number."""
    return re.sub(r"-\d+$", "", pathlib.PurePosixPath(name).stem)
