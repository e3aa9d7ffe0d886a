"""Painters of the eight places, in neutral daylight.

Each takes four canvases (far, mid, ground, fore) whose x runs in frame heights from the place's
centre and y from 0 (top) to 1 (bottom), and a generator that decides the details. The ground must
reach the lower end of the canvas; subjects stand near y = 0.86.
"""

from __future__ import annotations

import numpy as np

from data_pipelines.storyworld.props import lamp, pine, round_tree, spread, texture
from data_pipelines.storyworld.shapes import Canvas, rolling, smoothstep, soft_noise


def meadow(far: Canvas, mid: Canvas, ground: Canvas, fore: Canvas, rng) -> None:
    far.below(
        rolling(far.x[0], 0.52, (0.06, 0.03), (1.3, 0.6), rng),
        (0.56, 0.74, 0.62),
        (0.50, 0.72, 0.48),
        0.25,
    )
    far.below(
        rolling(far.x[0], 0.58, (0.04, 0.02), (0.9, 0.4), rng),
        (0.47, 0.72, 0.44),
        (0.45, 0.70, 0.38),
        0.2,
    )
    mid.below(
        rolling(mid.x[0], 0.64, (0.03,), (1.1,), rng), (0.45, 0.74, 0.33), (0.50, 0.76, 0.33), 0.2
    )
    for x in spread(mid, rng, 0.55):
        round_tree(
            mid, x, 0.66, rng.uniform(0.26, 0.38), (0.30, 0.58 + rng.uniform(-0.05, 0.05), 0.25)
        )
    ground.below(
        rolling(ground.x[0], 0.71, (0.012,), (0.8,), rng),
        (0.55, 0.80, 0.34),
        (0.33, 0.62, 0.24),
        0.3,
    )
    texture(ground, rng, 0.06)
    petals = ((1.0, 0.98, 0.92), (0.98, 0.80, 0.30), (0.95, 0.55, 0.62), (0.75, 0.65, 0.95))
    for x in spread(ground, rng, 0.075):
        y, r = rng.uniform(0.76, 1.03), rng.uniform(0.010, 0.016)
        colour = petals[rng.integers(4)]
        ground.ellipse(x, y, r * 1.3, r, colour, soft=0.008)
    for x in spread(fore, rng, 0.10):
        h = rng.uniform(0.04, 0.08)
        fore.polygon(
            ((x - 0.03, 1.08), (x + 0.03, 1.08), (x + rng.uniform(-0.03, 0.03), 1.04 - h)),
            (0.26, 0.52, 0.20),
            radius=0.006,
            gradient=0.2,
        )


def forest(far: Canvas, mid: Canvas, ground: Canvas, fore: Canvas, rng) -> None:
    far.below(
        rolling(far.x[0], 0.40, (0.03,), (0.7,), rng), (0.36, 0.54, 0.52), (0.30, 0.46, 0.42), 0.4
    )
    for x in spread(far, rng, 0.17):
        pine(far, x, 0.66, rng.uniform(0.42, 0.62), (0.24, 0.45, 0.41))
    mid.below(
        rolling(mid.x[0], 0.66, (0.015,), (0.7,), rng), (0.20, 0.34, 0.22), (0.22, 0.34, 0.20), 0.2
    )
    for x in spread(mid, rng, 0.40):
        pine(mid, x, 0.70, rng.uniform(0.62, 0.85), (0.12, 0.36 + rng.uniform(-0.03, 0.03), 0.24))
    ground.below(
        rolling(ground.x[0], 0.71, (0.012,), (0.5,), rng),
        (0.36, 0.42, 0.24),
        (0.27, 0.28, 0.17),
        0.3,
    )
    texture(ground, rng, 0.10)
    for x in spread(ground, rng, 0.45):
        y = rng.uniform(0.77, 1.0)
        ground.capsule(x, y, x, y - 0.03, 0.012, 0.010, (0.93, 0.88, 0.78))
        ground.ellipse(x, y - 0.035, 0.032, 0.018, (0.78, 0.30, 0.22), gradient=0.2)
    for x in spread(fore, rng, 0.22):
        for a in (-0.06, 0.0, 0.06):
            fore.capsule(
                x, 1.09, x + a, 1.0 - rng.uniform(0, 0.03), 0.014, 0.004, (0.16, 0.33, 0.17)
            )


def desert(far: Canvas, mid: Canvas, ground: Canvas, fore: Canvas, rng) -> None:
    far.below(
        rolling(far.x[0], 0.55, (0.05, 0.02), (1.1, 0.5), rng),
        (0.93, 0.78, 0.55),
        (0.90, 0.72, 0.47),
        0.2,
    )
    mid.below(
        rolling(mid.x[0], 0.63, (0.045, 0.02), (1.4, 0.6), rng),
        (0.96, 0.83, 0.56),
        (0.90, 0.71, 0.42),
        0.16,
    )
    for x in spread(mid, rng, 0.62):
        s, green = rng.uniform(0.8, 1.15), (0.32, 0.56, 0.36)
        mid.capsule(
            x, 0.70, x, 0.70 - 0.30 * s, 0.035 * s, 0.035 * s, green, gradient=0.1, rim=0.012
        )
        for side, y in ((-1, 0.14), (1, 0.19)):
            ax = x + side * 0.10 * s
            mid.capsule(x, 0.70 - y * s, ax, 0.70 - y * s, 0.024 * s, 0.024 * s, green, rim=0.01)
            mid.capsule(
                ax, 0.70 - y * s, ax, 0.70 - (y + 0.09) * s, 0.024 * s, 0.024 * s, green, rim=0.01
            )
    ground.below(
        rolling(ground.x[0], 0.70, (0.015,), (1.0,), rng),
        (0.97, 0.84, 0.56),
        (0.88, 0.68, 0.40),
        0.32,
    )
    wave = soft_noise(ground.x, ground.y, 0.5, 0.2, rng)
    ground.tone(0.045 * np.sin(2 * np.pi * (ground.y / 0.062 + 0.8 * wave)).astype(np.float32))
    for x in spread(ground, rng, 0.6):
        y = rng.uniform(0.76, 1.0)
        ground.ellipse(x, y, rng.uniform(0.02, 0.035), 0.016, (0.72, 0.56, 0.40), gradient=0.25)


def beach(far: Canvas, mid: Canvas, ground: Canvas, fore: Canvas, rng) -> None:
    flat = np.full(far.x.shape[1], 0.50, np.float32)
    far.below(flat, (0.16, 0.50, 0.72), (0.35, 0.78, 0.82), 0.2)
    wave = soft_noise(far.x, far.y, 0.35, 0.03, rng)
    far.tone(0.07 * wave)
    for x in spread(far, rng, 0.8):
        far.polygon(((x, 0.36), (x, 0.49), (x + 0.09, 0.49)), (0.98, 0.96, 0.92), gradient=0.05)
        far.polygon(
            ((x - 0.06, 0.505), (x + 0.10, 0.505), (x + 0.07, 0.535), (x - 0.03, 0.535)),
            (0.62, 0.34, 0.26),
        )
    edge = rolling(mid.x[0], 0.675, (0.012,), (0.6,), rng)
    mid.below(edge - 0.018, (0.95, 0.98, 0.98), (0.95, 0.98, 0.98), 0.1, soft=0.012)
    mid.below(edge, (0.90, 0.80, 0.60), (0.97, 0.89, 0.68), 0.08)
    for x in spread(mid, rng, 0.95):
        lean, s = rng.uniform(-0.10, 0.10), rng.uniform(0.9, 1.1)
        tx, ty = x + lean, 0.72 - 0.42 * s
        mid.capsule(x, 0.73, tx, ty, 0.026, 0.018, (0.58, 0.42, 0.27))
        for a in np.linspace(-2.9, -0.25, 6):
            ex, ey = tx + 0.19 * np.cos(a), ty + 0.10 * np.sin(a) + 0.05
            mid.capsule(
                tx, ty, 0.5 * (tx + ex), min(ty, ey) - 0.02, 0.020, 0.026, (0.22, 0.56, 0.30)
            )
            mid.capsule(
                0.5 * (tx + ex), min(ty, ey) - 0.02, ex, ey + 0.02, 0.026, 0.008, (0.25, 0.60, 0.32)
            )
    ground.below(
        rolling(ground.x[0], 0.715, (0.01,), (0.7,), rng),
        (0.98, 0.91, 0.71),
        (0.92, 0.80, 0.55),
        0.32,
    )
    texture(ground, rng, 0.035)
    for x in spread(ground, rng, 0.4):
        y = rng.uniform(0.77, 1.02)
        ground.ellipse(x, y, 0.022, 0.014, (0.98, 0.80, 0.74), gradient=0.2)


def snowfield(far: Canvas, mid: Canvas, ground: Canvas, fore: Canvas, rng) -> None:
    far.below(
        np.full(far.x.shape[1], 0.58, np.float32), (0.72, 0.80, 0.90), (0.85, 0.90, 0.96), 0.1
    )
    for x in spread(far, rng, 0.42):
        h, w = rng.uniform(0.26, 0.40), rng.uniform(0.26, 0.34)
        far.polygon(
            ((x - w, 0.62), (x + w, 0.62), (x, 0.62 - h)),
            (0.60, 0.70, 0.84),
            radius=0.01,
            gradient=0.1,
        )
        far.polygon(
            (
                (x - 0.42 * w, 0.62 - 0.58 * h),
                (x - 0.12 * w, 0.62 - 0.50 * h),
                (x + 0.10 * w, 0.62 - 0.62 * h),
                (x + 0.40 * w, 0.62 - 0.60 * h),
                (x, 0.62 - h),
            ),
            (0.96, 0.98, 1.0),
            radius=0.008,
        )
    mid.below(
        rolling(mid.x[0], 0.645, (0.025,), (0.9,), rng),
        (0.90, 0.94, 0.98),
        (0.84, 0.90, 0.97),
        0.12,
    )
    for x in spread(mid, rng, 0.55):
        pine(mid, x, 0.69, rng.uniform(0.26, 0.40), (0.28, 0.44, 0.46), snow=True)
    ground.below(
        rolling(ground.x[0], 0.70, (0.018,), (0.9,), rng),
        (0.97, 0.98, 1.0),
        (0.78, 0.86, 0.95),
        0.34,
    )
    texture(ground, rng, 0.03, 0.25, 0.06)


def city(far: Canvas, mid: Canvas, ground: Canvas, fore: Canvas, rng) -> None:
    for x in spread(far, rng, 0.17):
        h, w = rng.uniform(0.30, 0.56), rng.uniform(0.07, 0.10)
        tone = rng.uniform(0.54, 0.68)
        far.rect(
            x - w, 0.70 - h, x + w, 0.72, (tone * 0.92, tone * 0.98, tone * 1.12), gradient=0.08
        )
    walls = (
        (0.74, 0.44, 0.36),
        (0.86, 0.76, 0.60),
        (0.52, 0.60, 0.70),
        (0.66, 0.56, 0.66),
        (0.78, 0.62, 0.48),
    )
    for x in spread(mid, rng, 0.34, 0.08):
        h, w = rng.uniform(0.28, 0.44), 0.155
        colour = np.array(walls[rng.integers(5)]) * rng.uniform(0.92, 1.05)
        mid.rect(x - w, 0.70 - h, x + w, 0.73, tuple(colour), gradient=0.06)
        mid.rect(x - w - 0.012, 0.69 - h, x + w + 0.012, 0.715 - h, tuple(colour * 0.72))
        for row in np.arange(0.70 - h + 0.075, 0.60, 0.105):
            for dx in (-0.085, 0.0, 0.085):
                pane = lamp(mid) if rng.random() < 0.75 or mid.lamps == 1 else tuple(colour * 0.6)
                mid.rect(
                    x + dx - 0.022, row - 0.030, x + dx + 0.022, row + 0.030, pane, radius=0.004
                )
        mid.rect(x - 0.03, 0.635, x + 0.03, 0.72, tuple(colour * 0.55), radius=0.006)
    pave = np.full(ground.x.shape[1], 0.71, np.float32)
    ground.below(pave, (0.74, 0.73, 0.74), (0.66, 0.65, 0.68), 0.2)
    ground.below(pave + 0.215, (0.36, 0.37, 0.42), (0.30, 0.31, 0.36), 0.16)
    ground.below(pave + 0.195, (0.86, 0.85, 0.85), (0.86, 0.85, 0.85), 0.1, until=0.927)
    for x in np.arange(float(ground.x[0, 0]), float(ground.x[0, -1]), 0.32):
        ground.rect(x, 1.0, x + 0.16, 1.02, (0.94, 0.90, 0.72))
        ground.capsule(x, 0.72, x - 0.10, 0.90, 0.004, 0.006, (0.58, 0.57, 0.60))
    for x in spread(ground, rng, 0.8):
        ground.capsule(x, 0.73, x, 0.36, 0.013, 0.010, (0.22, 0.25, 0.28))
        if ground.lamps > 1:
            ground.ellipse(x, 0.345, 0.10, 0.10, lamp(ground), soft=0.16, opacity=0.55)
        ground.ellipse(x, 0.345, 0.034, 0.040, lamp(ground))


def lake(far: Canvas, mid: Canvas, ground: Canvas, fore: Canvas, rng) -> None:
    ridge = rolling(far.x[0], 0.36, (0.07, 0.04, 0.015), (0.95, 0.42, 0.17), rng)
    wood = rolling(far.x[0], 0.49, (0.025, 0.012), (0.6, 0.25), rng)
    shore = np.full_like(ridge, 0.55)
    far.below(ridge, (0.58, 0.52, 0.74), (0.54, 0.60, 0.76), 0.2)
    far.below(wood, (0.78, 0.50, 0.28), (0.62, 0.44, 0.30), 0.08)
    far.below(shore, (0.30, 0.60, 0.74), (0.22, 0.50, 0.66), 0.2)
    # The far shore upside down: what lies above the mirror line at y lies at 2 * 0.55 - y.
    depth = far.y - 0.55
    mirrored = smoothstep(0.0, 0.012, 0.55 - depth - ridge[None, :]) * (far.y > 0.55)
    everything = (slice(None), slice(None))
    far.blend(everything, (0.55 * mirrored).astype(np.float32), np.float32((0.52, 0.54, 0.76)))
    mirrored = smoothstep(0.0, 0.012, 0.55 - depth - wood[None, :]) * (far.y > 0.55)
    far.blend(everything, (0.60 * mirrored).astype(np.float32), np.float32((0.66, 0.48, 0.36)))
    wave = soft_noise(far.x, far.y, 0.30, 0.022, rng)
    far.tone(np.where(far.y > 0.56, 0.07 * wave, 0.0).astype(np.float32))
    far.below(shore - 0.008, (0.88, 0.90, 0.84), (0.88, 0.90, 0.84), 0.1, until=0.553, opacity=0.7)
    for x in spread(mid, rng, 0.85):
        size = rng.uniform(0.20, 0.27)
        leaf = ((0.90, 0.56, 0.20), (0.82, 0.34, 0.22))[rng.integers(2)]
        mid.ellipse(x, 0.70, 0.14, 0.05, leaf, opacity=0.35, soft=0.05)
        mid.ellipse(x, 0.662, 0.14, 0.026, (0.50, 0.52, 0.32), gradient=0.15)
        round_tree(mid, x, 0.655, size, leaf)
    bank = rolling(ground.x[0], 0.765, (0.012,), (0.8,), rng)
    ground.below(bank - 0.012, (0.80, 0.92, 0.95), (0.80, 0.92, 0.95), 0.3, soft=0.012, opacity=0.8)
    ground.below(bank, (0.70, 0.68, 0.52), (0.50, 0.52, 0.38), 0.26)
    texture(ground, rng, 0.05)
    for x in spread(ground, rng, 0.16):
        y, tone = rng.uniform(0.80, 1.03), rng.uniform(0.62, 0.78)
        ground.ellipse(
            x, y, rng.uniform(0.02, 0.035), 0.016, (tone, tone, tone * 1.02), gradient=0.22
        )
    for x in spread(fore, rng, 0.34):
        for a in (-0.035, 0.01, 0.045):
            top = 0.90 + rng.uniform(0, 0.06)
            fore.capsule(x + a, 1.09, x + 1.4 * a, top, 0.009, 0.007, (0.40, 0.54, 0.26))
            fore.capsule(
                x + 1.4 * a, top + 0.04, x + 1.45 * a, top, 0.015, 0.014, (0.45, 0.28, 0.17)
            )


def canyon(far: Canvas, mid: Canvas, ground: Canvas, fore: Canvas, rng) -> None:
    far.below(
        np.full(far.x.shape[1], 0.56, np.float32), (0.80, 0.52, 0.42), (0.74, 0.44, 0.34), 0.2
    )
    for x in spread(far, rng, 0.45):
        h, w = rng.uniform(0.22, 0.36), rng.uniform(0.13, 0.20)
        far.polygon(
            ((x - w * 1.3, 0.64), (x - w, 0.60 - h), (x + w, 0.60 - h), (x + w * 1.3, 0.64)),
            (0.80, 0.48, 0.38),
            radius=0.01,
            gradient=0.08,
        )
    for x in spread(mid, rng, 0.72, 0.15):
        h, w = rng.uniform(0.46, 0.62), rng.uniform(0.13, 0.19)
        mid.polygon(
            (
                (x - w * 1.25, 0.74),
                (x - w, 0.66 - 0.6 * h),
                (x - 0.8 * w, 0.66 - h),
                (x + 0.7 * w, 0.68 - h),
                (x + w, 0.64 - 0.5 * h),
                (x + w * 1.35, 0.74),
            ),
            (0.70, 0.34, 0.22),
            radius=0.015,
            gradient=0.12,
        )
    bend = soft_noise(mid.x, mid.y, 0.5, 0.5, rng)
    mid.tone(0.13 * np.sin(2 * np.pi * (mid.y / 0.105 + 0.5 * bend)).astype(np.float32))
    mid.below(
        rolling(mid.x[0], 0.67, (0.02,), (0.6,), rng), (0.66, 0.34, 0.22), (0.68, 0.36, 0.24), 0.1
    )
    ground.below(
        rolling(ground.x[0], 0.715, (0.015,), (0.7,), rng),
        (0.78, 0.46, 0.30),
        (0.58, 0.30, 0.20),
        0.32,
    )
    texture(ground, rng, 0.07)
    for x in spread(ground, rng, 0.42):
        y, s = rng.uniform(0.77, 1.0), rng.uniform(0.02, 0.04)
        ground.ellipse(x, y, s, 0.7 * s, (0.56, 0.32, 0.24), gradient=0.3)


PAINTERS = {
    "meadow": meadow,
    "forest": forest,
    "desert": desert,
    "beach": beach,
    "snowfield": snowfield,
    "city": city,
    "lake": lake,
    "canyon": canyon,
}
