"""Antialiased painting of soft shapes with signed distances on a premultiplied RGBA canvas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Colour = Sequence[float]


def smoothstep(lo: float, hi: float, value):
    """Cubic ramp from 0 at `lo` to 1 at `hi`; works on numbers and on arrays."""
    t = np.minimum(np.maximum((value - lo) / (hi - lo), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


def ellipse_distance(x, y, cx: float, cy: float, rx: float, ry: float, angle: float = 0.0):
    """Signed distance (first order, exact on the outline) to a rotated ellipse."""
    dx, dy = x - cx, y - cy
    if angle:
        c, s = np.cos(angle), np.sin(angle)
        dx, dy = c * dx + s * dy, c * dy - s * dx
    qx, qy = dx / rx, dy / ry
    norm = np.sqrt(qx * qx + qy * qy) + 1e-6
    slope = np.sqrt((qx / rx) ** 2 + (qy / ry) ** 2) + 1e-6
    return norm * (norm - 1.0) / slope


def capsule_distance(x, y, x0: float, y0: float, x1: float, y1: float, r0: float, r1: float):
    """Signed distance to a segment whose radius goes from r0 to r1."""
    ax, ay = x1 - x0, y1 - y0
    px, py = x - x0, y - y0
    t = np.minimum(np.maximum((px * ax + py * ay) / (ax * ax + ay * ay + 1e-9), 0.0), 1.0)
    gap = np.sqrt((px - t * ax) ** 2 + (py - t * ay) ** 2)
    return gap - (r0 + (r1 - r0) * t)


def polygon_distance(x, y, points: Sequence[tuple[float, float]]):
    """Exact signed distance to a simple polygon (crossing rule for the sign)."""
    ends = np.asarray(points, np.float32)
    x0, y0 = ends[:, 0, None, None], ends[:, 1, None, None]
    ex, ey = np.roll(x0, -1, 0) - x0, np.roll(y0, -1, 0) - y0
    px, py = x - x0, y - y0  # [edge, 1, w], [edge, h, 1]
    t = np.minimum(np.maximum((px * ex + py * ey) / (ex * ex + ey * ey + 1e-12), 0.0), 1.0)
    gap = (px - t * ex) ** 2 + (py - t * ey) ** 2
    cross = ((py < 0) != (py < ey)) & (px < ex * py / np.where(ey == 0, 1.0, ey))
    sign = np.where(cross.sum(0) % 2 == 1, np.float32(-1.0), np.float32(1.0))
    return sign * np.sqrt(gap.min(0))


class Canvas:
    """RGBA float32, premultiplied, with its own coordinates (x right, y down).

    lamps: how much brighter than its colour a light source is painted (1 by day); what exceeds 1 is
    cut when the picture is graded.
    """

    def __init__(self, x0: float, y0: float, step: float, height: int, width: int, lamps=1.0):
        self.step = step
        self.rgba: Float[np.ndarray, "h w 4"] = np.zeros((height, width, 4), np.float32)
        self.x = (x0 + (np.arange(width, dtype=np.float32) + 0.5) * step)[None, :]
        self.y = (y0 + (np.arange(height, dtype=np.float32) + 0.5) * step)[:, None]
        self.x0, self.y0 = x0, y0
        self.lamps = lamps

    def window(self, x0: float, y0: float, x1: float, y1: float) -> tuple[slice, slice] | None:
        """Row and column slices that cover a box with a margin, or None where it is off canvas."""
        height, width = self.rgba.shape[:2]
        c0 = max(int((x0 - self.x0) / self.step) - 2, 0)
        c1 = min(int((x1 - self.x0) / self.step) + 3, width)
        r0 = max(int((y0 - self.y0) / self.step) - 2, 0)
        r1 = min(int((y1 - self.y0) / self.step) + 3, height)
        return (slice(r0, r1), slice(c0, c1)) if r0 < r1 and c0 < c1 else None

    def blend(self, where: tuple[slice, slice], alpha, rgb) -> None:
        """Paint `rgb` (broadcastable to [h, w, 3]) with coverage `alpha` [h, w] in a window."""
        region = self.rgba[where]
        alpha = alpha[..., None]
        region *= 1.0 - alpha
        region[..., :3] += rgb * alpha
        region[..., 3:] += alpha

    def _fill(self, where, distance, box, colour, gradient, rim, opacity, soft) -> None:
        alpha = 0.5 - distance / np.float32(max(self.step, soft))
        alpha = np.minimum(np.maximum(alpha, 0.0), 1.0) * np.float32(opacity)
        rgb = np.asarray(colour, np.float32)
        if gradient:
            middle, half = 0.5 * (box[1] + box[3]), 0.5 * (box[3] - box[1]) + 1e-6
            high = np.minimum(np.maximum((middle - self.y[where[0]]) / half, -1.0), 1.0)
            rgb = rgb * (1.0 + np.float32(gradient) * high)[..., None]
        if rim:
            edge = smoothstep(-rim, 0.3 * rim, distance)
            rgb = rgb * (1.0 - np.float32(0.45) * edge)[..., None]
        self.blend(where, alpha, rgb)

    def ellipse(
        self, cx, cy, rx, ry, colour, *, angle=0.0, gradient=0.0, rim=0.0, opacity=1.0, soft=0.0
    ) -> None:
        """A filled ellipse; `rim` darkens an edge of that width, `soft` blurs the outline."""
        c, s = abs(np.cos(angle)), abs(np.sin(angle))
        hx, hy = np.hypot(rx * c, ry * s) + soft, np.hypot(rx * s, ry * c) + soft
        box = (cx - hx, cy - hy, cx + hx, cy + hy)
        if (where := self.window(*box)) is not None:
            d = ellipse_distance(self.x[:, where[1]], self.y[where[0]], cx, cy, rx, ry, angle)
            self._fill(where, d, box, colour, gradient, rim, opacity, soft)

    def capsule(
        self, x0, y0, x1, y1, r0, r1, colour, *, gradient=0.0, rim=0.0, opacity=1.0, soft=0.0
    ) -> None:
        """A thick line with round ends, radius r0 at the start and r1 at the end."""
        box = (
            min(x0 - r0, x1 - r1) - soft,
            min(y0 - r0, y1 - r1) - soft,
            max(x0 + r0, x1 + r1) + soft,
            max(y0 + r0, y1 + r1) + soft,
        )
        if (where := self.window(*box)) is not None:
            d = capsule_distance(self.x[:, where[1]], self.y[where[0]], x0, y0, x1, y1, r0, r1)
            self._fill(where, d, box, colour, gradient, rim, opacity, soft)

    def polygon(
        self, points, colour, *, radius=0.0, gradient=0.0, rim=0.0, opacity=1.0, soft=0.0
    ) -> None:
        """A polygon grown by `radius` (round corners)."""
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        grow = radius + soft
        box = (min(xs) - grow, min(ys) - grow, max(xs) + grow, max(ys) + grow)
        if (where := self.window(*box)) is not None:
            d = polygon_distance(self.x[:, where[1]], self.y[where[0]], points) - radius
            self._fill(where, d, box, colour, gradient, rim, opacity, soft)

    def rect(self, x0, y0, x1, y1, colour, **style) -> None:
        """An upright rectangle."""
        self.polygon(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), colour, **style)

    def below(self, edge: Float[np.ndarray, " w"], top: Colour, bottom: Colour, depth: float,
              *, soft=0.0, opacity=1.0, until: float | None = None) -> None:  # fmt: skip
        """Fill what is under the curve y = edge(x), shading from `top` to `bottom` in `depth`."""
        under = self.y - edge[None, :]
        alpha = np.clip(0.5 + under / max(self.step, soft), 0.0, 1.0) * opacity
        if until is not None:
            alpha = alpha * np.clip(0.5 + (until - self.y) / self.step, 0.0, 1.0)
        mix = np.clip(under / depth, 0.0, 1.0)[..., None].astype(np.float32)
        rgb = (1.0 - mix) * np.asarray(top, np.float32) + mix * np.asarray(bottom, np.float32)
        everything = (slice(None), slice(None))
        self.blend(everything, alpha.astype(np.float32), rgb)

    def tone(self, field: Float[np.ndarray, "h w"]) -> None:
        """Multiply what has been painted so far by 1 + field (texture, light)."""
        self.rgba[..., :3] *= 1.0 + field[..., None]


def soft_noise(x, y, cell_x: float, cell_y: float, rng: np.random.Generator):
    """Smooth value noise in [-1, 1] on a fixed lattice: a texture does not depend on the size."""
    table = rng.uniform(-1.0, 1.0, (64, 64)).astype(np.float32)
    u, v = np.asarray(x) / cell_x, np.asarray(y) / cell_y
    u0, v0 = np.floor(u), np.floor(v)
    fu, fv = smoothstep(0.0, 1.0, u - u0), smoothstep(0.0, 1.0, v - v0)
    i, j = u0.astype(int) % 64, v0.astype(int) % 64
    i2, j2 = (i + 1) % 64, (j + 1) % 64
    top = table[j, i] * (1 - fu) + table[j, i2] * fu
    low = table[j2, i] * (1 - fu) + table[j2, i2] * fu
    return (top * (1 - fv) + low * fv).astype(np.float32)


def rolling(
    x, base: float, heights: Sequence[float], lengths: Sequence[float], rng: np.random.Generator
):
    """A smooth ridge line: base minus a sum of sines of given amplitudes and wave lengths."""
    line = np.full(np.shape(x), base, np.float32)
    for height, length in zip(heights, lengths, strict=True):
        line -= height * np.sin(2 * np.pi * (x / length + rng.uniform())).astype(np.float32)
    return line
