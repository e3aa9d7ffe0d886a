"""Props of places: trees, lamps, mottled ground, and their spacing."""

from __future__ import annotations

import numpy as np

from data_pipelines.storyworld.shapes import Canvas, soft_noise


def spread(
    canvas: Canvas, rng: np.random.Generator, gap: float, jitter: float = 0.35
) -> np.ndarray:
    """Positions along the whole canvas, about `gap` apart."""
    lo, hi = float(canvas.x[0, 0]), float(canvas.x[0, -1])
    count = max(int(round((hi - lo) / gap)), 1)
    return lo + (np.arange(count) + 0.5 + rng.uniform(-jitter, jitter, count)) * (hi - lo) / count


def texture(
    canvas: Canvas, rng, strength: float, cell_x: float = 0.16, cell_y: float = 0.05
) -> None:
    """Soft mottling, broad enough to survive 64 pixels."""
    noise = soft_noise(canvas.x, canvas.y, cell_x, cell_y, rng)
    fine = soft_noise(canvas.x, canvas.y, cell_x * 0.35, cell_y * 0.5, rng)
    canvas.tone(strength * (noise + 0.5 * fine))


def lamp(c: Canvas) -> tuple[float, float, float]:
    """Colour of a lit window or bulb: warm cream by day, warmer and brighter when it is dark."""
    dark = c.lamps - 1.0
    return (0.98 * c.lamps, 0.88 * c.lamps * (1 - 0.12 * dark), 0.60 * c.lamps * (1 - 0.4 * dark))


def pine(c: Canvas, x: float, foot: float, size: float, colour, snow: bool = False) -> None:
    """A fir of three tiers."""
    c.rect(x - 0.035 * size, foot - 0.2 * size, x + 0.035 * size, foot, (0.36, 0.25, 0.18))
    for i, (low, half) in enumerate(((0.12, 0.30), (0.38, 0.24), (0.62, 0.17))):
        y = foot - low * size
        points = ((x - half * size, y), (x + half * size, y), (x, y - 0.42 * size))
        tone = 0.9 + 0.12 * i
        c.polygon(points, tuple(np.array(colour) * tone), radius=0.02 * size, gradient=0.18)
        if snow:
            cap = tuple(
                (x + 0.55 * (px - x), y - 0.42 * size + 0.55 * (py - y + 0.42 * size))
                for px, py in points
            )
            c.polygon(cap, (0.95, 0.97, 1.0), radius=0.015 * size)


def round_tree(c: Canvas, x: float, foot: float, size: float, colour) -> None:
    """A broad-leaved tree: trunk and three soft balls."""
    c.capsule(x, foot, x, foot - 0.4 * size, 0.05 * size, 0.035 * size, (0.42, 0.29, 0.20))
    for dx, dy, r in ((-0.17, 0.50, 0.22), (0.17, 0.52, 0.21), (0.0, 0.68, 0.26)):
        c.ellipse(x + dx * size, foot - dy * size, r * size, r * size * 0.9, colour, gradient=0.22)
