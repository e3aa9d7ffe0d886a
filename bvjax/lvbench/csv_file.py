"""Results as CSV: every score of every chunk in a row of its own, and a row a video."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bvjax.lvbench.formatting import ordered

Results = Mapping[str, Any]


def long_csv(results: Results) -> str:
    """video, metric, chunk (from 1), start and end in seconds, score; empty where there is none."""
    segments = results["config"]["segments"]
    rows = []
    for video in results["videos"]:
        length, fps = video["frames"] // segments, video["fps"]
        for metric in _measured_metrics(results, video):
            for index, score in enumerate(video["scores"][metric]["chunks"]):
                times = [round((index + i) * length / fps, 3) if fps else None for i in (0, 1)]
                rows.append((video["name"], metric, index + 1, *times, score))
    return _csv(("video", "metric", "chunk", "start", "end", "score"), rows)


def wide_csv(results: Results) -> str:
    """A row a video: what is known of it, and per metric the drift and the score of the whole."""
    video_columns = ("name", "sha256", "frames", "fps", "height", "width", "seconds")
    metric_columns = ("vde", "vde_normalised", "wmape", "whole", "moved", "reason")
    metrics = ordered(results["metrics"])
    rows = []
    for video in results["videos"]:
        row = [video[key] for key in video_columns]
        for metric in metrics:
            scores = dict(video["scores"].get(metric, {}))
            scores["moved"] = (scores.get("moved") or {}).get("chunk")
            row += [scores.get(column) for column in metric_columns]
        rows.append(row)
    return _csv(
        (*video_columns, *(f"{m}/{column}" for m in metrics for column in metric_columns)), rows
    )


def _measured_metrics(results: Results, video: Mapping[str, Any]) -> list[str]:
    return [metric for metric in ordered(results["metrics"]) if metric in video["scores"]]


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    # None is an empty field, a float all its digits.
    writer.writerows(
        [_escape_formula(cell) if isinstance(cell, str) else cell for cell in row] for row in rows
    )
    return buffer.getvalue()


def _escape_formula(cell: str) -> str:
    """Text that a spreadsheet takes for text: not a formula, which it would run."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
