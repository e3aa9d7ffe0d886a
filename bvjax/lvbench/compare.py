"""Two evaluations of the same videos or prompts, pair by pair.

Each metric's drift, and its whole score where VBench has one, is compared over the videos that both
evaluations measured: the mean difference A - B with a bootstrap interval, and how likely a difference
like it is by chance.  With at least six pairs that differ that is Wilcoxon's signed-rank test, with
fewer the sign test, which with fewer than six can never fall below 5 %.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from bvjax.errors import UserError
from bvjax.lvbench import intervals
from bvjax.lvbench.formatting import NONE, number, ordered
from bvjax.lvbench.results import check_comparable
from bvjax.lvbench.table import aligned, markdown_cell, markdown_rows

MIN_WILCOXON_PAIRS = 6  # pairs that differ, for the signed-rank test: fewer cannot reach p < 0.05
SIGNIFICANCE_LEVEL = 0.05
WILCOXON, SIGN = "Wilcoxon signed-rank", "sign"

Results = Mapping[str, Any]
Video = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class ComparisonRow:
    """One quantity of one metric over the pairs that have it; numbers are None without pairs.

    a, b: means, all videos alike. difference, low, high: of a - b, with its 95 % interval (two pairs at least).
    p: two-sided, by `test`; not corrected for the number of rows. better: which is, "A" or "B",
    where the difference is not chance (p < 0.05) and the metric has a direction.
    """

    title: str
    n: int
    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    test: str
    better: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Rows in the order of Table 2, how the videos were paired, and what had no partner."""

    names: tuple[str, str]
    pairs: tuple[tuple[str, str], ...]
    rows: tuple[ComparisonRow, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    unshared_metrics: tuple[str, ...]


def compare(a: Results, b: Results) -> Comparison:
    """Compares two results.

    Videos are paired by prompt, then by name, then by name without its suffix, where these tell one
    from another; never two whose prompts differ.

    Raises:
        UserError: they do not compare (`results.check_comparable`), or no video has a partner.
    """
    metrics = check_comparable(a, b)
    pairs, only_a, only_b = _pairs(a["videos"], b["videos"])
    if not pairs:
        raise UserError(_no_pair(a["videos"], b["videos"]))
    metrics_in_order = {m: a["metrics"][m] for m in ordered({m: None for m in metrics})}
    rows = []
    for metric, metadata in metrics_in_order.items():
        title = f"{metadata['title']} ({metadata['suite']})"
        rows.append(_row(f"VDE {title}", pairs, metric, "vde", min))
        if metadata["complement"]:
            best = None if metadata["complement"] == "dynamic_degree" else max
            rows.append(
                _row(metadata["complement"].replace("_", " "), pairs, metric, "whole", best)
            )
    names = [str(r["config"].get("name") or side) for r, side in ((a, "A"), (b, "B"))]
    return Comparison(
        names=(names[0], names[1]),
        pairs=tuple((x["name"], y["name"]) for x, y in pairs),
        rows=tuple(rows),
        only_a=tuple(v["name"] for v in only_a),
        only_b=tuple(v["name"] for v in only_b),
        unshared_metrics=tuple(sorted({*a["metrics"]} ^ {*b["metrics"]})),
    )


def significance(differences: Sequence[float]) -> tuple[float | None, str]:
    """(p, name of the test) of paired differences; None where there are none."""
    values = np.asarray(differences, np.float64)
    values = values[values != 0]
    if len(values) >= MIN_WILCOXON_PAIRS:
        return float(scipy.stats.wilcoxon(values).pvalue), WILCOXON
    if not len(differences):
        return None, SIGN
    if not len(values):
        return 1.0, SIGN
    return float(scipy.stats.binomtest(int((values > 0).sum()), len(values)).pvalue), SIGN


def text(comparison: Comparison) -> list[str]:
    """Lines for a terminal."""
    return [_intro(comparison), "", *aligned(_table(comparison)), "", *_notes(comparison)]


def markdown(comparison: Comparison) -> list[str]:
    """Lines of Markdown."""
    rows = [[markdown_cell(cell) for cell in row] for row in _table(comparison)]
    notes = [f"{markdown_cell(line)}  " for line in _notes(comparison)]
    return [markdown_cell(_intro(comparison)), "", *markdown_rows(rows), "", *notes]


def _row(
    title: str,
    pairs: Sequence[tuple[Video, Video]],
    metric: str,
    key: str,
    best: Callable[..., Any] | None,
) -> ComparisonRow:
    values = [
        (values_a, values_b)
        for values_a, values_b in (
            tuple(v["scores"].get(metric, {}).get(key) for v in p) for p in pairs
        )
        if values_a is not None and values_b is not None
    ]
    if not values:
        return ComparisonRow(title, 0, None, None, None, None, None, None, SIGN, "")
    values_a, values_b = (np.array(side, np.float64) for side in zip(*values, strict=True))
    interval = intervals.difference(values_a, values_b)
    p, test = significance(values_a - values_b)
    has_interval = len(values) > 1
    better = ""
    median = float(
        np.median(values_a - values_b)
    )  # the tests are about ranks and signs, not the mean
    if best and p < SIGNIFICANCE_LEVEL and median:
        better = "A" if (median < 0) == (best is min) else "B"
    return ComparisonRow(
        title=title,
        n=len(values),
        a=float(values_a.mean()),
        b=float(values_b.mean()),
        difference=interval["mean"],
        low=interval["low"] if has_interval else None,
        high=interval["high"] if has_interval else None,
        p=p,
        test=test,
        better=better,
    )


def _pairs(
    a: Sequence[Video], b: Sequence[Video]
) -> tuple[list[tuple[Video, Video]], list[Video], list[Video]]:
    """(pairs, what is left of a, what is left of b)."""
    keys: tuple[Callable[[Video], Hashable], ...] = (
        lambda v: v.get("prompt"),
        lambda v: v["name"],
        lambda v: str(pathlib.PurePosixPath(v["name"]).with_suffix("")),
    )
    left, right, pairs = list(a), list(b), []
    for key in keys:
        right_by_key, right_counts = {key(v): v for v in right}, Counter(map(key, right))
        left_counts = Counter(map(key, left))
        unique = {k for k in left_counts if k and left_counts[k] == right_counts[k] == 1}
        matches = [(v, right_by_key[key(v)]) for v in left if key(v) in unique]
        matches = [pair for pair in matches if not _prompts_differ(*pair)]
        pairs += matches
        matched = {id(v) for pair in matches for v in pair}
        left = [v for v in left if id(v) not in matched]
        right = [v for v in right if id(v) not in matched]
    position = {id(v): position for position, v in enumerate(a)}
    return sorted(pairs, key=lambda pair: position[id(pair[0])]), left, right


def _prompts_differ(a: Video, b: Video) -> bool:
    prompts = a.get("prompt"), b.get("prompt")
    return all(prompts) and prompts[0] != prompts[1]


def _no_pair(a: Sequence[Video], b: Sequence[Video]) -> str:
    names = {v["name"]: v for v in b}
    for video_a in a:
        video_b = names.get(video_a["name"])
        if video_b is not None and _prompts_differ(video_a, video_b):
            return (
                f"{video_a['name']} shows another story in A than in B ({_start(video_a['prompt'])} and "
                f"{_start(video_b['prompt'])}), and no other videos have a prompt or name in common"
            )
    return "no video of one has a video of the other with its name or prompt"


def _start(prompt: str, length: int = 40) -> str:
    return repr(prompt if len(prompt) <= length else f"{prompt[:length].rstrip()}...")


def _plural_s(items: Sequence[Any]) -> str:
    return "" if len(items) == 1 else "s"


def _intro(comparison: Comparison) -> str:
    (a, b), pairs = comparison.names, comparison.pairs
    return f"A: {a}, B: {b}; {len(pairs)} pair{_plural_s(pairs)} of videos"


def _table(comparison: Comparison) -> list[list[str]]:
    """Returns the numbers of a single pair alone, since nothing can be said about chance."""
    has_pairs = len(comparison.pairs) > 1
    rows = [["", "A", "B", "A - B", *["95 %", "p", "test", "better", "pairs"] * has_pairs]]
    for row in comparison.rows:
        numbers = [number(row.a), number(row.b), number(row.difference)]
        interval = NONE if row.low is None else f"{number(row.low)} to {number(row.high)}"
        p = NONE if row.p is None else f"{row.p:.2g}"
        statistics = [interval, p, row.test, row.better or NONE, str(row.n)]
        rows.append([row.title, *numbers, *statistics * has_pairs])
    return rows


def _notes(comparison: Comparison) -> list[str]:
    lines = ["One pair: a difference may be chance, and neither is called better."]
    if len(comparison.pairs) > 1:
        lines = [
            f"better: where p < {SIGNIFICANCE_LEVEL}; p is two-sided and not corrected for the "
            f"{len(comparison.rows)} rows."
        ]
    for name, videos in zip(comparison.names, (comparison.only_a, comparison.only_b), strict=True):
        if videos:
            lines.append(f"without a partner, only in {name}: {', '.join(videos)}")
    renamed = [f"{x} with {y}" for x, y in comparison.pairs if x != y]
    if renamed:
        lines.append(f"paired under different names: {', '.join(renamed)}")
    if comparison.unshared_metrics:
        lines.append(f"measured in one only: {', '.join(comparison.unshared_metrics)}")
    return lines
