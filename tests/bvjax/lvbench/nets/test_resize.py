"""Resizing against its definition; against PyTorch itself in tests/torch."""

import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.lvbench.nets.resize import resize, short_side, taps


def kernel(kind, x):
    """The interpolation kernels of the literature; cubic with A = -0.75."""
    x, a = np.abs(x), -0.75
    if kind == "bilinear":
        return np.maximum(1 - x, 0)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size, target, scale", [(7, 4, None), (5, 12, None), (6, 6, 6.1 / 6)])
def test_weights_are_the_kernel_at_half_pixel_centres(kind, size, target, scale):
    indices, weights = taps(size, target, kind, scale)
    actual = np.zeros((target, size))
    np.add.at(actual, (np.arange(target)[:, None], indices), weights)
    step = size / target if kind == "bilinear" and size == target else 1 / (scale or target / size)
    centres = (np.arange(target) + 0.5) * step - 0.5
    expected = np.zeros((target, size))
    for j in range(-3, size + 3):  # what lies outside is the border's
        expected[:, min(max(j, 0), size - 1)] += kernel(kind, centres - j)
    if kind == "bilinear" and size == target:
        expected = np.eye(size)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_two_axes_cubic_overshoots_and_nearest_repeats():
    edge = np.zeros((2, 8, 8, 1), np.uint8)
    edge[0, :, 4:] = 255
    edge[1, 4:] = 255
    wide, tall = np.asarray(resize(edge, (8, 16), "bicubic"))[..., 0]
    assert wide.dtype == np.float32 and wide.min() < -5 and wide.max() > 260
    np.testing.assert_array_equal(wide, wide[:1].repeat(8, axis=0))
    assert tall.shape == (8, 16) and set(np.unique(tall)) == {0, 255}
    index = np.arange(10, dtype=np.int32)[:, None, None]
    nearest = np.asarray(resize(index, (4, 1), "nearest"))
    assert nearest.dtype == np.int32 and nearest.ravel().tolist() == [0, 2, 5, 7]


def test_sizes_and_bad_kinds():
    assert short_side(480, 854, 224) == (224, 398)  # 398.5 rounded down
    assert short_side(1920, 1080, 224) == (398, 224)
    with pytest.raises(UserError, match="'lanczos'; it can be bilinear"):
        resize(np.zeros((2, 2, 3)), (1, 1), "lanczos")
