"""The report's card of a video: what moved when, a still of each chunk, curves under them, scores."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from bvjax.lvbench.report_tables import missing_reason
from bvjax.lvbench.report_text import (
    NONE,
    chunk_times,
    duration,
    escape,
    finite,
    label,
    look,
    number,
    ordered,
    percent,
    significant,
)

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
    opened = len(videos) if len(videos) <= FEW else OPEN
    return "\n".join(
        _card(place, video, results, pictures.get(video["name"]), place <= opened)
        for place, video in enumerate(videos, start=1)
    )


def movements(video: Mapping[str, Any], results: Results) -> dict[str, tuple[int, float]]:
    """Metrics that moved: {metric: (chunk, 1..N, and its change relative to chunk 1)}."""
    found = {}
    for name in ordered(results["metrics"]):
        scores = video["scores"].get(name) or {}
        moved, chunks = scores.get("moved"), scores.get("chunks") or []
        chunk = (moved or {}).get("chunk")
        change = relative(chunks)[chunk - 1] if chunk and chunk <= len(chunks) else None
        if change is not None:
            found[name] = (chunk, change)
    return found


def relative(chunks: Sequence[Any]) -> list[float | None]:
    """(m_i - m_1) / |m_1| of each chunk; None where it cannot be said."""
    scores = [finite(c) for c in chunks]
    if not scores or not scores[0]:
        return [None] * len(scores)
    return [None if s is None else (s - scores[0]) / abs(scores[0]) for s in scores]


def sentence(title: str, chunk: int, change: float, times: Sequence[str]) -> str:
    """ "clarity falls by 43 % at chunk 6 (24-28 s)" of a title that begins with a capital."""
    verb = "falls" if change < 0 else "rises"
    return (
        f"{title[:1].lower()}{title[1:]} {verb} by {percent(abs(change))} "
        f"at chunk {chunk} ({times[chunk - 1]})"
    )


def _card(
    place: int,
    video: Mapping[str, Any],
    results: Results,
    pictures: Sequence[bytes] | None,
    opened: bool,
) -> str:
    metrics = results["metrics"]
    segments = int(results["config"]["segments"])
    times = chunk_times(video, segments)
    moved = movements(video, results)
    news = "no metric moved"
    if moved:
        name = max(moved, key=lambda n: abs(moved[n][1]))
        news = sentence(label(name, metrics), *moved[name], times)
    return (
        f'<details class="card" id="video-{place}"{" open" if opened else ""}><summary>'
        f'<span class="name">{escape(video["name"])}</span>'
        f'<span class="soft">{duration(video.get("seconds"))}</span>'
        f'<span class="news soft">{escape(news)}</span></summary><div class="body"><noscript>'
        + _prompt(video)
        + _moved(moved, metrics, times)
        + f'<div class="lane"><div class="timeline" style="--n:{segments}">'
        + _strip(moved, metrics, times, pictures)
        + f'<div class="plot" data-curves="{escape(_curves(video, results, moved, times))}"></div>'
        + "</div></div>"
        + _reasons(video, metrics)
        + _numbers(video, metrics, moved, segments)
        + "</noscript></div></details>"
    )


def _prompt(video: Mapping[str, Any]) -> str:
    prompt = video.get("prompt")
    return f"<blockquote>{escape(prompt)}</blockquote>" if prompt else ""


def _moved(moved: Mapping[str, tuple[int, float]], metrics: Results, times: Sequence[str]) -> str:
    if not moved:
        return '<p class="soft">No metric leaves what it is in chunk 1 by more than it wavers.</p>'
    places = {name: i for i, name in enumerate(ordered(metrics))}
    first = sorted(moved.items(), key=lambda item: (item[1][0], places[item[0]]))
    rows = "".join(
        f'<li><span data-swatch="{places[name]}"></span>'
        f"<span>{escape(_capital(sentence(label(name, metrics), chunk, change, times)))}</span>"
        for name, (chunk, change) in first
    )
    return f'<ul class="moved">{rows}</ul>'


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _strip(
    moved: Mapping[str, tuple[int, float]],
    metrics: Results,
    times: Sequence[str],
    pictures: Sequence[bytes] | None,
) -> str:
    items = []
    for i, when in enumerate(times):
        still = '<span class="blank"></span>'
        if pictures is not None and i < len(pictures):
            data = base64.b64encode(pictures[i]).decode()
            still = f'<img src="data:image/jpeg;base64,{data}" alt="Chunk {i + 1}, {when}">'
        here = [name for name, (chunk, _) in moved.items() if chunk == i + 1]
        marks = dict.fromkeys(_mark(name, moved[name][1], metrics) for name in here)
        short = when if len(times) <= FEW else when.removesuffix(" s").removeprefix("frames ")
        items.append(f"<li>{still}<em>{i + 1}</em><span>{short}</span>{''.join(marks)}")
    return f'<ol class="strip">{"".join(items)}</ol>'


def _mark(name: str, change: float, metrics: Results) -> str:
    """A metric's name under the chunk where it moved; the same for both suites."""
    title = str(metrics[name].get("title", name))
    hue = look(name, metrics)["hue"]
    text = f"{_arrow(change)} {title[:1].lower()}{title[1:]}"
    return f'<b style="--hue:var(--c{hue})" title="{escape(text)}">{escape(text)}</b>'


def _arrow(change: float) -> str:
    return "\N{DOWNWARDS ARROW}" if change < 0 else "\N{UPWARDS ARROW}"


def _curves(
    video: Mapping[str, Any],
    results: Results,
    moved: Mapping[str, tuple[int, float]],
    times: Sequence[str],
) -> str:
    """What the script draws, metric by metric as in `ordered`."""
    names = ordered(results["metrics"])
    scores = [(video["scores"].get(name) or {}).get("chunks") for name in names]
    content = {
        "labels": list(times),
        "chunks": [None if s is None else [significant(c, 7) for c in s] for s in scores],
        "moved": [moved[name][0] - 1 if name in moved else None for name in names],
        "why": [missing_reason(video, name) for name in names],
    }
    return json.dumps(content, allow_nan=False, separators=(",", ":"), ensure_ascii=False)


def _reasons(video: Mapping[str, Any], metrics: Results) -> str:
    """What could not be measured of this video, and why."""
    rows = []
    for name in ordered(metrics):
        scores = video["scores"].get(name)
        if scores is None or scores.get("reason") or finite(scores.get("vde")) is None:
            why = escape(missing_reason(video, name))
            rows.append(f"<li>{escape(label(name, metrics))}: {why}")
    return f'<ul class="reasons note">{"".join(rows)}</ul>' if rows else ""


def _numbers(
    video: Mapping[str, Any],
    metrics: Results,
    moved: Mapping[str, tuple[int, float]],
    segments: int,
) -> str:
    head = "".join(f'<th scope="col">{i}' for i in range(1, segments + 1))
    last = ("VDE", "mean change", "WMAPE", "whole video")
    rows = []
    for name in ordered(metrics):
        scores = video["scores"].get(name)
        if scores is None:
            continue
        chunks = list(scores.get("chunks") or [None] * segments)
        cells = "".join(
            f"<td{_hit(moved, name, i)}>{_score(c)}" for i, c in enumerate(chunks, start=1)
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
        + "".join(f'<th scope="col">{text}' for text in last)
        + f"</thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _hit(moved: Mapping[str, tuple[int, float]], name: str, chunk: int) -> str:
    return ' class="hit"' if name in moved and moved[name][0] == chunk else ""


def _score(value: Any) -> str:
    x = significant(value, 5)
    return NONE if x is None else f"{x:.5g}"
