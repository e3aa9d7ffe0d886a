"""Sharpness against the 3x3 convolution written out, and what it must tell apart."""

import numpy as np
from scipy import ndimage

from bvjax.lvbench.clarity import clarity


def textured(seed=0, size=24):
    return np.random.default_rng(seed).integers(0, 256, (1, size, size, 3), dtype=np.uint8)


def test_is_the_variance_of_the_laplacian_of_luminance():
    frames = np.concatenate([textured(0), textured(1)])
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], float)
    expected = []
    for frame in frames:
        y = frame.astype(float) @ (0.299, 0.587, 0.114)
        expected.append(ndimage.convolve(y, kernel)[1:-1, 1:-1].var())
    np.testing.assert_allclose(clarity(frames), expected, rtol=1e-4)


def test_blur_lowers_it_and_a_ramp_has_none():
    sharp = textured()
    blurred = ndimage.gaussian_filter(sharp.astype(float), (0, 1, 1, 0)).astype(np.uint8)
    assert clarity(blurred)[0] < 0.2 * clarity(sharp)[0]
    ramp = np.broadcast_to(2 * np.arange(24, dtype=np.uint8)[:, None], (1, 24, 24))
    np.testing.assert_allclose(clarity(np.stack([ramp] * 3, -1)), 0, atol=1e-6)
