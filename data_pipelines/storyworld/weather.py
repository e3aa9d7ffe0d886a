"""Light and weather: sky, grading of the scene, clouds, light shafts, rain and snow."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from data_pipelines.storyworld.scenery import Layer, sample, supersampling
from data_pipelines.storyworld.shapes import Canvas, smoothstep


@dataclasses.dataclass(frozen=True)
class Light:
    """One state of weather and light.

    gain: per channel. saturation: share kept. haze, haze_amount: colour of the air and how much of
    it lies over the farthest layer. sky: colours from top to horizon. cloud, cover: colour of the
    clouds and how many. shafts: strength of the light shafts. lamps: brightness of lit windows.
    """

    gain: tuple[float, float, float]
    saturation: float
    haze: tuple[float, float, float]
    haze_amount: float
    sky: tuple[tuple[float, float, float], ...]
    cloud: tuple[float, float, float]
    cover: float
    shafts: float = 0.0
    lamps: float = 1.0


LIGHTS = {
    "morning": Light(
        gain=(1.03, 1.01, 0.97),
        saturation=1.0,
        haze=(0.9, 0.94, 0.96),
        haze_amount=0.16,
        sky=((0.36, 0.64, 0.92), (0.66, 0.84, 0.96), (0.97, 0.93, 0.84)),
        cloud=(1.0, 1.0, 1.0),
        cover=0.4,
        shafts=0.16,
    ),
    "sunset": Light(
        gain=(1.06, 0.88, 0.74),
        saturation=1.0,
        haze=(0.98, 0.66, 0.48),
        haze_amount=0.24,
        sky=((0.42, 0.34, 0.62), (0.92, 0.5, 0.46), (1.0, 0.78, 0.44)),
        cloud=(1.0, 0.72, 0.62),
        cover=0.5,
        shafts=0.14,
    ),
    "overcast": Light(
        gain=(0.9, 0.92, 0.95),
        saturation=0.86,
        haze=(0.8, 0.82, 0.85),
        haze_amount=0.24,
        sky=((0.66, 0.7, 0.76), (0.76, 0.79, 0.83), (0.84, 0.86, 0.87)),
        cloud=(0.9, 0.91, 0.93),
        cover=0.95,
    ),
    "rain": Light(
        gain=(0.74, 0.8, 0.9),
        saturation=0.88,
        haze=(0.58, 0.65, 0.74),
        haze_amount=0.3,
        sky=((0.36, 0.43, 0.54), (0.48, 0.55, 0.65), (0.6, 0.67, 0.74)),
        cloud=(0.44, 0.5, 0.6),
        cover=0.95,
        lamps=1.3,
    ),
    "snow": Light(
        gain=(0.95, 0.97, 1.02),
        saturation=0.92,
        haze=(0.88, 0.91, 0.96),
        haze_amount=0.3,
        sky=((0.74, 0.79, 0.88), (0.82, 0.86, 0.92), (0.9, 0.92, 0.95)),
        cloud=(0.95, 0.96, 0.98),
        cover=0.7,
    ),
    "night": Light(
        gain=(0.62, 0.66, 0.88),
        saturation=1.0,
        haze=(0.2, 0.25, 0.44),
        haze_amount=0.26,
        sky=((0.05, 0.07, 0.2), (0.11, 0.15, 0.33), (0.23, 0.28, 0.48)),
        cloud=(0.24, 0.28, 0.46),
        cover=0.3,
        lamps=1.75,
    ),
}
DISTANCE = {"far": 1.0, "mid": 0.45, "ground": 0.0, "fore": 0.0}


def grade(rgba: np.ndarray, weather: str, distance: float = 0.0) -> np.ndarray:
    """Relight premultiplied RGBA: saturation, gain, then haze by distance."""
    light = LIGHTS[weather]
    rgb, alpha = rgba[..., :3], rgba[..., 3:]
    luma = rgb @ np.array((0.30, 0.55, 0.15), np.float32)
    s = np.float32(light.saturation)
    out = (rgb * s + luma[..., None] * (1 - s)) * np.array(light.gain, np.float32)
    h = np.float32(light.haze_amount * distance)
    out = out * (1 - h) + alpha * (np.array(light.haze, np.float32) * h)
    return np.concatenate([np.minimum(out, alpha), alpha], -1).astype(np.float32)


def sky(weather: str, height: int, width: int) -> Float[np.ndarray, "h w 3"]:
    """The fixed part of the sky: gradient, sun or moon, stars."""
    light, ss, aspect = LIGHTS[weather], supersampling(height), width / height
    canvas = Canvas(0.0, 0.0, 1.0 / (height * ss), height * ss, width * ss)
    t = np.clip(canvas.y / 0.62, 0, 1)[..., None]
    top, middle, low = (np.array(c, np.float32) for c in light.sky)
    rgb = np.where(t < 0.5, top + (middle - top) * 2 * t, middle + (low - middle) * (2 * t - 1))
    canvas.rgba[..., :3] = np.broadcast_to(rgb, (*canvas.rgba.shape[:2], 3))
    canvas.rgba[..., 3] = 1.0

    def glow(x, y, radius, colour, strength):
        d2 = (canvas.x - x) ** 2 + (canvas.y - y) ** 2
        g = (strength * np.exp(-d2 / radius**2)).astype(np.float32)[..., None]
        canvas.rgba[..., :3] += g * (np.array(colour, np.float32) - canvas.rgba[..., :3])

    if weather == "morning":
        glow(0.20 * aspect, 0.16, 0.34, (1.0, 0.97, 0.84), 0.75)
        canvas.ellipse(0.20 * aspect, 0.16, 0.065, 0.065, (1.0, 0.99, 0.90), soft=0.02)
    elif weather == "sunset":
        glow(0.68 * aspect, 0.40, 0.42, (1.0, 0.84, 0.50), 0.85)
        canvas.ellipse(0.68 * aspect, 0.40, 0.10, 0.10, (1.0, 0.93, 0.68), soft=0.015)
    elif weather == "night":
        rng = np.random.default_rng(7)
        for _ in range(int(16 * aspect)):
            x, y, r = rng.uniform(0, aspect), rng.uniform(0, 0.42), rng.uniform(0.007, 0.012)
            canvas.ellipse(x, y, r, r, (0.90, 0.93, 1.0), soft=0.014, opacity=rng.uniform(0.4, 0.8))
        glow(0.78 * aspect, 0.17, 0.24, (0.62, 0.68, 0.90), 0.55)
        canvas.ellipse(0.78 * aspect, 0.17, 0.085, 0.085, (0.98, 0.97, 0.88), soft=0.012)
        canvas.ellipse(0.765 * aspect, 0.155, 0.020, 0.018, (0.88, 0.87, 0.80), soft=0.01)
        canvas.ellipse(0.80 * aspect, 0.195, 0.026, 0.022, (0.89, 0.88, 0.81), soft=0.01)
    out = canvas.rgba[..., :3]
    return out.reshape(height, ss, width, ss, 3).mean((1, 3)).astype(np.float32)


def clouds(weather: str, seed: int, height: int, width: int) -> Layer:
    """A ring of soft clouds, four frames around."""
    light, ss, aspect = LIGHTS[weather], supersampling(height), width / height
    step, circumference = 1.0 / (height * ss), 4
    rows, columns = int(0.62 / step), int(round(circumference * aspect / step))
    canvas = Canvas(0.0, 0.0, step, rows, columns)
    rng = np.random.default_rng([seed, 11])
    count = int(circumference * aspect * (3 + 9 * light.cover))
    for _ in range(count):
        x, y, size = (
            rng.uniform(0, circumference * aspect),
            rng.uniform(0.0, 0.40),
            rng.uniform(0.07, 0.13),
        )
        for k in range(5):
            dx, dy = rng.normal(0, 0.9 * size), rng.normal(0, 0.16 * size)
            r = size * rng.uniform(0.5, 0.85)
            tone = np.array(light.cloud) * (1 - 0.04 * (k == 0))
            for wrap in (-circumference * aspect, 0.0, circumference * aspect):
                canvas.ellipse(x + dx + wrap, y + dy, r * 1.25, r * 0.62, tuple(tone), soft=0.07,
                               opacity=0.35 + 0.35 * light.cover, gradient=0.05)  # fmt: skip
    fade = 1.0 - smoothstep(0.36, 0.58, canvas.y)
    canvas.rgba *= fade[..., None]
    return Layer(0.15, canvas.rgba, columns / circumference, 1.0 / step)


def shafts(weather: str, height: int, width: int) -> tuple[np.ndarray, ...]:
    """Slanted beams of light [h, w], to be added with slowly breathing strength."""
    strength = LIGHTS[weather].shafts
    if not strength:
        return ()
    aspect = width / height
    y = ((np.arange(height) + 0.5) / height)[:, None]
    x = ((np.arange(width) + 0.5) / height)[None, :]
    source, lean = (0.20, 0.55) if weather == "morning" else (0.68, -0.45)
    beams = []
    for offset, half in ((-0.16, 0.055), (0.06, 0.075), (0.30, 0.05)):
        across = (x - source * aspect - offset) - lean * y
        beam = np.exp(-((across / (half * (0.7 + y))) ** 2)) * (1.0 - smoothstep(0.2, 0.95, y))
        beams.append((strength * beam).astype(np.float32))
    return tuple(beams)


def particles(weather: str, height: int, width: int) -> tuple[Layer, ...]:
    """Tiles of rain streaks or snowflakes, two depths; they scroll and repeat every frame size."""
    if weather not in ("rain", "snow"):
        return ()
    ss, aspect = supersampling(height), width / height
    step = 1.0 / (height * ss)
    layers = []
    for depth, (count, size) in enumerate(((30, 0.8), (16, 1.15))):
        canvas = Canvas(0.0, 0.0, step, height * ss, width * ss)
        rng = np.random.default_rng([depth, WEATHER_SEED[weather]])
        across = max(round(np.sqrt(count) * aspect), 2)
        down = max(round(np.sqrt(count)), 2)
        for cell in range(across * down):  # one per cell of a grid: neither clumps nor holes
            x = (cell % across + rng.uniform(0.1, 0.9)) * aspect / across
            y = (cell // across + rng.uniform(0.1, 0.9)) / down
            for wx in (-aspect, 0.0, aspect):
                for wy in (-1.0, 0.0, 1.0):
                    if weather == "rain":
                        canvas.capsule(x + wx, y + wy, x + wx - 0.022 * size, y + wy + 0.11 * size,
                                       0.009 * size, 0.011 * size, (0.84, 0.90, 0.97), soft=0.018,
                                       opacity=0.55)  # fmt: skip
                    else:
                        canvas.ellipse(x + wx, y + wy, 0.019 * size, 0.019 * size, (1.0, 1.0, 1.0),
                                       soft=0.022, opacity=0.85)  # fmt: skip
        layers.append(Layer(0.8 + 0.3 * depth, canvas.rgba, width * ss, height * ss))
    return tuple(layers)


WEATHER_SEED = {"rain": 3, "snow": 5}
FALL = {"rain": (1.9, -0.38), "snow": (0.17, 0.03)}  # frame heights per second: down, sideways


def falling(layer: Layer, weather: str, seconds: float, camera_x: float, height: int, width: int):
    """The particle tile of one frame, premultiplied RGBA."""
    down, side = FALL[weather]
    pace = 0.8 + 0.4 * (layer.parallax > 1)
    sway = 0.02 * np.sin(1.3 * seconds + 5 * layer.parallax) if weather == "snow" else 0.0
    shift_x = camera_x * layer.parallax - (side * pace * seconds + sway) * height / width
    return sample(
        layer,
        shift_x / layer.parallax,
        1.0,
        height,
        width,
        top=0.0,
        y=-(down * pace * seconds) % 1.0,
    )
