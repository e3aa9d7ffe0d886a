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

ENOUGH = 6  # pairs that differ, for the signed-rank test: fewer cannot reach p < 0.05
LEVEL = 0.05
WILCOXON, SIGN = "Wilcoxon signed-rank", "sign"

Results = Mapping[str, Any]
Video = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
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
    rows: tuple[Row, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    metrics_of_one: tuple[str, ...]


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
    titled = {m: a["metrics"][m] for m in ordered({m: None for m in metrics})}
    rows = []
    for metric, about in titled.items():
        title = f"{about['title']} ({about['suite']})"
        rows.append(_row(f"VDE {title}", pairs, metric, "vde", min))
        if about["complement"]:
            directed = None if about["complement"] == "dynamic_degree" else max
            rows.append(
                _row(about["complement"].replace("_", " "), pairs, metric, "whole", directed)
            )
    names = [str(r["config"].get("name") or side) for r, side in ((a, "A"), (b, "B"))]
    return Comparison(
        names=(names[0], names[1]),
        pairs=tuple((x["name"], y["name"]) for x, y in pairs),
        rows=tuple(rows),
        only_a=tuple(v["name"] for v in only_a),
        only_b=tuple(v["name"] for v in only_b),
        metrics_of_one=tuple(sorted({*a["metrics"]} ^ {*b["metrics"]})),
    )


def significance(differences: Sequence[float]) -> tuple[float | None, str]:
    """(p, name of the test) of paired differences; None where there are none."""
    values = np.asarray(differences, np.float64)
    values = values[values != 0]
    if len(values) >= ENOUGH:
        return float(scipy.stats.wilcoxon(values).pvalue), WILCOXON
    if not len(differences):
        return None, SIGN
    if not len(values):
        return 1.0, SIGN
    return float(scipy.stats.binomtest(int((values > 0).sum()), len(values)).pvalue), SIGN


def text(found: Comparison) -> list[str]:
    """Lines for a terminal."""
    return [_intro(found), "", *aligned(_table(found)), "", *_notes(found)]


def markdown(found: Comparison) -> list[str]:
    """Lines of Markdown."""
    rows = [[markdown_cell(cell) for cell in row] for row in _table(found)]
    notes = [f"{markdown_cell(line)}  " for line in _notes(found)]
    return [markdown_cell(_intro(found)), "", *markdown_rows(rows), "", *notes]


def _row(
    title: str,
    pairs: Sequence[tuple[Video, Video]],
    metric: str,
    key: str,
    best: Callable[..., Any] | None,
) -> Row:
    values = [
        (one, other)
        for one, other in (tuple(v["scores"].get(metric, {}).get(key) for v in p) for p in pairs)
        if one is not None and other is not None
    ]
    if not values:
        return Row(title, 0, None, None, None, None, None, None, SIGN, "")
    one, other = (np.array(side, np.float64) for side in zip(*values, strict=True))
    about = intervals.difference(one, other)
    p, test = significance(one - other)
    several = len(values) > 1
    better = ""
    typical = float(np.median(one - other))  # the tests are about ranks and signs, not the mean
    if best and p < LEVEL and typical:
        better = "A" if (typical < 0) == (best is min) else "B"
    return Row(
        title=title,
        n=len(values),
        a=float(one.mean()),
        b=float(other.mean()),
        difference=about["mean"],
        low=about["low"] if several else None,
        high=about["high"] if several else None,
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
        there, theirs = {key(v): v for v in right}, Counter(map(key, right))
        ours = Counter(map(key, left))
        unique = {k for k in ours if k and ours[k] == theirs[k] == 1}
        found = [(v, there[key(v)]) for v in left if key(v) in unique]
        found = [pair for pair in found if not _other_prompt(*pair)]
        pairs += found
        taken = {id(v) for pair in found for v in pair}
        left = [v for v in left if id(v) not in taken]
        right = [v for v in right if id(v) not in taken]
    place = {id(v): place for place, v in enumerate(a)}
    return sorted(pairs, key=lambda pair: place[id(pair[0])]), left, right


def _other_prompt(one: Video, other: Video) -> bool:
    prompts = one.get("prompt"), other.get("prompt")
    return all(prompts) and prompts[0] != prompts[1]


def _no_pair(a: Sequence[Video], b: Sequence[Video]) -> str:
    names = {v["name"]: v for v in b}
    for one in a:
        other = names.get(one["name"])
        if other is not None and _other_prompt(one, other):
            return (
                f"{one['name']} shows another story in A than in B ({_start(one['prompt'])} and "
                f"{_start(other['prompt'])}), and no other videos have a prompt or name in common"
            )
    return "no video of one has a video of the other with its name or prompt"


def _start(prompt: str, length: int = 40) -> str:
    return repr(prompt if len(prompt) <= length else f"{prompt[:length].rstrip()}...")


def _s(things: Sequence[Any]) -> str:
    return "" if len(things) == 1 else "s"


def _intro(found: Comparison) -> str:
    return f"A: {found.names[0]}, B: {found.names[1]}; {len(found.pairs)} pair{_s(found.pairs)} of videos"


def _table(found: Comparison) -> list[list[str]]:
    """Returns the numbers of a single pair alone, since nothing can be said about chance."""
    several = len(found.pairs) > 1
    rows = [["", "A", "B", "A - B", *["95 %", "p", "test", "better", "pairs"] * several]]
    for row in found.rows:
        numbers = [number(row.a), number(row.b), number(row.difference)]
        between = NONE if row.low is None else f"{number(row.low)} to {number(row.high)}"
        p = NONE if row.p is None else f"{row.p:.2g}"
        chance = [between, p, row.test, row.better or NONE, str(row.n)]
        rows.append([row.title, *numbers, *chance * several])
    return rows


def _notes(found: Comparison) -> list[str]:
    lines = ["One pair: a difference may be chance, and neither is called better."]
    if len(found.pairs) > 1:
        lines = [
            f"better: where p < {LEVEL}; p is two-sided and not corrected for the "
            f"{len(found.rows)} rows."
        ]
    for name, videos in zip(found.names, (found.only_a, found.only_b), strict=True):
        if videos:
            lines.append(f"without a partner, only in {name}: {', '.join(videos)}")
    renamed = [f"{x} with {y}" for x, y in found.pairs if x != y]
    if renamed:
        lines.append(f"paired under different names: {', '.join(renamed)}")
    if found.metrics_of_one:
        lines.append(f"measured in one only: {', '.join(found.metrics_of_one)}")
    return lines
