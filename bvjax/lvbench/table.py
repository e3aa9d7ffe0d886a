"""Results as tables: Markdown in the order of the paper's Table 2, and lines for a terminal."""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bvjax.lvbench.formatting import NONE, number, ordered, percent
from bvjax.lvbench.references import interpretation
from bvjax.lvbench.results import check_comparable
from bvjax.plain_text import shown

DOWN, UP = "\N{DOWNWARDS ARROW}", "\N{UPWARDS ARROW}"
MAX_REASONS = 5

Results = Mapping[str, Any]

# Names and order of Table 2's second half; the paper's tables call imaging quality image quality.
_COMPLEMENTS = {
    "subject_consistency": "Subject Consistency",
    "background_consistency": "Background Consistency",
    "motion_smoothness": "Motion Smoothness",
    "aesthetic_quality": "Aesthetic Quality",
    "imaging_quality": "Image Quality",
    "dynamic_degree": "Dynamic Degree",
}


@dataclasses.dataclass(frozen=True)
class Column:
    """One number of a metric: `aggregate[metric][part]["mean"]`."""

    title: str
    metric: str
    part: str  # "vde" or "whole"
    best: Any  # min or max; None where more of it is not better, as with motion

    @property
    def heading(self) -> str:
        return f"{self.title} {UP if self.best is max else DOWN}" if self.best else self.title

    def value(self, results: Results) -> float | None:
        return results["aggregate"].get(self.metric, {}).get(self.part, {}).get("mean")


def columns(metrics: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[Column]]]:
    """(title of a table, its columns) for the metrics that there are, none without columns.

    The published evaluator's VDE of dynamic degree, which is yes or no, is left to results.json.
    """
    names = ordered(metrics)
    tables = []
    for suite in dict.fromkeys(metrics[name]["suite"] for name in names):
        in_suite = [name for name in names if metrics[name]["suite"] == suite]
        with_drift = [n for n in in_suite if metrics[n]["better"]["vde"]]
        drift_columns = [Column(f"VDE {metrics[n]['title']}", n, "vde", min) for n in with_drift]
        whole_columns = [
            Column(title, name, "whole", max if metrics[name]["better"]["whole"] else None)
            for dimension, title in _COMPLEMENTS.items()
            for name in in_suite
            if metrics[name]["complement"] == dimension
        ]
        tables += [
            (f"Drift, suite {suite}", drift_columns),
            ("Whole videos, VBench", whole_columns),
        ]
    return [(title, columns_of_table) for title, columns_of_table in tables if columns_of_table]


def markdown(results_list: Sequence[Results]) -> list[str]:
    """Lines of Markdown: a table each for drift by suite and for VBench's numbers, a row a method.

    Of several rows the best number of a column is bold.

    Raises:
        UserError: the results do not compare (see `results.check_comparable`).
    """
    for results in results_list[1:]:
        check_comparable(results_list[0], results)
    metrics: dict[str, Any] = {}
    for results in results_list:
        metrics |= results["metrics"]
    lines: list[str] = []
    for title, table_columns in columns(metrics):
        rows = [["Method", *(column.heading for column in table_columns)]]
        best = [_best(column, results_list) for column in table_columns]
        for results in results_list:
            cells = [
                f"**{text}**" if len(results_list) > 1 and text != NONE and text == top else text
                for text, top in zip(
                    (number(c.value(results)) for c in table_columns), best, strict=True
                )
            ]
            rows.append([markdown_cell(_method(results)), *cells])
        lines += [f"### {title}", "", *markdown_rows(rows), ""]
    return [*lines, _vde_note(results_list)]


def markdown_rows(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table whose first row is its heading and whose first column is text."""
    rule = [":--", *["--:"] * (len(rows[0]) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:])]


def text(results: Results) -> list[str]:
    """Lines for a terminal: a row a metric with its interval, and what the means leave out.

    Of a single video there is neither interval nor median, and the mean is its number.
    """
    metrics, aggregate = results["metrics"], results["aggregate"]
    has_several = len(results["videos"]) > 1
    has_whole_scores = any(aggregate[name]["whole"]["mean"] is not None for name in metrics)
    head = ["", f"VDE {DOWN}", *["95 %", "median"] * has_several, "mean change"]
    rows = [head + ["whole video"] * has_whole_scores + ["videos"] * has_several]
    for name in ordered(metrics):
        drift, whole = aggregate[name]["vde"], aggregate[name]["whole"]
        arrow = f" {UP}" if metrics[name]["better"]["whole"] and whole["mean"] is not None else ""
        row = [f"{metrics[name]['title']} ({metrics[name]['suite']})", number(drift["mean"])]
        row += [interval(drift), number(drift.get("median"))] if has_several else []
        row.append(percent(aggregate[name]["vde_normalised"]["mean"]))
        row += [number(whole["mean"]) + arrow] if has_whole_scores else []
        rows.append(row + [str(drift.get("n", 0))] * has_several)
    return [
        *aligned(rows),
        "",
        _vde_note([results]),
        *interpretation(results),
        *_omission_notes(results),
    ]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text with columns below each other, the first to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column_index else cell.ljust(width)
            for column_index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def interval(summary: Mapping[str, Any]) -> str:
    """ "0.1 to 0.3" of a summary's low and high."""
    if summary.get("low") is None or summary.get("high") is None:
        return NONE
    return f"{number(summary['low'])} to {number(summary['high'])}"


def _best(column: Column, results_list: Sequence[Results]) -> str | None:
    """The best number as it is written, so that equal texts are equally bold."""
    values = [v for v in map(column.value, results_list) if v is not None]
    return number(column.best(values)) if values and column.best else None


def _videos(count: int) -> str:
    return f"{count} video{'' if count == 1 else 's'}"


def _vde_note(results_list: Sequence[Results]) -> str:
    config = results_list[0]["config"]
    counts = [_videos(len(results["videos"])) for results in results_list]
    if len(results_list) > 1:
        counts = [
            f"{c} ({markdown_cell(_method(r))})" for c, r in zip(counts, results_list, strict=True)
        ]
    return (
        f"VDE: un-normalised sum (Eq. 19) over {config['segments']} chunks with {config['weights']} "
        f"weights, {'mean over ' if counts != ['1 video'] else 'of '}{', '.join(counts)}."
    )


def _omission_notes(results: Results) -> list[str]:
    """Videos that means leave out, failed ones, and those without a prompt; long lists are cut."""
    titles_by_reason: dict[tuple[str, str], list[str]] = {}
    for name in ordered(results["metrics"]):
        title = f"{results['metrics'][name]['title']} ({results['metrics'][name]['suite']})"
        for excluded in results["aggregate"][name]["vde"].get("excluded") or ():
            titles_by_reason.setdefault((excluded["name"], excluded["reason"]), []).append(title)
    left_out = [
        f"{', '.join(titles)} of {name}: {reason}"
        for (name, reason), titles in titles_by_reason.items()
    ]
    unmatched = results.get("prompts") or {}
    lines = []
    for title, sentences in (
        ("left out of a mean VDE", left_out),
        ("without a prompt", unmatched.get("missing") or ()),
        ("prompts without a video", unmatched.get("unused") or ()),
    ):
        if sentences:
            remainder = [f"  and {len(sentences) - MAX_REASONS} more, in results.json"]
            lines += [
                f"{title}: {len(sentences)}",
                *(f"  {excluded}" for excluded in sentences[:MAX_REASONS]),
            ]
            lines += remainder if len(sentences) > MAX_REASONS else []
    return lines


def _method(results: Results) -> str:
    return str(results["config"].get("name") or "unnamed")


def markdown_cell(text: str) -> str:
    """Text that can stand in a cell of a Markdown table, and is nothing but text there."""
    text = html.escape(shown(text), quote=False)
    return " ".join(re.sub(r"([\\|`\[\]])", r"\\\1", text).split())
