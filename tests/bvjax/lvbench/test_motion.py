"""Optical flow on shifts that are known."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from bvjax.lvbench.motion import motion, optical_flow

SIZE = 64


def scene(seed=0, size=2 * SIZE):
    """A smooth random texture, 0..255."""
    noise = np.random.default_rng(seed).normal(size=(size, size))
    smooth = ndimage.gaussian_filter(noise, 2.0, mode="wrap")
    return 127.5 + 60 * smooth / smooth.std()


def view(scene, down, right):
    """The window of the scene that a camera sees after it has moved: content goes the other way."""
    rows, columns = np.mgrid[:SIZE, :SIZE] + SIZE / 2.0
    return ndimage.map_coordinates(scene, [rows + down, columns + right], order=3, mode="wrap")


def video(shifts, seed=0):
    frames = np.stack([view(scene(seed), *shift) for shift in shifts])
    return np.repeat(np.clip(frames, 0, 255).round().astype(np.uint8)[..., None], 3, axis=-1)


@pytest.mark.parametrize("step", [(0.5, 0.0), (0.0, 1.5), (2.0, -2.0), (-4.0, 3.0)])
def test_length_of_a_known_shift(step):
    shifts = [(i * step[0], i * step[1]) for i in range(3)]
    np.testing.assert_allclose(motion(video(shifts)), np.hypot(*step), rtol=0.1)


def test_direction_and_place():
    """The left half stands still, the right half moves down by 1."""
    first, moved = view(scene(1), 0, 0), view(scene(1), -1, 0)
    second = first.copy()
    second[:, SIZE // 2 :] = moved[:, SIZE // 2 :]
    flow = np.asarray(optical_flow(jnp.asarray(first)[None], jnp.asarray(second)[None]))[0]
    inner = slice(8, -8)
    np.testing.assert_allclose(flow[inner, 4:24].mean((0, 1)), [0, 0], atol=0.1)
    np.testing.assert_allclose(flow[inner, 40:60].mean((0, 1)), [1, 0], atol=0.15)


def test_nothing_moves():
    still = video([(0, 0)] * 2)
    assert motion(still).max() < 1e-3
    flat = np.full((3, 20, 33, 3), 90, np.uint8)  # odd sizes, one level
    flat[1] += 40  # brightness alone is not motion where nothing has texture
    assert motion(flat).max() < 1e-3
