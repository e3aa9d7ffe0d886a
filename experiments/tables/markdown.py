"""The tables as Markdown: docs/tables.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bvjax.lvbench.formatting import NONE, number
from bvjax.lvbench.table import markdown_cell, markdown_rows
from experiments.tables.measures import BY_GAP, GAPS, MEASURES, SHOWN

Content = Mapping[str, Any]

INTRODUCTION = """\
# The paper's tables in miniature

`python -m experiments.tables` makes Tables 2 to 7 of the paper over one small model, on held-out stories of
storyworld: the same stories and seeds for all rows of a table. This page is its output; the numbers are of this model
and of these stories alone, and those of the paper stand apart, marked as another model's.

- **Fine-tuned** rows begin with the same weights and have equally many updates; **as is** means the shared weights
  without them. Where a row shows the model what its training never did, nothing is concluded from it as it is.
- A story counts once, with the mean over its videos. Intervals (in brackets) are 95 % bootstrap intervals over
  stories. Differences are paired by story and tested by Wilcoxon's signed-rank test (the sign test for fewer than
  six), with Holm's correction over a table's orderings, and over its comparisons with the paper's best row.
- VDE is that of the suite `paper` (docs/lvbench.md) with ground truth for who and what is background; tenths of a
  video that do not show the subject do not count. The camera moves, so the background is compensated for it; beside
  the paper's VDE Motion, which it describes as drift in motion smoothness, stands ours.
- Recall: the judge (docs/model_card.md) looks at what was out of sight for a chunk or more, was not in frame 0, and
  whose caption gives a name alone. Species: of all subjects seen by themselves. Sharpness is a share of the rendered
  truth's; a seam is the step across a join in steps inside a chunk (1: none to be seen). Memory is
  the bank; seconds are of the denoiser, of the processor on a CPU, without the first video of a row in a process,
  which compiles."""


def document(content: Content) -> list[str]:
    """Lines of the whole page."""
    amounts, made = content["amounts"], content["provenance"]
    lines = [INTRODUCTION, ""]
    lines += [
        f"Made by `{content['command']}`: {amounts['stories']} stories of {amounts['chunks']} chunks, "
        f"{_plural(amounts['seeds'], 'seed')}, {amounts['steps'] or 'the model’s'} steps of the sampler, "
        f"{amounts['updates'] or 'no'} updates of fine-tunes; commit {made.get('commit', 'unknown')}, {made['device']}, "
        f"DiT {content['weights']['dit.safetensors'][:12]}.",
        "",
    ]
    if content["not_measured"]:
        numbers = ", ".join(map(str, content["not_measured"]))
        lines += [f"Not measured here: Tables {numbers}.", ""]
    for entry in content["tables"]:
        lines += [*section(entry), ""]
    return lines[:-1]


def section(entry: Content) -> list[str]:
    """A table: whether its rows can be told apart, what is compared, numbers, and the paper's orderings."""
    lines = [f"## Table {entry['number']}: {entry['title']}", "", entry["first"], ""]
    lines += [entry["about"], "", entry["sentence"], ""]
    lines += [*ours(entry), "", *others(entry), ""]
    if any(row["measures"][name]["n"] for row in entry["rows"] for name in BY_GAP):
        lines += [*by_gap(entry), ""]
    lines += [*published(entry), "", *notes(entry)]
    return lines


def ours(entry: Content) -> list[str]:
    """Our rows by what stands beside the paper's columns, with intervals."""
    names = [column["measure"] for column in entry["columns"]]
    return _table(entry, names, [_heading(name) for name in names])


def others(entry: Content) -> list[str]:
    """Our rows by the other measures."""
    return _table(entry, SHOWN, [_heading(name) for name in SHOWN])


def by_gap(entry: Content) -> list[str]:
    """Recall by how long a thing was out of sight."""
    heads = [f"{kind}, {gap}" for kind in ("subject", "place") for gap in GAPS]
    return ["Recall by chunks out of sight:", "", *_table(entry, BY_GAP, heads)]


def published(entry: Content) -> list[str]:
    """The paper's numbers, marked as another model's."""
    head = ["*another model’s: the paper’s*", *(column["title"] for column in entry["columns"])]
    rows = [head]
    for name in dict.fromkeys(row["name"] for row in entry["rows"]):
        values = next(row["published"] for row in entry["rows"] if row["name"] == name)
        if values:
            rows.append([markdown_cell(name), *(f"{x:.4f}" for x in values.values())])
    return markdown_rows(rows)


def notes(entry: Content) -> list[str]:
    """The sentences of a table: what can be told, what was told, which rows are missing, and what fine-tunes took."""
    lines = [f"- Smallest differences that can be told: {_smallest(entry)}"]
    told = [c for c in entry["comparisons"] if c["told"]]
    if told:
        lines.append(
            "- Beside the paper’s best row: "
            + "; ".join(
                f"{c['row']} {'more' if c['mean'] > 0 else 'less'} {MEASURES[c['measure']].title} "
                f"({number(c['mean'])}, p = {c['adjusted']:.2g})"
                for c in told
            )
            + "."
        )
    lines += _only_as_is(entry)
    if entry["not_measured"]:
        lines.append(f"- Not measured: {', '.join(entry['not_measured'])}.")
    lines += [
        f"- Fine-tune of {row['name']}, seed {leg['seed']}: {leg['updates']} updates of {leg['task']}, "
        f"{leg['seconds'] / 60:.1f} minutes."
        for row in entry["rows"]
        for leg in row["training"]
    ]
    return lines


def _only_as_is(entry: Content) -> list[str]:
    """The rows without a fine-tune, by the reason."""
    why = {row["name"]: row["not_tuned"] for row in entry["rows"] if row["not_tuned"]}
    by_reason: dict[str, list[str]] = {}
    for name, reason in why.items():
        by_reason.setdefault(reason, []).append(name)
    every = len(by_reason) == 1 and len(why) == len({row["name"] for row in entry["rows"]})
    parts = [
        f"{'all rows' if every else ', '.join(names)} ({reason})"
        for reason, names in by_reason.items()
    ]
    return [f"- Only as is: {'; '.join(parts)}."] if parts else []


def _smallest(entry: Content) -> str:
    known = {name: x for name, x in entry["smallest"].items() if x is not None}
    if not known:
        return (
            f"none, {entry['stories']} stories are too few for {entry['tests']['orderings']} and "
            f"{entry['tests']['comparisons']} tests."
        )
    parts = (f"{MEASURES[name].title} {number(x)}" for name, x in known.items())
    return f"{'; '.join(parts)} (4 times of 5, after correction)."


def _table(entry: Content, measures: Sequence[str], heads: Sequence[str]) -> list[str]:
    rows = [["row", *heads]]
    for row in entry["rows"]:
        cells = [cell(row["measures"][name]) for name in measures]
        rows.append([markdown_cell(label(row)), *cells])
    return markdown_rows(rows)


def label(row: Content) -> str:
    """A row's name with its variant, and a mark where the model never saw what it is shown."""
    mark = "" if row["familiar"] else ", never trained so"
    return f"{row['name']} ({row['variant']}{mark})"


def cell(summary: Content) -> str:
    """A mean with its interval."""
    if summary["mean"] is None:
        return NONE
    text = _short(summary["mean"])
    if summary["low"] is not None and summary["low"] != summary["high"]:
        text += f" [{_short(summary['low'])}, {_short(summary['high'])}]"
    return text


def _short(value: float) -> str:
    return f"{value:.3g}"


def _heading(name: str) -> str:
    measure = MEASURES[name]
    arrow = {min: " \N{DOWNWARDS ARROW}", max: " \N{UPWARDS ARROW}"}.get(measure.better, "")
    return f"{measure.title}{arrow}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
