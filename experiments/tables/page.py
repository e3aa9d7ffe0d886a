"""The tables as one page of HTML that loads nothing: numbers with intervals drawn beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bvjax.lvbench.formatting import escape, number
from experiments.tables.markdown import cell, label
from experiments.tables.measures import BY_GAP, MEASURES, SHOWN

Content = Mapping[str, Any]

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1c2330 }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #d8dde6; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
caption { text-align: left; font-weight: 600; padding: .3rem 0 }
.first { font-size: 1.1rem; font-weight: 600 }
.other { background: #f4f1ea; color: #5c5648 }
svg { vertical-align: middle; margin-left: .4rem }
details { margin: .6rem 0 }
@media (prefers-color-scheme: dark) { body { background: #14181f; color: #dde3ee } th, td { border-color: #333c4a }
  .other { background: #26231c; color: #c9c0aa } }
"""
WIDTH, HEIGHT = 90, 12  # of an interval, pixels


def html(content: Content) -> str:
    """The page, the same for the same content."""
    amounts, made = content["amounts"], content["provenance"]
    facts = (
        f"{amounts['stories']} stories of {amounts['chunks']} chunks, seeds: {amounts['seeds']}, updates of fine-tunes: "
        f"{amounts['updates']}; commit {made.get('commit', 'unknown')}, {made['device']}"
    )
    if content["not_measured"]:
        facts += f"; not measured here: Tables {', '.join(map(str, content['not_measured']))}"
    sections = "\n".join(map(section, content["tables"])) or "<p>No table has results yet.</p>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>The paper's tables in miniature</title><style>{STYLE}</style></head><body>"
        f"<h1>The paper's tables in miniature</h1><p>{escape(facts)}</p>"
        f"<p><code>{escape(content['command'])}</code></p>{sections}</body></html>\n"
    )


def section(entry: Content) -> str:
    """A table of the page."""
    names = [column["measure"] for column in entry["columns"]]
    gaps = any(row["measures"][name]["n"] for row in entry["rows"] for name in BY_GAP)
    parts = [
        f"<section><h2>Table {entry['number']}: {escape(entry['title'])}</h2>",
        f'<p class="first">{escape(entry["first"])}</p>',
        f"<p>{escape(entry['about'])}</p><p>{escape(entry['sentence'])}</p>",
        measured(entry, "Beside the paper's columns", names),
        published(entry),
        measured(entry, "Other measures", SHOWN),
        measured(entry, "Recall by chunks out of sight", BY_GAP) if gaps else "",
        measured(entry, "All VDEs", [name for name in MEASURES if name.startswith("vde/")]),
        orderings(entry),
        compared(entry),
        "</section>",
    ]
    return "".join(parts)


def measured(entry: Content, caption: str, names: Sequence[str]) -> str:
    """Our rows by some measures: means, and intervals drawn to one scale a column."""
    heads = "".join(f"<th>{escape(MEASURES[name].title)}</th>" for name in names)
    body = ""
    for row in entry["rows"]:
        cells = "".join(
            f"<td>{escape(cell(row['measures'][name]))}{interval(entry, row, name)}</td>"
            for name in names
        )
        body += f"<tr><td>{escape(label(row))}</td>{cells}</tr>"
    return f"<table><caption>{escape(caption)}</caption><tr><th>row</th>{heads}</tr>{body}</table>"


def interval(entry: Content, row: Content, name: str) -> str:
    """An interval and its mean as a small drawing; "" where there is none."""
    entries = [other["measures"][name] for other in entry["rows"]]
    ends = [e[key] for e in entries for key in ("low", "high") if e[key] is not None]
    own = row["measures"][name]
    if own["low"] is None or not ends or max(ends) == min(ends):
        return ""
    scale = (WIDTH - 6) / (max(ends) - min(ends))
    low, mean, high = (3 + scale * (own[key] - min(ends)) for key in ("low", "mean", "high"))
    middle = HEIGHT / 2
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="95 % interval"><path d="M{low:.1f} {middle}'
        f'H{high:.1f}" stroke="currentColor"/><circle cx="{mean:.1f}" cy="{middle}" r="2.5" fill="currentColor"/></svg>'
    )


def published(entry: Content) -> str:
    """The paper's numbers."""
    heads = "".join(f"<th>{escape(column['title'])}</th>" for column in entry["columns"])
    values = {row["name"]: row["published"] for row in entry["rows"] if row["published"]}
    body = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(f'<td>{x:.4f}</td>' for x in numbers.values())}</tr>"
        for name, numbers in values.items()
    )
    return (
        '<table class="other"><caption>Another model’s: the paper’s numbers</caption>'
        f"<tr><th>row</th>{heads}</tr>{body}</table>"
    )


def orderings(entry: Content) -> str:
    """Each ordering of the paper with its verdict."""
    rows = "".join(
        f"<tr><td>{escape(o['first'])} before {escape(o['second'])}</td><td>{escape(o['column'])}</td>"
        f"<td>{escape(o['verdict'])}</td>{_difference(o['difference'])}</tr>"
        for o in entry["orderings"]
    )
    summary = f"The paper's {len(entry['orderings'])} orderings"
    return _details(summary, ("ordering", "column", "here"), rows)


def compared(entry: Content) -> str:
    """Each comparison with the paper's best row, and the smallest difference that can be told."""
    rows = "".join(
        f"<tr><td>{escape(c['row'])}</td><td>{escape(MEASURES[c['measure']].title)}</td>"
        f"<td>{number(entry['smallest'][c['measure']])}</td>{_difference(c)}</tr>"
        for c in entry["comparisons"]
    )
    summary = f"{len(entry['comparisons'])} differences from {escape(entry['ours'])}"
    return _details(summary, ("row", "measure", "smallest that can be told"), rows)


def _details(summary: str, heads: Sequence[str], rows: str) -> str:
    """A table that ends with the columns of `_difference`, behind its summary."""
    columns = (*heads, "difference", "95 %", "p, corrected", "stories")
    line = "".join(f"<th>{column}</th>" for column in columns)
    return f"<details><summary>{summary}</summary><table><tr>{line}</tr>{rows}</table></details>"


def _difference(difference: Content | None) -> str:
    if difference is None:
        return "<td></td>" * 4
    ends = f"{number(difference['low'])} to {number(difference['high'])}"
    return (
        f"<td>{number(difference['mean'])}</td><td>{ends}</td><td>{number(difference['adjusted'])}</td>"
        f"<td>{difference['n']}</td>"
    )
