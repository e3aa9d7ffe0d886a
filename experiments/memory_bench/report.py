"""Tables (Markdown, JSON) and plots (PNG) of what was measured."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bvjax.errors import UserError
from bvjax.files import read_text, write_atomic
from bvjax.runs.report.report_picture import BLUE, FAINT, GREEN, INK, ORANGE
from experiments.evaluation.results import Results
from experiments.evaluation.table import markdown
from experiments.memory_bench.axes import AXES
from experiments.memory_bench.running import TRUE

COLUMNS = {
    "subject": "subject: species and colour",
    "place": "place",
    "hit": "introduction in the context",
    "kept": "introduction in the bank",
    "met": "subject when it was met",
    "same subject": "subject as introduced",
    "same place": "place as introduced",
}
LINES = {"subject": BLUE, "place": ORANGE, "hit": GREEN}
DASHES, MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "v")
WIDTH = 3  # plots side by side
Row = Mapping[str, Any]


def write_report(out: Path, results: Results) -> list[Path]:
    """Writes report.md, report.json and report.MODE.png of a results folder; returns their paths.

    Raises `UserError` where nothing is measured yet.
    """
    parts = {name: part["result"] for name, part in results.parts.items() if name in TITLES}
    if not parts:
        raise UserError(f"{out} has no results of the memory benchmark")
    try:
        text = "\n\n".join(
            f"### {TITLES[name]}\n\n{table(part)}\n\n{_about(results.parts[name])}"
            for name, part in parts.items()
        )
        pictures = {f"report.{name}.png": draw(part, TITLES[name]) for name, part in parts.items()}
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{results.path} is not what this benchmark writes: {error}") from None
    files = {
        "report.md": f"{text}\n".encode(),
        "report.json": (json.dumps(parts, indent=1) + "\n").encode(),
        **pictures,
    }
    for name, content in files.items():
        write_atomic(out / name, content)
    return [out / name for name in files]


def write_page(page: Path, out: Path, results: Results) -> None:
    """Puts the report into a page of Markdown, between its lines BEGIN and END, and the plots beside it.

    Raises `UserError` for a page that does not have them.
    """
    text = read_text(page)
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        raise UserError(f"{page} has no lines {BEGIN} and {END}, between which the report goes")
    body = [read_text(out / "report.md").strip()]
    for name in TITLES:
        source, target = out / f"report.{name}.png", f"{page.stem}.{name}.png"
        if name in results.parts:
            body.append(f"![{TITLES[name]}]({target})")
            write_atomic(page.parent / target, source.read_bytes())
    inside = "\n\n".join(body)
    write_atomic(page, f"{head}{begin}\n\n{inside}\n\n{end}{tail}".encode())


BEGIN, END = "<!-- memory_bench -->", "<!-- end -->"
TITLES = {
    "given": "Mode given: after a true past",
    "self": "Mode self: whole videos",
    "videos": "Videos made elsewhere",
}


def table(result: Mapping[str, Any]) -> str:
    """A line for each point, with the rates that were measured anywhere."""
    rows: Sequence[Row] = result["points"]
    columns = [name for name in COLUMNS if any(row[name]["n"] for row in rows)]
    cells = lambda scores: [*(_percent(scores[name]) for name in columns), str(_count(scores))]
    lines = [[_axis(row), _value(row), *cells(row)] for row in sorted(rows, key=_order)]
    if result.get(TRUE):
        lines.append(["*true chunk*", "through the VAE", *cells(result[TRUE])])
    chance = {"subject": result["chance"]["both"], "place": result["chance"]["place"]}
    known = [f"{100 * chance[name]:.1f} %" if name in chance else "" for name in columns]
    lines.append(["*chance*", "", *known, ""])
    return markdown(["axis", "value", *(COLUMNS[name] for name in columns), "n"], lines)


def draw(result: Mapping[str, Any], title: str) -> bytes:
    """A PNG with a plot for each axis that has points; bars are 95 % intervals, dots chance."""
    rows: Sequence[Row] = result["points"]
    axes = [axis for axis in AXES if any(row["axis"] == axis for row in rows)]
    height = max(1, -(-len(axes) // WIDTH))
    figure = Figure(
        figsize=(5 * WIDTH, 3.4 * height + 0.6), facecolor="white", layout="constrained"
    )
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title, color=INK)
    for place, axis in enumerate(axes, start=1):
        plot = figure.add_subplot(height, WIDTH, place)
        _plot(plot, axis, [row for row in rows if row["axis"] == axis], result["chance"])
    lines = [plot.get_legend_handles_labels() for plot in figure.axes]
    legend = {
        label: line for drawn, labels in lines for line, label in zip(drawn, labels, strict=True)
    }
    figure.legend(
        [*legend.values()], [*legend], loc="outside lower center", ncols=len(LINES), frameon=False
    )
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()


def _plot(plot: Axes, axis: str, rows: Sequence[Row], chance: Mapping[str, float]) -> None:
    values = [value for value in AXES[axis].values if any(row["value"] == value for row in rows)]
    series = list(dict.fromkeys(row["series"] for row in rows))
    for (name, colour), dash in ((line, d) for d in range(len(series)) for line in LINES.items()):
        points = [row for row in rows if row["series"] == series[dash] and row[name]["n"]]
        if not points:
            continue
        shift = 0.06 * (list(LINES).index(name) - 1) + 0.03 * dash
        x = [values.index(row["value"]) + shift for row in points]
        y = [100 * row[name]["rate"] for row in points]
        error = [
            [max(0.0, 100 * (row[name]["rate"] - row[name]["low"])) for row in points],
            [max(0.0, 100 * (row[name]["high"] - row[name]["rate"])) for row in points],
        ]
        label = ", ".join(part for part in (_LABELS[name], series[dash]) if part)
        style = "" if isinstance(values[0], str) else DASHES[dash % len(DASHES)]
        plot.errorbar(
            x, y, error, color=colour, marker=MARKERS[dash % len(MARKERS)], markersize=4,
            linestyle=style, linewidth=1.2, elinewidth=0.8, capsize=2, label=label,
        )  # fmt: skip
    for name, of in (("subject", "both"), ("place", "place")):
        plot.axhline(100 * chance[of], color=LINES[name], linestyle=":", linewidth=0.8)
    plot.set_xticks(range(len(values)), [str(value) for value in values])
    plot.set_ylim(-4, 104)
    plot.set_ylabel("%", color=INK)
    plot.set_xlabel(AXES[axis].label, color=INK)
    plot.grid(axis="y", color=FAINT, linewidth=0.6)


_LABELS = {"subject": "subject", "place": "place", "hit": "in context"}


def _percent(rate: Mapping[str, Any]) -> str:
    """ "75 % (30-95)"; a dash where nothing was asked."""
    if rate["rate"] is None:
        return "-"
    return f"{100 * rate['rate']:.0f} % ({100 * rate['low']:.0f}-{100 * rate['high']:.0f})"


def _count(scores: Row) -> int:
    return scores["subject"]["n"]


def _axis(row: Row) -> str:
    return f"{row['axis']}, {row['series']}" if row["series"] else row["axis"]


def _value(row: Row) -> str:
    value = row["value"]
    return f"{100 * value:g} %" if row["axis"] == "capacity" else str(value)


def _order(row: Row) -> tuple[int, str]:
    return list(AXES).index(row["axis"]), row["series"]


def _about(part: Mapping[str, Any]) -> str:
    made = part["provenance"]
    return f"`{made['command']}`, commit {made.get('commit', 'unknown')}, {made['device']}"
