"""Building blocks of a subject: soft shapes in body coordinates, placed in the frame by a pose.

Body coordinates: x to the right, y up, feet at y = 0, about one unit tall. Species multiply the x
of their parts by the facing of the pose, so that a subject turns smoothly from left to right.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from data_pipelines.storyworld.motion import Pose
from data_pipelines.storyworld.shapes import Canvas
from data_pipelines.storyworld.world import COLOUR_RGB, Subject

INK = (0.10, 0.09, 0.13)
WHITE = (0.98, 0.97, 0.94)
CREAM = np.array((1.0, 0.95, 0.84))
ROSE = (0.95, 0.55, 0.58)
RIM = 0.035


@dataclasses.dataclass(frozen=True)
class Part:
    """One shape in frame heights: points (x, y down), radii, colour and finish."""

    kind: str  # ellipse | capsule | polygon
    points: tuple[tuple[float, float], ...]
    radii: tuple[float, float]
    angle: float
    colour: tuple[float, float, float]
    gradient: float
    rim: float

    def box(self) -> tuple[float, float, float, float]:
        """Bounding box x0, y0, x1, y1."""
        xs, ys = [p[0] for p in self.points], [p[1] for p in self.points]
        if self.kind == "ellipse":
            c, s = np.cos(self.angle), np.sin(self.angle)
            gx, gy = (
                np.hypot(self.radii[0] * c, self.radii[1] * s),
                np.hypot(self.radii[0] * s, self.radii[1] * c),
            )
        else:
            gx = gy = max(self.radii)
        return min(xs) - gx, min(ys) - gy, max(xs) + gx, max(ys) + gy


class Rig:
    """Collects the parts of one subject in one pose, placed in the frame."""

    def __init__(self, subject: Subject, pose: Pose, x: float, foot: float, scale: float):
        self.pose, self.f = pose, pose.turn
        self.x, self.foot, self.scale = x, foot, scale
        main = np.array(COLOUR_RGB[subject.colour], float) / 255.0
        self.main = tuple(main)
        self.dark = tuple(main * 0.72)
        self.pale = tuple(0.45 * main + 0.55 * CREAM)
        self.parts: list[Part] = []
        self.anchors: dict[str, tuple[float, float, float]] = {}
        self.lower = 0.0  # how far sitting brings the trunk down

    def _at(self, x: float, y: float) -> tuple[float, float]:
        p = self.pose
        x, y = x / np.sqrt(p.squash), (y + p.lift) * p.squash
        c, s = np.cos(p.lean), np.sin(p.lean)
        return (self.x + self.scale * (c * x + s * y), self.foot - self.scale * (c * y - s * x))

    def _add(self, kind, points, radii, colour, angle=0.0, gradient=0.12, rim=RIM) -> None:
        k = self.scale
        placed = tuple(self._at(*p) for p in points)
        scaled = (radii[0] * k, radii[1] * k)
        rotation = angle + self.pose.lean
        self.parts.append(Part(kind, placed, scaled, rotation, colour, gradient, rim * k))

    def ell(self, x, y, rx, ry, colour, angle=0.0, **style) -> None:
        """Ellipse; `angle` in radians, counted in the direction the subject faces."""
        self._add("ellipse", ((x, y),), (rx, ry), colour, angle, **style)

    def cap(self, x0, y0, x1, y1, r0, r1, colour, **style) -> None:
        """Limb: a line of radius r0 to r1."""
        self._add("capsule", ((x0, y0), (x1, y1)), (r0, r1), colour, **style)

    def poly(self, points, colour, radius=0.02, **style) -> None:
        """Polygon with round corners."""
        self._add("polygon", tuple(points), (radius, radius), colour, **style)

    def long(self, front: float, side: float) -> float:
        """Half-width of a body part that is `side` long seen from the side, `front` from ahead."""
        return float(np.sqrt((side * self.f) ** 2 + front**2 * (1 - min(self.f**2, 1.0))))

    def eyes(self, x, y, gap, r, white=False) -> None:
        """Dark eyes with a glint, or thin lids where they are shut."""
        for side in (-1, 1):
            ex = x + side * gap
            if white:
                self.ell(ex, y, r * 1.5, r * 1.5, WHITE, gradient=0.0, rim=0.02)
            if self.pose.shut > 0.5:
                self.cap(ex - r, y - 0.01, ex + r, y - 0.01, 0.018, 0.018, INK, rim=0, gradient=0)
            else:
                px = ex + 0.02 * self.f + 0.02 * self.pose.head
                self.ell(px, y, r, r * 1.15, INK, rim=0, gradient=0)
                self.ell(px + 0.3 * r, y + 0.4 * r, 0.36 * r, 0.36 * r, WHITE, rim=0, gradient=0)

    def swing(self, phase: float) -> float:
        """Stride of a leg in body units; `phase` in half strides."""
        return 0.09 * self.pose.stride * float(np.sin(self.pose.step + np.pi * phase))

    def legs(self, xs, top, radius, colour, foot=None) -> None:
        """Straight legs at `xs`, shortened when the subject sits."""
        for i, lx in enumerate(xs):
            s = self.swing(i % 2)
            up = 0.35 * abs(s)
            self.cap(lx, top - self.lower, lx + s * (np.sign(self.f) or 1), radius + up, radius,
                     radius * 1.05, foot or colour)  # fmt: skip

    def arm(self, x, y, length, radius, colour, wave: float) -> None:
        """An arm from the shoulder (x, y), hanging at 0 and pointing up at 1."""
        side = np.sign(x) or 1.0
        angle = -1.15 + 2.3 * wave
        self.cap(
            x,
            y,
            x + side * length * np.cos(angle),
            y + length * np.sin(angle),
            radius,
            radius * 0.9,
            colour,
        )


def bounds(parts: list[Part]) -> tuple[float, float, float, float]:
    """Box of all parts: x0, y0, x1, y1 in frame heights."""
    boxes = np.array([p.box() for p in parts])
    return (*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist())


def paint(canvas: Canvas, parts: list[Part]) -> None:
    """Paint parts on a shapes.Canvas."""
    for p in parts:
        style = dict(gradient=p.gradient, rim=p.rim)
        if p.kind == "ellipse":
            canvas.ellipse(*p.points[0], *p.radii, p.colour, angle=p.angle, **style)
        elif p.kind == "capsule":
            canvas.capsule(*p.points[0], *p.points[1], *p.radii, p.colour, **style)
        else:
            canvas.polygon(p.points, p.colour, radius=p.radii[0], **style)
