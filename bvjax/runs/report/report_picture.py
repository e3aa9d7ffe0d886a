"""report.png: a strip of frames over the drift curves, the retrieval matrix and the kept tokens."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bvjax.runs.report import drawn_text

INK, FAINT = "#22313f", "#d9dfe5"
BLUE, ORANGE, GREEN, RED = "#2f6db3", "#e08a2c", "#3c9a5f", "#cf4b4b"
ROLES = {"anchor": "#f0b429", "semantic": BLUE, "recent": "#9fb8cf"}
STRIP = 15  # at most so many frames on top


def draw(
    report: dict[str, Any],
    stills: Sequence[UInt8[np.ndarray, "h w 3"]],
    title: str = "",
    subtitle: str = "",
) -> bytes:
    """A PNG of `report` (see `drift_report.report`) with one still per chunk on top.

    `title` is a person's text, cut where it is too long; `subtitle` follows it.
    """
    chunks = report["chunks"]
    x = np.array([chunk["chunk"] for chunk in chunks])
    figure = Figure(figsize=(13, 11.5), facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    _headline(figure, canvas, title or "Drift report", subtitle)
    strip, plots = figure.subfigures(2, 1, height_ratios=[1.1, 9])
    _strip(strip, stills, x)
    axes = plots.subplots(3, 2)
    limits = (x[0] - 0.6, x[-1] + 0.6)

    _curve(axes[0, 0], x, chunks, "clarity", BLUE, "Clarity", "variance of the Laplacian")
    _curve(axes[0, 1], x, chunks, "motion", GREEN, "Motion", "optical flow, pixels per frame")
    colour = np.array([chunk["colour"] for chunk in chunks])
    for channel, (name, paint) in enumerate((("red", RED), ("green", GREEN), ("blue", BLUE))):
        axes[1, 0].plot(x, colour[:, channel], color=paint, marker="o", ms=3.5, label=name)
    axes[1, 0].set_ylim(0, 255)
    _dress(axes[1, 0], "Mean colour and saturation", "grey levels 0..255")
    right = axes[1, 0].twinx()
    saturation = [chunk["saturation"] for chunk in chunks]
    right.plot(x, saturation, color=INK, ls="--", lw=1.2, label="saturation (right)")
    right.set_ylim(0, 1)
    right.spines[["top", "left", "bottom"]].set_visible(False)
    right.spines["right"].set_color(FAINT)
    right.tick_params(colors=INK, length=0, labelsize=9)
    handles = [*axes[1, 0].get_lines(), *right.get_lines()]
    right.legend(handles=handles, ncols=4, fontsize=8, frameon=False, loc="upper right")

    _curve(axes[1, 1], x, chunks, "seam", ORANGE, "Seam score", "across the join / inside")
    axes[1, 1].axhline(1.0, color=INK, lw=0.8, ls=":")
    draw_retrieval(axes[2, 0], x, chunks)
    _kept(figure, axes[2, 1], x, chunks)
    for axis in axes.flat:
        axis.set_xlim(*limits)
        axis.set_xticks(x if len(x) <= 20 else x[:: -(-len(x) // 15)])
    for axis in axes[2]:
        axis.set_xlabel("chunk", color=INK, fontsize=9)
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _headline(figure: Figure, canvas: FigureCanvasAgg, title: str, subtitle: str) -> None:
    text, families, undrawable = drawn_text.drawable(title)
    if undrawable:
        logging.info(
            "no installed font has %d characters of the title (%s): the picture shows %s for them",
            len(undrawable),
            " ".join(f"U+{ord(c):04X}" for c in undrawable[:5]),
            drawn_text.REPLACEMENT,
        )
    drawn = figure.suptitle(
        text, fontsize=15, color=INK, x=0.015, ha="left", family=families,
        parse_math=False,  # a dollar is a dollar
    )  # fmt: skip
    drawn_text.shorten(
        drawn, canvas, 0.97 * figure.bbox.width, subtitle and f"  \u00b7  {subtitle}"
    )


def _strip(figure, stills: Sequence[np.ndarray], x: np.ndarray) -> None:
    shown = np.unique(np.linspace(0, len(stills) - 1, min(STRIP, len(stills))).round().astype(int))
    axes = np.atleast_1d(figure.subplots(1, len(shown), gridspec_kw={"wspace": 0.02}))
    for axis, index in zip(axes, shown, strict=True):
        axis.imshow(stills[index], interpolation="lanczos")
        axis.set_xlabel(f"{x[index]}", fontsize=8, color=INK, labelpad=2)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)


def _dress(axis: Axes, title: str, unit: str) -> None:
    axis.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")
    axis.set_ylabel(unit, fontsize=9, color=INK)
    axis.grid(axis="y", color=FAINT, lw=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(FAINT)
    axis.tick_params(colors=INK, length=0, labelsize=9)


def _curve(axis: Axes, x, chunks, key: str, paint: str, title: str, unit: str) -> None:
    y = np.array([np.nan if chunk[key] is None else chunk[key] for chunk in chunks], float)
    axis.plot(x, y, color=paint, marker="o", ms=4)
    if np.isfinite(y).any():
        axis.axhline(y[np.isfinite(y)][0], color=paint, lw=0.8, ls="--", alpha=0.6)
        axis.set_ylim(0, 1.15 * max(float(np.nanmax(y)), 1e-6))
    _dress(axis, title, unit)


def draw_retrieval(axis: Axes, x, chunks) -> None:
    """A square per (chunk, past chunk it attended to), coloured by why it was chosen."""
    first = min([e["chunk"] for c in chunks for e in c.get("retrieved", [])], default=0)
    grid = np.full((x[-1] - first + 1, x[-1] - x[0] + 1), np.nan)
    for chunk in chunks:
        for entry in chunk.get("retrieved", []):
            grid[entry["chunk"] - first, chunk["chunk"] - x[0]] = list(ROLES).index(entry["role"])
    axis.pcolormesh(
        np.arange(x[0] - 0.5, x[-1] + 1), np.arange(first - 0.5, x[-1] + 1), grid, vmin=0,
        vmax=len(ROLES) - 1, cmap=ListedColormap(list(ROLES.values())), edgecolors="white", lw=1.0,
    )  # fmt: skip
    _dress(axis, "What each chunk looked back at", "past chunk (0 = first frame)")
    axis.grid(False)
    patches = [Patch(color=paint, label=role) for role, paint in ROLES.items()]
    axis.legend(handles=patches, fontsize=8, frameon=False, loc="upper left")


def _kept(figure: Figure, axis: Axes, x, chunks) -> None:
    rows = [chunk.get("kept_ratio") or [np.nan] for chunk in chunks]
    grid = np.array(rows, float).T
    extent = (x[0] - 0.5, x[-1] + 0.5, -0.5, len(grid) - 0.5)
    image = axis.imshow(
        grid,
        origin="lower",
        aspect="auto",
        extent=extent,
        vmin=0,
        vmax=1,
        cmap="viridis",
        interpolation="nearest",
    )
    _dress(axis, "Share of tokens kept in the bank", "layer")
    axis.set_yticks(range(len(grid)) if len(grid) <= 12 else range(0, len(grid), 5))
    axis.grid(False)
    figure.colorbar(image, ax=axis, pad=0.01, fraction=0.04)
