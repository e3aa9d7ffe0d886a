"""The eight species: one function each, from back to front, so that silhouettes differ most.

Builders also set the anchors (x, y, scale) on which accessories hang.
"""

from __future__ import annotations

import itertools

import numpy as np

from data_pipelines.storyworld import accessories
from data_pipelines.storyworld.motion import Pose
from data_pipelines.storyworld.rig import INK, ROSE, WHITE, Part, Rig
from data_pipelines.storyworld.world import Subject


def _fox(r: Rig) -> None:
    f, h = r.f, 0.06 * r.pose.head
    low = r.lower = 0.14 * r.pose.sit
    wag = 0.05 * np.sin(r.pose.step * 0.5)
    r.cap(-0.24 * f, 0.34 - low, -0.52 * f, 0.56 - low + wag, 0.09, 0.16, r.main)
    r.cap(-0.55 * f, 0.68 - low + wag, -0.60 * f, 0.82 - low + wag, 0.115, 0.04, WHITE)
    r.anchors["back"] = (-0.10 * f, 0.62 - low, 0.95)
    r.legs([-0.22 * f - 0.07, -0.22 * f + 0.08], 0.34, 0.068, r.dark)
    r.ell(0, 0.38 - low, r.long(0.24, 0.36), 0.23, r.main)
    r.legs([0.20 * f - 0.07, 0.20 * f + 0.08], 0.34, 0.07, r.main)
    r.ell(0.22 * f, 0.40 - low, 0.085, 0.11, WHITE, rim=0)
    hx, hy = 0.26 * f + h, 0.70 - 0.7 * low - (0.08 if r.pose.shut and low else 0)
    for s in (-1, 1):
        r.poly(((hx + s * 0.05, hy + 0.12), (hx + s * 0.25, hy + 0.06), (hx + s * 0.22, hy + 0.40)),
               r.main)  # fmt: skip
        r.poly(((hx + s * 0.12, hy + 0.14), (hx + s * 0.20, hy + 0.12), (hx + s * 0.19, hy + 0.28)),
               INK, radius=0.0, rim=0)  # fmt: skip
    r.ell(hx, hy, 0.28, 0.225, r.main)
    r.cap(hx + 0.11 * f, hy - 0.09, hx + 0.31 * f, hy - 0.11, 0.10, 0.05, WHITE)
    r.ell(hx + 0.34 * f, hy - 0.09, 0.05, 0.042, INK, rim=0)
    r.eyes(hx + 0.07 * f, hy + 0.035, 0.105, 0.045)
    r.anchors |= {"head": (hx, hy + 0.19, 0.95), "neck": (0.22 * f, 0.52 - low, 0.85)}


def _rabbit(r: Rig) -> None:
    f, h = r.f, 0.05 * r.pose.head
    low = r.lower = 0.10 * r.pose.sit
    r.ell(-0.25 * f, 0.20 - low * 0.5, 0.11, 0.11, WHITE)
    r.anchors["back"] = (-0.20 * f, 0.40 - low, 0.9)
    for s in (-1, 1):
        r.ell(s * 0.14 + r.swing(s > 0), 0.06, 0.13, 0.065, r.main)
    r.ell(0, 0.28 - low * 0.5, 0.25, 0.26 - 0.3 * low, r.main)
    r.ell(0.05 * f, 0.25 - low * 0.5, 0.14, 0.17, r.pale, rim=0)
    r.arm(-0.19, 0.40 - low, 0.20, 0.055, r.main, 0.15)
    r.arm(0.19, 0.40 - low, 0.20, 0.055, r.main, 0.15 + 0.85 * r.pose.arm)
    hx, hy = 0.04 * f + h, 0.62 - low
    flop = 0.12 * np.sin(r.pose.step) * r.pose.stride
    for s in (-1, 1):
        a = s * 0.16 - 0.10 * f + flop
        r.ell(hx + s * 0.11 - 0.03 * f, hy + 0.36, 0.078, 0.26, r.main, angle=a)
        r.ell(hx + s * 0.11 - 0.03 * f, hy + 0.36, 0.036, 0.18, ROSE, angle=a, rim=0)
    r.ell(hx, hy, 0.25, 0.21, r.main)
    r.ell(hx + 0.08 * f, hy - 0.08, 0.13, 0.085, r.pale, rim=0)
    r.ell(hx + 0.09 * f, hy - 0.035, 0.04, 0.03, ROSE, rim=0)
    r.eyes(hx + 0.07 * f, hy + 0.045, 0.11, 0.045)
    r.anchors |= {"head": (hx + 0.02 * f, hy + 0.18, 0.75), "neck": (0.02 * f, 0.45 - low, 0.85)}


def _bear(r: Rig) -> None:
    f, h = r.f, 0.05 * r.pose.head
    low = r.lower = 0.12 * r.pose.sit
    r.anchors["back"] = (-0.27 * f, 0.42 - low, 1.1)
    for s in (-1, 1):
        r.cap(s * 0.17, 0.22, s * 0.19 + r.swing(s > 0), 0.08, 0.12, 0.11, r.dark)
    r.ell(0, 0.36 - low, 0.35, 0.34, r.main)
    r.ell(0.06 * f, 0.32 - low, 0.20, 0.21, r.pale, rim=0)
    r.arm(-0.30, 0.50 - low, 0.26, 0.085, r.main, 0.1)
    r.arm(0.30, 0.50 - low, 0.26, 0.085, r.main, 0.1 + 0.9 * r.pose.arm)
    hx, hy = 0.05 * f + h, 0.78 - low
    for s in (-1, 1):
        r.ell(hx + s * 0.21, hy + 0.17, 0.105, 0.105, r.main)
        r.ell(hx + s * 0.21, hy + 0.17, 0.055, 0.055, r.pale, rim=0)
    r.ell(hx, hy, 0.285, 0.235, r.main)
    r.ell(hx + 0.10 * f, hy - 0.08, 0.14, 0.105, r.pale, rim=0)
    r.ell(hx + 0.12 * f, hy - 0.035, 0.06, 0.042, INK, rim=0)
    r.eyes(hx + 0.08 * f, hy + 0.055, 0.12, 0.042)
    r.anchors |= {"head": (hx, hy + 0.19, 1.0), "neck": (0.02 * f, 0.58 - low, 1.1)}


def _owl(r: Rig) -> None:
    f, h = r.f, 0.07 * r.pose.head
    low = r.lower = 0.06 * r.pose.sit
    r.anchors["back"] = (-0.26 * f, 0.44 - low, 0.9)
    for s in (-1, 1):
        r.ell(s * 0.12 + r.swing(s > 0), 0.035, 0.08, 0.04, (0.93, 0.66, 0.16))
    for s in (-1, 1):
        r.poly(((s * 0.10 + h, 0.88 - low), (s * 0.30 + h, 0.76 - low), (s * 0.30 + h, 1.06 - low)),
               r.main)  # fmt: skip
    r.ell(0, 0.48 - low, 0.34, 0.44, r.main)
    r.ell(0.05 * f, 0.30 - low, 0.20, 0.21, r.pale, rim=0)
    for row, xs in ((0.34, (-0.09, 0.09)), (0.24, (0.0,))):
        for cx in xs:
            r.ell(cx + 0.05 * f, row - low, 0.05, 0.03, r.dark, rim=0)
    for s in (-1, 1):
        lift = (r.pose.arm if s > 0 else 0.4 * r.pose.arm) * 1.6
        r.ell(s * (0.33 + 0.10 * lift), 0.42 + 0.10 * lift - low, 0.12, 0.28, r.dark,
              angle=-s * (0.12 + lift))  # fmt: skip
    ex = 0.07 * f + h
    for s in (-1, 1):
        r.ell(ex + s * 0.145, 0.67 - low, 0.155, 0.155, WHITE)
    r.eyes(ex, 0.67 - low, 0.14, 0.085)
    r.poly(((ex - 0.055, 0.60 - low), (ex + 0.055, 0.60 - low), (ex + 0.01 * f, 0.49 - low)),
           (0.96, 0.68, 0.14), rim=0.015)  # fmt: skip
    r.anchors |= {"head": (h, 0.90 - low, 1.0), "neck": (0.04 * f, 0.48 - low, 1.05)}


def _frog(r: Rig) -> None:
    f, h = r.f, 0.05 * r.pose.head
    low = r.lower = 0.05 * r.pose.sit
    r.anchors["back"] = (-0.34 * f, 0.40 - low, 0.9)
    for s in (-1, 1):
        r.ell(s * 0.40, 0.05, 0.19, 0.06, r.dark)
        r.ell(s * 0.40 - r.swing(s > 0) * 0.5, 0.20 - low, 0.18, 0.17, r.main, angle=s * 0.5)
    r.ell(0, 0.27 - low, 0.36, 0.25, r.main)
    r.ell(0.03 * f, 0.20 - low, 0.24, 0.16, r.pale, rim=0)
    r.cap(-0.18, 0.26 - low, -0.22 + r.swing(0), 0.06, 0.06, 0.055, r.main)
    if r.pose.arm > 0.05:
        r.arm(0.26, 0.34 - low, 0.30, 0.06, r.main, r.pose.arm)
    else:
        r.cap(0.18, 0.26 - low, 0.22 + r.swing(1), 0.06, 0.06, 0.055, r.main)
    hx, hy = 0.05 * f + h, 0.54 - low
    for s in (-1, 1):
        r.ell(hx + s * 0.25, hy + 0.20, 0.145, 0.145, r.main)
    r.ell(hx, hy, 0.42, 0.215, r.main)
    r.eyes(hx + 0.02 * f, hy + 0.225, 0.25, 0.062, white=True)
    xs = np.linspace(-0.24, 0.24, 5)
    mouth = [(hx + 0.06 * f + x, hy - 0.10 + 0.9 * x * x) for x in xs]
    for start, end in itertools.pairwise(mouth):
        r.cap(*start, *end, 0.02, 0.02, INK, rim=0, gradient=0)
    r.anchors |= {"head": (hx, hy + 0.21, 0.85), "neck": (0.03 * f, 0.35 - low, 1.1)}


def _turtle(r: Rig) -> None:
    f, h = r.f, 0.05 * r.pose.head
    low = r.lower = 0.12 * r.pose.sit
    r.cap(-0.36 * f, 0.22 - low, -0.56 * f, 0.13 - low, 0.06, 0.02, r.pale)
    for i, lx in enumerate((-0.27, 0.25)):
        r.cap(lx * f - 0.05, 0.22 - low, lx * f - 0.05 + r.swing(i), 0.09, 0.10, 0.10, r.pale)
    hx, hy = 0.47 * f + h, 0.54 - low + 0.08 * r.pose.arm
    wide = r.long(0.36, 0.43)
    dome = [
        (wide * np.cos(a) - 0.06 * f, 0.22 - low + 0.58 * np.sin(a))
        for a in np.linspace(0, np.pi, 15)
    ]
    r.poly(dome, r.main, radius=0.03)
    for cx, cy, q in ((0.0, 0.60, 0.125), (-0.23, 0.40, 0.10), (0.20, 0.40, 0.10)):
        r.ell(cx * wide / 0.43 - 0.06 * f, cy - low, q * wide / 0.43, q * 0.9, r.dark, rim=0)
    r.cap(-wide - 0.06 * f, 0.22 - low, wide - 0.06 * f, 0.22 - low, 0.055, 0.055, r.dark)
    r.cap(0.30 * f, 0.28 - low, hx, hy - 0.08, 0.12, 0.11, r.pale)
    r.legs([0.30 * f + 0.05, -0.25 * f + 0.05], 0.18, 0.10, r.pale)
    r.ell(hx, hy, 0.20, 0.175, r.pale)
    r.eyes(hx + 0.06 * f, hy + 0.05, 0.085, 0.048)
    mouth = hx + 0.08 * f
    r.cap(mouth - 0.06, hy - 0.075, mouth + 0.06, hy - 0.07, 0.014, 0.014, INK, rim=0, gradient=0)
    r.anchors |= {
        "head": (hx, hy + 0.14, 0.78),
        "neck": (0.40 * f, 0.36 - low, 0.7),
        "back": (-0.16 * f, 0.80 - low, 0.85),
    }


def _elephant(r: Rig) -> None:
    f, h = r.f, 0.04 * r.pose.head
    low = r.lower = 0.14 * r.pose.sit
    r.cap(-0.40 * f, 0.55 - low, -0.52 * f, 0.34 - low, 0.03, 0.03, r.dark)
    r.anchors["back"] = (-0.16 * f, 0.80 - low, 1.0)
    r.legs([-0.26 * f - 0.06, 0.10 * f - 0.06], 0.40, 0.10, r.dark)
    r.ell(-0.10 * f, 0.52 - low, r.long(0.33, 0.40), 0.31, r.main)
    r.legs([-0.30 * f + 0.07, 0.14 * f + 0.07], 0.38, 0.105, r.main)
    hx, hy = 0.28 * f + h, 0.70 - low
    flap = 0.03 * np.sin(0.25 * r.pose.step)
    spread = 0.34 - 0.10 * abs(f)
    for s in (-1, 1):
        r.ell(hx + s * spread - 0.06 * f, hy + 0.02, 0.19 + flap, 0.25, r.dark, angle=s * 0.15)
        r.ell(hx + s * spread - 0.06 * f, hy + 0.01, 0.11 + flap, 0.16, ROSE, angle=s * 0.15, rim=0)
    r.ell(hx, hy, 0.25, 0.25, r.main)
    up = r.pose.arm
    t0, t1 = (hx + 0.13 * f, hy - 0.10), (hx + 0.26 * f, hy - 0.34 + 0.30 * up)
    t2 = (hx + 0.42 * f, hy - 0.40 + 0.70 * up)
    r.cap(
        hx + 0.06 * f - 0.06, hy - 0.14, hx + 0.20 * f - 0.06, hy - 0.25, 0.035, 0.02, WHITE, rim=0
    )
    r.cap(*t0, *t1, 0.115, 0.085, r.main)
    r.cap(*t1, *t2, 0.085, 0.062, r.main)
    r.eyes(hx + 0.10 * f, hy + 0.06, 0.10, 0.042)
    r.anchors |= {"head": (hx, hy + 0.21, 0.95), "neck": (0.24 * f, 0.48 - low, 0.95)}


def _giraffe(r: Rig) -> None:
    f, h = r.f, 0.06 * r.pose.head
    low = r.lower = 0.20 * r.pose.sit
    r.cap(-0.32 * f, 0.52 - low, -0.42 * f, 0.30 - low, 0.03, 0.045, r.dark)
    r.anchors["back"] = (-0.20 * f, 0.68 - low, 0.9)
    r.legs([-0.24 * f - 0.08, 0.12 * f - 0.07], 0.42, 0.070, r.dark)
    r.ell(-0.06 * f, 0.48 - low, r.long(0.24, 0.33), 0.20, r.main)
    r.legs([-0.20 * f + 0.08, 0.16 * f + 0.07], 0.42, 0.072, r.main)
    nx, ny = 0.24 * f + h, 1.02 - low
    r.cap(0.10 * f, 0.54 - low, nx, ny, 0.175, 0.125, r.main)
    for t, q in ((0.22, 0.078), (0.52, 0.068), (0.80, 0.058)):
        r.ell(0.10 * f + (nx - 0.10 * f) * t - 0.03 * f, 0.54 - low + (ny - 0.54 + low) * t, q, q,
              r.dark, rim=0)  # fmt: skip
    for cx, cy in ((-0.22, 0.53), (-0.02, 0.42)):
        r.ell(cx * f - 0.02, cy - low, 0.085, 0.072, r.dark, rim=0)
    hx, hy = nx + 0.05 * f, ny + 0.10
    for s in (-1, 1):
        top = (hx - 0.07 * f + s * 0.09, hy + 0.23)
        r.cap(hx - 0.06 * f + s * 0.08, hy + 0.09, *top, 0.032, 0.045, r.dark)
        r.ell(hx - 0.08 * f + s * 0.20, hy + 0.07, 0.095, 0.045, r.main, angle=-s * 0.5)
    r.ell(hx, hy, 0.18, 0.155, r.main)
    r.cap(hx + 0.08 * f, hy - 0.05, hx + 0.22 * f, hy - 0.08, 0.11, 0.095, r.pale)
    r.eyes(hx + 0.04 * f, hy + 0.05, 0.09, 0.045)
    r.anchors |= {"head": (hx - 0.03 * f, hy + 0.11, 0.75), "neck": (0.14 * f, 0.66 - low, 0.8)}


BUILDERS = {"fox": _fox, "rabbit": _rabbit, "bear": _bear, "owl": _owl, "frog": _frog,
            "turtle": _turtle, "elephant": _elephant, "giraffe": _giraffe}  # fmt: skip
# Body height over nominal size: long species are scaled down and low ones up, so that every
# subject covers a similar area.
PROPORTION = {
    "fox": 0.95,
    "rabbit": 0.98,
    "bear": 0.98,
    "owl": 0.98,
    "frog": 1.05,
    "turtle": 1.04,
    "elephant": 0.98,
    "giraffe": 0.92,
}


def build(subject: Subject, pose: Pose, x: float, foot: float, unit: float) -> list[Part]:
    """Parts from back to front. x, foot: where it stands, in frame heights; unit: frame heights per
    body unit at size 1 (zoom, and the frame's shorter side)."""
    rig = Rig(subject, pose, x, foot, unit * subject.size * PROPORTION[subject.species])
    BUILDERS[subject.species](rig)
    return accessories.dress(rig, subject.accessory)
