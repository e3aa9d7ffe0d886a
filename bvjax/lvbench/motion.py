"""VDE Motion's score: how much moves between two frames (Eq. 21, 22).

The paper takes the magnitude of an optical flow and names no method.  Here it is a pyramidal,
iterated Lucas-Kanade flow at every pixel (Lucas & Kanade 1981; Bouguet 2001): no weights, a page of
code, and accurate on textured frames up to a few pixels a frame; where nothing has texture the flow
is 0.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from bvjax.lvbench.clarity import luminance

COARSEST = 16  # pixels: shorter side below which the pyramid has no further level
RADIUS = 3  # of the window, in pixels of a level
ITERATIONS = 5  # per level
NOISE = 1.0  # squared grey levels a pixel: gradients below it count as noise
_PIXELS_AT_ONCE = 2**17


def motion(frames: UInt8[np.ndarray, "f h w 3"]) -> Float[np.ndarray, "f-1"]:
    """Mean length of the flow between neighbouring frames, in pixels per frame (Eq. 21)."""
    return np.asarray(motion_async(frames), np.float64)


def motion_async(frames: UInt8[np.ndarray, "f h w 3"]) -> Float[Array, "f-1"]:
    """Dispatches `motion` to the device; reading the result waits."""
    return _mean_flow(luminance(np.asarray(frames)))


@jax.jit
def optical_flow(
    first: Float[Array, "n h w"], second: Float[Array, "n h w"]
) -> Float[Array, "n h w 2"]:
    """(down, right) displacement u in pixels with second(p + u(p)) = first(p); luminance 0..255."""
    pyramid = [(first, second)]
    while min(pyramid[-1][0].shape[1:]) >= 2 * COARSEST:
        pyramid.append(tuple(_halve(x) for x in pyramid[-1]))
    flow = jnp.zeros((*pyramid[-1][0].shape, 2))
    for level, (a, b) in enumerate(reversed(pyramid)):
        if level:
            flow = _double(flow, a.shape)
        flow = _refine(a, b, flow)
    return flow


@jax.jit
def _mean_flow(luma: Float[Array, "f h w"]) -> Float[Array, "f-1"]:
    def pair_motion(pair):
        flow = optical_flow(pair[0][None], pair[1][None])
        return jnp.sqrt(jnp.sum(flow**2, axis=-1)).mean()

    batch = max(1, _PIXELS_AT_ONCE // (luma.shape[1] * luma.shape[2]))
    return jax.lax.map(pair_motion, (luma[:-1], luma[1:]), batch_size=batch)


def _refine(
    a: Float[Array, "n h w"], b: Float[Array, "n h w"], flow: Float[Array, "n h w 2"]
) -> Float[Array, "n h w 2"]:
    """Gauss-Newton steps of min over u of the sum of (b(p + u) - a(p))^2 in a window around p."""
    n, height, width = a.shape
    gy, gx = (jnp.gradient(a, axis=axis) for axis in (1, 2))
    grid = jnp.stack(jnp.mgrid[:height, :width], axis=-1).astype(jnp.float32)
    sample = jax.vmap(functools.partial(jax.scipy.ndimage.map_coordinates, order=1, mode="nearest"))
    limit = jnp.array([height - 1.0, width - 1.0])

    def step(_, flow):
        positions = grid + flow
        inside = jnp.all(
            (positions >= 0) & (positions <= limit), axis=-1
        )  # elsewhere b is not known
        error = sample(b, (positions[..., 0], positions[..., 1])) - a
        elementwise = (gy * gy, gy * gx, gx * gx, gy * error, gx * error)
        yy, yx, xx, ey, ex = (_window_mean(jnp.where(inside, p, 0.0)) for p in elementwise)
        yy, xx = yy + NOISE, xx + NOISE
        scale = 1.0 / (yy * xx - yx * yx)
        change = jnp.stack([xx * ey - yx * ex, yy * ex - yx * ey], axis=-1) * scale[..., None]
        return flow - jnp.clip(change, -1.0, 1.0)  # a longer step would leave the linear range

    return _window_mean(jax.lax.fori_loop(0, ITERATIONS, step, flow), radius=1)


def _window_mean(x: Float[Array, "n h w *c"], radius: int = RADIUS) -> Float[Array, "n h w *c"]:
    """Mean over a square window, the frame's edge repeated."""
    for axis in (1, 2):
        pads = [(radius, radius) if i == axis else (0, 0) for i in range(x.ndim)]
        padded, size = jnp.pad(x, pads, mode="edge"), x.shape[axis]
        slices = [
            jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(2 * radius + 1)
        ]
        x = sum(slices) / len(slices)
    return x


def _halve(x: Float[Array, "n h w"]) -> Float[Array, "n h2 w2"]:
    """Means of 2 x 2 pixels; an odd side repeats its last pixel."""
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2)), mode="edge")
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4.0


def _double(flow: Float[Array, "n h2 w2 2"], shape: tuple[int, ...]) -> Float[Array, "n h w 2"]:
    """The flow of the next finer level: twice the size, twice the length."""
    n, height, width, _ = flow.shape
    finer = jax.image.resize(flow, (n, 2 * height, 2 * width, 2), "linear")
    return 2.0 * finer[:, : shape[1], : shape[2]]
