"""The report's tables: means over the videos, and one row per video, readable without a script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bvjax.lvbench.formatting import (
    NONE,
    duration,
    escape,
    finite,
    label,
    number,
    ordered,
    percent,
)

Results = Mapping[str, Any]
_NO_INTERVAL = "an interval needs at least two videos"


def mean_ranks(results: Results) -> dict[str, float | None]:
    """Per video its rank among all by VDE (1 drifts most), mean over the metrics that it has.

    Ranks do not ask how volatile a metric is.  Equal videos share the mean of their ranks; a video
    without any VDE gets None.
    """
    ranks_by_video: dict[str, list[float]] = {video["name"]: [] for video in results["videos"]}
    for metric, metadata in results["metrics"].items():
        if not metadata["better"]["vde"]:
            continue
        vde_by_name = {v["name"]: vde_of(v, metric) for v in results["videos"]}
        vde_by_name = {name: x for name, x in vde_by_name.items() if x is not None}
        values = np.array(list(vde_by_name.values()))
        for name, x in vde_by_name.items():
            equal, above = int((values == x).sum()), int((values > x).sum())
            ranks_by_video[name].append(above + (equal + 1) / 2)
    return {
        name: sum(ranks) / len(ranks) if ranks else None for name, ranks in ranks_by_video.items()
    }


def worst_first(results: Results) -> list[Mapping[str, Any]]:
    """Videos by mean rank, then name; those without any VDE last."""
    ranks = mean_ranks(results)

    def key(video: Mapping[str, Any]) -> tuple[float, str]:
        rank = ranks[video["name"]]
        return math.inf if rank is None else rank, video["name"]

    return sorted(results["videos"], key=key)


def vde_of(video: Mapping[str, Any], metric: str) -> float | None:
    """The VDE of a video by a metric, where there is one."""
    return finite(video["scores"].get(metric, {}).get("vde"))


def missing_reason(video: Mapping[str, Any], metric: str) -> str:
    """Returns the reason why a video has no VDE by a metric."""
    scores = video["scores"].get(metric)
    if scores is None:
        return "this metric did not measure this video"
    if scores.get("reason"):
        return str(scores["reason"])
    first = (scores.get("chunks") or [None])[0]
    if first == 0:
        return "the score of chunk 1 is 0, and nothing is relative to 0"
    return "a score is missing"


def aggregate_table(results: Results) -> str:
    """Means over the videos with their 95 % intervals, a row per metric in Table 2's order.

    Of a single video: its numbers, without intervals and medians.
    """
    has_intervals = len(results["videos"]) != 1
    metrics, aggregate = results["metrics"], results["aggregate"]
    names = [name for name in ordered(metrics) if name in aggregate]
    if not names:
        return '<p class="soft">No metric was measured.</p>'
    normalised = [aggregate[name].get("vde_normalised") or {} for name in names]
    bounds = [finite(summary.get(key)) for summary in normalised for key in ("mean", "high")]
    scale = max((end for end in bounds if end is not None), default=0.0) or 1.0
    has_several_suites = len({metrics[name].get("suite") for name in names}) > 1
    # Nothing of the suite `paper` is a score of whole videos.
    has_whole_scores = any(
        finite((aggregate[n].get("whole") or {}).get("mean")) is not None for n in names
    )
    mean = "mean, 95 % interval" if has_intervals else "mean"
    rows, suite = [], None
    for name in names:
        if has_several_suites and metrics[name].get("suite") != suite:
            suite = metrics[name].get("suite")
            span = 5 + 2 * has_intervals + has_whole_scores
            rows.append(
                f'<tr class="suite"><th colspan="{span}" scope="colgroup">Suite {escape(suite)}'
            )
        rows.append(
            _aggregate_row(
                name, metrics[name], aggregate[name], scale, has_whole_scores, has_intervals
            )
        )
    return (
        '<div class="scroll"><table><thead>'
        '<tr><th rowspan="2" scope="col">Metric<th colspan="'
        f'{1 + 2 * has_intervals}" class="group" scope="colgroup">'
        'VDE \N{DOWNWARDS ARROW}<th colspan="2" class="group" scope="colgroup">'
        "Mean change, VDE / \N{GREEK CAPITAL LETTER SIGMA}w \N{DOWNWARDS ARROW}"
        + '<th class="group" scope="colgroup">Whole videos'
        * has_whole_scores
        + '<th rowspan="2" scope="col">Videos'
        '<tr><th scope="col">mean'
        + '<th scope="col">95 % interval<th scope="col">median' * has_intervals
        + f'<th scope="col">{mean}<th scope="col" class="text">on one scale'
        + f'<th scope="col">{mean}' * has_whole_scores
        + "</thead><tbody>"
        + "\n".join(rows)
        + "</tbody></table></div>"
        + _excluded(names, metrics, aggregate)
    )


def _aggregate_row(
    name: str,
    metadata: Mapping[str, Any],
    content: Mapping[str, Any],
    scale: float,
    has_whole_scores: bool,
    has_intervals: bool,
) -> str:
    drifts = bool(metadata["better"]["vde"])
    vde_summary = (content.get("vde") or {}) if drifts else {"n": content["whole"]["n"]}
    mean_change = (content.get("vde_normalised") or {}) if drifts else {}
    excluded_count = len(vde_summary.get("excluded") or [])
    excluded_note = f"<small>{excluded_count} left out</small>" if excluded_count else ""
    return (
        f'<tr><th scope="row">{escape(metadata.get("title", name))}'
        f"<td><strong>{number(vde_summary.get('mean'))}</strong>"
        + f"<td>{_interval(vde_summary, number)}<td>{number(vde_summary.get('median'))}"
        * has_intervals
        + f"<td>{percent(mean_change.get('mean'))}"
        + f"<small>{_interval(mean_change, percent)}</small>" * has_intervals
        + f'<td class="text">{_range(mean_change, scale)}'
        + f"<td>{_whole(metadata, content.get('whole') or {}, has_intervals)}" * has_whole_scores
        + f"<td>{vde_summary.get('n', 0)}{excluded_note}"
    )


def _whole(metadata: Mapping[str, Any], whole: Mapping[str, Any], has_intervals: bool) -> str:
    """The complementary number of VBench (more is better), or the mean of a score without one."""
    if finite(whole.get("mean")) is None:
        return NONE
    dimension = str(metadata.get("complement") or "").replace("_", " ")
    text = number(whole["mean"])
    notes = [f"<small>{_interval(whole, number)}</small>"] if has_intervals else []
    if dimension:
        arrow = " \N{UPWARDS ARROW}" if metadata["better"]["whole"] else ""
        text = f"<strong>{text}</strong>{arrow}"
        notes.insert(0, f"<small>{escape(dimension)}</small>")
    video_mean = finite(whole.get("video_mean"))
    if video_mean is not None and number(video_mean) != number(whole["mean"]):
        notes.append(f"<small>each video alike: {number(video_mean)}</small>")
    return text + "".join(notes)


def _interval(content: Mapping[str, Any], text: Any) -> str:
    low, high = finite(content.get("low")), finite(content.get("high"))
    if low is None or high is None:
        if finite(content.get("mean")) is None:
            return ""
        return f'<span title="{_NO_INTERVAL}">{NONE}</span>'
    return f"{text(low)} {NONE} {text(high)}"


def _range(mean_change: Mapping[str, Any], scale: float) -> str:
    mean = finite(mean_change.get("mean"))
    if mean is None:
        return ""
    low, high = finite(mean_change.get("low")), finite(mean_change.get("high"))
    position = lambda x: f"{100 * min(1.0, max(0.0, (mean if x is None else x) / scale)):.1f}%"
    style = f"--low:{position(low)};--high:{position(high)};--mean:{position(mean)}"
    return f'<span class="range" style="{style}"><i></i><b></b></span>'


def _excluded(names: Sequence[str], metrics: Results, aggregate: Results) -> str:
    """Lists the videos that the means leave out, with the reasons."""
    rows = [
        f'<li>{escape(label(name, metrics))}: <span class="name">{escape(exclusion["name"])}</span>'
        f" {NONE} {escape(exclusion['reason'])}"
        for name in names
        for exclusion in (aggregate[name].get("vde") or {}).get("excluded") or []
    ]
    if not rows:
        return ""
    return (
        f'<details class="note"><summary>Left out of a mean: {len(rows)}</summary>'
        f"<ul>{''.join(rows)}</ul></details>"
    )


def videos_table(results: Results, videos: Sequence[Mapping[str, Any]]) -> str:
    """A row per video in the order given; cells carry their numbers for sorting."""
    metrics = results["metrics"]
    names = ordered(metrics)
    whole_names = [n for n in names if any(finite(_whole_of(v, n)) is not None for v in videos)]
    # VBench's numbers have a direction; other scores of whole videos have none.
    whole_names.sort(key=lambda name: not metrics[name]["better"]["whole"])
    vde_names = [name for name in names if metrics[name]["better"]["vde"]]
    ranks = mean_ranks(results)
    largest_vde = {n: max((vde_of(v, n) or 0.0 for v in videos), default=0.0) for n in names}
    rows = []
    for index, video in enumerate(videos, start=1):
        rank = ranks[video["name"]]
        cells = [
            _cell(rank, "" if rank is None else f"{rank:.1f}", "no VDE could be measured"),
            _cell(finite(video.get("seconds")) or None, duration(video.get("seconds")),
                  "the file does not say how fast it plays"),
            *(_vde_cell(video, name, largest_vde[name]) for name in vde_names),
            *(_cell(finite(_whole_of(video, name)), number(_whole_of(video, name)),
                    missing_reason(video, name)) for name in whole_names),
        ]  # fmt: skip
        rows.append(
            f'<tr data-card="video-{index}"><th scope="row"><a class="name" href="#video-{index}">'
            f"{escape(video['name'])}</a></th>{''.join(cells)}</tr>"
        )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Videos"><table><thead>'
        f"{_heads(vde_names, whole_names, metrics)}</thead><tbody>\n"
        + "\n".join(rows)
        + "</tbody></table></div>"
    )


def _heads(names: Sequence[str], whole_names: Sequence[str], metrics: Results) -> str:
    """Two rows of headings: groups, and columns with the key and first direction for sorting."""
    suites = {metrics[name].get("suite") for name in names}
    groups: dict[str, int] = {}
    for name in names:
        text = "VDE \N{DOWNWARDS ARROW}" + (
            f", suite {metrics[name]['suite']}" if len(suites) > 1 else ""
        )
        groups[text] = groups.get(text, 0) + 1
    for name in whole_names:
        has_direction = metrics[name]["better"]["whole"]
        text = (
            "VBench, whole video \N{UPWARDS ARROW}" if has_direction else "Score of the whole video"
        )
        groups[text] = groups.get(text, 0) + 1
    group_cells = "".join(
        f'<th class="group" colspan="{count}" scope="colgroup">{escape(text)}</th>'
        for text, count in groups.items()
    )
    columns = [
        ("name", "Video", "ascending", "by name"),
        ("rank", "Mean rank", "ascending", "rank by VDE, mean over the metrics; 1 drifts most"),
        ("seconds", "Length", "descending", "by length"),
    ]
    for name in names:
        columns.append((name, _title(name, metrics), "descending", f"VDE of {name}; 0 is no drift"))
    for name in whole_names:
        tooltip = f"{name} over the whole video"
        columns.append((f"whole:{name}", _title(name, metrics), "ascending", tooltip))
    column_cells = "".join(
        f'<th scope="col" data-key="{escape(key)}" data-first="{first}" title="{escape(title)}"'
        + (' aria-sort="ascending"' if key == "rank" else "")
        + f">{escape(text)}</th>"
        for key, text, first, title in columns
    )
    return f'<tr><td colspan="3"></td>{group_cells}</tr><tr>{column_cells}</tr>'


def _title(name: str, metrics: Results) -> str:
    return str(metrics[name].get("title", name))


def _whole_of(video: Mapping[str, Any], metric: str) -> Any:
    return video["scores"].get(metric, {}).get("whole")


def _cell(value: float | None, text: str, reason: str) -> str:
    if value is None:
        return f'<td class="none" title="{escape(reason)}">{NONE}</td>'
    return f'<td data-v="{value!r}">{text}</td>'


def _vde_cell(video: Mapping[str, Any], metric: str, largest_vde: float) -> str:
    value = vde_of(video, metric)
    if value is None or largest_vde <= 0:
        return _cell(value, number(value), missing_reason(video, metric))
    share = f"{100 * value / largest_vde:.0f}%"
    return f'<td class="bar" style="--share:{share}" data-v="{value!r}">{number(value)}</td>'
