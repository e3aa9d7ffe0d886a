"""Layers of the panorama: every place painted once per story, sampled for every frame.

A layer of parallax p is a ring of circumference p * PLACE_SPACING * n_places (in frame widths); the
camera at x sees it centred at p * x, zoomed by 1 + (zoom - 1) p. Neighbouring places melt into one
another along a wandering seam, so that the whole ring is one picture without a cut.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from jaxtyping import Float
from scipy import sparse

from data_pipelines.storyworld import places
from data_pipelines.storyworld.shapes import Canvas, smoothstep, soft_noise
from data_pipelines.storyworld.world import PLACE_SPACING, Place

LAYERS = {"far": 0.70, "mid": 0.85, "ground": 1.0, "fore": 1.15}
# Half width of the seam between two places in each layer, in frame widths. Seams stay out of every
# view of a place: reach of a view + FADE < half a place (times parallax).
FADE = {"far": 0.05, "mid": 0.10, "ground": 0.14, "fore": 0.12}
TOP, BOTTOM = -0.14, 1.08  # vertical extent in frame heights: what a zoom out may show
PIVOT = 0.74  # height that a zoom leaves in place
SEAM_WANDER = 0.05  # how far a seam wanders sideways as it goes down


def layer_zoom(zoom: float, parallax: float) -> float:
    """Distant layers zoom less."""
    return 1.0 + (zoom - 1.0) * min(parallax, 1.0)


def supersampling(height: int) -> int:
    """Samples per output pixel and axis: 2 for small pictures, 1 where pixels are fine anyway."""
    return 2 if height <= 256 else 1


@dataclasses.dataclass(frozen=True)
class Layer:
    """A premultiplied RGBA ring picture."""

    parallax: float
    rgba: Float[np.ndarray, "h w 4"]
    per_width: float  # picture columns per frame width
    per_height: float  # picture rows per frame height


def paint_layers(
    ring: tuple[Place, ...], seed: int, height: int, width: int, lamps: float = 1.0
) -> dict[str, Layer]:
    """All layers of a ring of places in neutral light, at the supersampled resolution."""
    ss = supersampling(height)
    aspect = width / height
    step = 1.0 / (height * ss)
    rows = int(np.ceil((BOTTOM - TOP) / step))
    n = len(ring)
    pieces: dict[str, list[np.ndarray]] = {name: [] for name in LAYERS}
    for place in ring:
        canvases = {}
        for name, parallax in LAYERS.items():
            half = int(
                np.ceil((0.5 * parallax * PLACE_SPACING + FADE[name] + SEAM_WANDER) * aspect / step)
            )
            canvases[name] = Canvas(-half * step, TOP, step, rows, 2 * half, lamps)
        places.PAINTERS[place.kind](**canvases, rng=np.random.default_rng(place.look))
        for name, canvas in canvases.items():
            pieces[name].append(canvas.rgba)
    layers = {}
    for name, parallax in LAYERS.items():
        columns = int(round(parallax * PLACE_SPACING * n * aspect / step))
        rgba = np.zeros((rows, columns, 4), np.float32)
        centre = np.arange(columns, dtype=np.float32) + 0.5
        fade = FADE[name] * aspect / step
        line = (np.arange(rows, dtype=np.float32)[:, None] + 0.5) * step
        wander = soft_noise(np.float32(0.5), line, 1.0, 0.09, np.random.default_rng(seed))
        wander *= SEAM_WANDER * aspect / step
        reach = 0.5 * columns / n
        for i, piece in enumerate(pieces[name]):
            half = piece.shape[1] // 2
            offset = (centre - i * columns / n + 0.5 * columns) % columns - 0.5 * columns
            # The wander has the same sign on both sides of a seam, so that the weights sum to one.
            right = 1.0 - smoothstep(reach - fade, reach + fade, offset[None, :] - wander)
            left = 1.0 - smoothstep(reach - fade, reach + fade, wander - offset[None, :])
            weight = np.ones_like(right) if n == 1 else np.minimum(left, right)
            weight = weight * (np.abs(offset) < half)
            take = np.clip((offset + half).astype(int), 0, 2 * half - 1)
            rgba += piece[:, take] * weight.astype(np.float32)[..., None]
        if n == 1:
            rgba = _close_ring(rgba, int(fade))
        layers[name] = Layer(parallax, rgba, columns / (parallax * PLACE_SPACING * n), 1.0 / step)
    return layers


def _close_ring(rgba: np.ndarray, fade: int) -> np.ndarray:
    """Melt the two ends of a single place into each other at the seam opposite its centre."""
    seam = rgba.shape[1] // 2
    strip = rgba[:, seam - fade : seam + fade]
    mirror = strip[:, ::-1]
    weight = 1.0 - np.abs(np.linspace(-1, 1, strip.shape[1], dtype=np.float32))[None, :, None]
    rgba[:, seam - fade : seam + fade] = strip * (1 - 0.5 * weight) + mirror * 0.5 * weight
    return rgba


@functools.lru_cache(maxsize=256)
def _operator(start: float, stop: float, outputs: int, samples: int):
    """(first input, sparse [outputs, inputs]): bilinear taps at outputs * samples positions evenly
    between two edges (in input pixels), averaged per output."""
    count = outputs * samples
    position = start + (np.arange(count) + 0.5) * ((stop - start) / count) - 0.5
    low = np.floor(position).astype(np.int64)
    frac = (position - low).astype(np.float32)
    first = int(low[0])
    row = np.arange(count) // samples
    weights = np.concatenate([1.0 - frac, frac]) / np.float32(samples)
    where = (np.concatenate([row, row]), np.concatenate([low, low + 1]) - first)
    shape = (outputs, int(low[-1]) + 2 - first)
    return first, sparse.csr_array((weights, where), shape=shape)


def sample(
    layer: Layer, x: float, zoom: float, height: int, width: int, top: float = TOP, y: float = 0.0
) -> Float[np.ndarray, "h w 4"]:
    """Samples a layer for the camera at x: bilinear taps, averaged over the samples of a pixel.

    Columns wrap around the ring; rows wrap too (only falling tiles ever reach beyond theirs).
    """
    ss = supersampling(height)
    scale = layer_zoom(zoom, layer.parallax)
    rows, columns = layer.rgba.shape[:2]
    left = (layer.parallax * x - 0.5 / scale) * layer.per_width
    left -= np.floor(left / columns) * columns
    across, wide = _operator(left, left + layer.per_width / scale, width, ss)
    above = (PIVOT * (1.0 - 1.0 / scale) - top + y) * layer.per_height
    down, tall = _operator(above, above + layer.per_height / scale, height, ss)
    band = layer.rgba.take(np.arange(down, down + tall.shape[1]), 0, mode="wrap")
    band = band.take(np.arange(across, across + wide.shape[1]), 1, mode="wrap")
    half = tall @ band.reshape(tall.shape[1], -1)
    half = half.reshape(height, wide.shape[1], 4).transpose(1, 0, 2).reshape(wide.shape[1], -1)
    return (wide @ half).reshape(width, height, 4).transpose(1, 0, 2)
