"""The report's card of a video: what moved when, a still of each chunk, curves under them, scores."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from bvjax.lvbench.formatting import (
    NONE,
    chunk_times,
    duration,
    escape,
    finite,
    label,
    number,
    ordered,
    percent,
    significant,
    style,
)
from bvjax.lvbench.report.tables import missing_reason

Results = Mapping[str, Any]
OPEN = 5  # cards that are open at first; all of them where there are few
FEW = 12


def cards(
    results: Results,
    videos: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, Sequence[bytes] | None],
) -> str:
    """A <details> per video.  What is in it stands in a <noscript>, which costs a browser nothing.

    The script takes it from there when the card comes into view.
    """
    open_cards = len(videos) if len(videos) <= FEW else OPEN
    return "\n".join(
        _card(index, video, results, pictures.get(video["name"]), index <= open_cards)
        for index, video in enumerate(videos, start=1)
    )


@dataclasses.dataclass(frozen=True)
class MetricChange:
    """A metric that moved: at which chunk (1..N), and from what it was before to what it is there.

    most: the score furthest from `before` on the same side, at that chunk or later.
    """

    chunk: int
    before: float
    after: float
    most: float

    @property
    def change(self) -> float | None:
        """Relative to what it was before; None where that is 0."""
        return (self.after - self.before) / abs(self.before) if self.before else None

    @property
    def falls(self) -> bool:
        return self.after < self.before


def movements(video: Mapping[str, Any], results: Results) -> dict[str, MetricChange]:
    """The metrics that moved, as `change.movement` found them, in the order of the tables."""
    changes = {}
    for name in ordered(results["metrics"]):
        scores = video["scores"].get(name) or {}
        stored = scores.get("moved") or {}
        chunk, before, after = (stored.get(key) for key in ("chunk", "before", "after"))
        if chunk is None or finite(before) is None or finite(after) is None:
            continue
        sign = -1 if after < before else 1
        later_scores = [c for c in map(finite, scores["chunks"][chunk - 1 :]) if c is not None]
        most = max((after, *later_scores), key=lambda c: sign * c)
        changes[name] = MetricChange(int(chunk), float(before), float(after), float(most))
    return changes


def sentence(title: str, change: MetricChange, times: Sequence[str]) -> str:
    """Returns a sentence like "clarity falls by 43 % at chunk 6 (24-28 s)".

    If the metric moves on, the sentence ends with its largest distance from `before`.
    """
    subject = f"{title[:1].lower()}{title[1:]} {'falls' if change.falls else 'rises'}"
    place = f"at chunk {change.chunk} ({times[change.chunk - 1]})"
    if change.change is None:
        return f"{subject} from 0 to {number(change.after)} {place}"
    text = f"{subject} by {percent(abs(change.change))} {place}"
    most = abs(change.most - change.before) / abs(change.before)
    return f"{text}, later by up to {percent(most)}" if most > 1.5 * abs(change.change) else text


def _card(
    index: int,
    video: Mapping[str, Any],
    results: Results,
    pictures: Sequence[bytes] | None,
    is_open: bool,
) -> str:
    metrics = results["metrics"]
    segments = int(results["config"]["segments"])
    times = chunk_times(video, segments)
    changes = movements(video, results)
    headline = "no metric moved"
    if changes:
        name = max(changes, key=lambda n: abs(changes[n].change or 0.0))
        headline = sentence(label(name, metrics), changes[name], times)
    return (
        f'<details class="card" id="video-{index}"{" open" if is_open else ""}><summary>'
        f'<span class="name">{escape(video["name"])}</span>'
        f'<span class="soft">{duration(video.get("seconds"))}</span>'
        f'<span class="news soft">{escape(headline)}</span></summary><div class="body"><noscript>'
        + _prompt(video)
        + _movements_list(changes, metrics, times)
        + f'<div class="lane"><div class="timeline" style="--n:{segments}">'
        + _strip(changes, metrics, times, pictures)
        + f'<div class="plot" data-curves="{escape(_curves(video, results, changes, times))}"></div>'
        + "</div></div>"
        + _reasons(video, metrics)
        + _numbers(video, metrics, changes, segments)
        + "</noscript></div></details>"
    )


def _prompt(video: Mapping[str, Any]) -> str:
    prompt = video.get("prompt")
    return f"<blockquote>{escape(prompt)}</blockquote>" if prompt else ""


def _movements_list(
    changes: Mapping[str, MetricChange], metrics: Results, times: Sequence[str]
) -> str:
    if not changes:
        return '<p class="soft">No metric moves by much more than it wavers.</p>'
    metric_indices = {name: i for i, name in enumerate(ordered(metrics))}
    in_order = sorted(changes.items(), key=lambda item: (item[1].chunk, metric_indices[item[0]]))
    rows = "".join(
        f'<li><span data-swatch="{metric_indices[name]}"></span>'
        f"<span>{escape(_capital(sentence(label(name, metrics), change, times)))}</span>"
        for name, change in in_order
    )
    return f'<ul class="moved">{rows}</ul>'


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _strip(
    changes: Mapping[str, MetricChange],
    metrics: Results,
    times: Sequence[str],
    pictures: Sequence[bytes] | None,
) -> str:
    items = []
    for i, when in enumerate(times):
        image = '<span class="blank"></span>'
        if pictures is not None and i < len(pictures):
            data = base64.b64encode(pictures[i]).decode()
            image = f'<img src="data:image/jpeg;base64,{data}" alt="Chunk {i + 1}, {when}">'
        metrics_here = [name for name, change in changes.items() if change.chunk == i + 1]
        marks = dict.fromkeys(_mark(name, changes[name], metrics) for name in metrics_here)
        short = when if len(times) <= FEW else when.removesuffix(" s").removeprefix("frames ")
        items.append(f"<li>{image}<em>{i + 1}</em><span>{short}</span>{''.join(marks)}")
    return f'<ol class="strip">{"".join(items)}</ol>'


def _mark(name: str, change: MetricChange, metrics: Results) -> str:
    """A metric's name under the chunk where it moved; the same for both suites."""
    title = str(metrics[name].get("title", name))
    hue = style(name, metrics)["hue"]
    arrow = "\N{DOWNWARDS ARROW}" if change.falls else "\N{UPWARDS ARROW}"
    text = f"{arrow} {title[:1].lower()}{title[1:]}"
    return f'<b style="--hue:var(--c{hue})" title="{escape(text)}">{escape(text)}</b>'


def _curves(
    video: Mapping[str, Any],
    results: Results,
    changes: Mapping[str, MetricChange],
    times: Sequence[str],
) -> str:
    """Returns the data of the curves, as JSON for the script, in the order of `ordered`."""
    names = ordered(results["metrics"])
    scores = [(video["scores"].get(name) or {}).get("chunks") for name in names]
    content = {
        "labels": list(times),
        "chunks": [None if s is None else [significant(c, 7) for c in s] for s in scores],
        "moved": [
            [changes[name].chunk - 1, significant(changes[name].change)]
            if name in changes
            else None
            for name in names
        ],
        "why": [missing_reason(video, name) for name in names],
    }
    return json.dumps(content, allow_nan=False, separators=(",", ":"), ensure_ascii=False)


def _reasons(video: Mapping[str, Any], metrics: Results) -> str:
    """Lists the metrics that have no score for this video, with the reasons."""
    rows = []
    for name in ordered(metrics):
        scores = video["scores"].get(name)
        if scores is None or scores.get("reason") or finite(scores.get("vde")) is None:
            reason = escape(missing_reason(video, name))
            rows.append(f"<li>{escape(label(name, metrics))}: {reason}")
    return f'<ul class="reasons note">{"".join(rows)}</ul>' if rows else ""


def _numbers(
    video: Mapping[str, Any],
    metrics: Results,
    changes: Mapping[str, MetricChange],
    segments: int,
) -> str:
    head = "".join(f'<th scope="col">{i}' for i in range(1, segments + 1))
    last_headings = ("VDE", "mean change", "WMAPE", "whole video")
    rows = []
    for name in ordered(metrics):
        scores = video["scores"].get(name)
        if scores is None:
            continue
        chunks = list(scores.get("chunks") or [None] * segments)
        cells = "".join(
            f"<td{_hit(changes, name, i)}>{_score(c)}" for i, c in enumerate(chunks, start=1)
        )
        rows.append(
            f'<tr><th scope="row">{escape(label(name, metrics))}{cells}'
            f"<td><strong>{number(scores.get('vde'))}</strong>"
            f"<td>{percent(scores.get('vde_normalised'))}<td>{percent(scores.get('wmape'))}"
            f"<td>{_score(scores.get('whole'))}"
        )
    if not rows:
        return ""
    return (
        '<details class="numbers"><summary>Scores of the chunks</summary><div class="scroll">'
        f'<table><thead><tr><th scope="col">Metric{head}'
        + "".join(f'<th scope="col">{text}' for text in last_headings)
        + f"</thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _hit(changes: Mapping[str, MetricChange], name: str, chunk: int) -> str:
    return ' class="hit"' if name in changes and changes[name].chunk == chunk else ""


def _score(value: Any) -> str:
    x = significant(value, 5)
    return NONE if x is None else f"{x:.5g}"
