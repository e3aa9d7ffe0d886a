"""MUSIQ: its parts against equations, and the whole network against the published scores."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.lvbench.nets import musiq
from bvjax.lvbench.official.clarity import clarity_input
from tests.golden import metric_recipe, musiq_cases


def test_has_the_published_tensors():
    shapes = musiq.shapes()
    assert len(shapes) == 248
    assert sum(math.prod(shape) for shape in shapes.values()) == 27_125_825
    last = musiq._LAYER.format(13)
    assert shapes[f"{last}attention.query.weight"] == (384, 384)
    assert shapes[f"{last}mlp.fc2.weight"] == (384, 1152)
    assert shapes["embedding.weight"] == (384, 8 * 8 * 256)


def test_kernels_are_standardised_with_the_unbiased_deviation():
    kernel = np.random.default_rng(0).normal(3, 2, (2, 3, 2, 2)).astype(np.float32)
    for given, result in zip(kernel, musiq.standardise(kernel), strict=True):
        mean = given.sum(dtype=np.float64) / 12
        deviation = math.sqrt(((given - mean) ** 2).sum(dtype=np.float64) / 11)
        np.testing.assert_allclose(result, (given - mean) / (deviation + 1e-5), rtol=1e-6)


def test_convolution_is_padded_more_at_the_end():
    x = np.random.default_rng(1).normal(size=(1, 8, 8, 1)).astype(np.float32)
    kernel = np.random.default_rng(2).normal(size=(7, 7, 1, 1)).astype(np.float32)
    result = musiq._convolve({"a.weight": kernel}, "a", jnp.asarray(x), stride=2)
    padded = np.pad(x[0, :, :, 0], ((2, 3), (2, 3)))
    expected = [
        [(padded[i : i + 7, j : j + 7] * kernel[:, :, 0, 0]).sum() for j in range(0, 8, 2)]
        for i in range(0, 8, 2)
    ]
    np.testing.assert_allclose(result[0, :, :, 0], expected, atol=1e-4)


def test_squares_have_what_is_missing_on_both_sides():
    x = np.arange(33 * 70, dtype=np.float32).reshape(1, 33, 70, 1) + 1
    result = np.asarray(musiq.squares(jnp.asarray(x)))
    assert result.shape == (1, 2 * 3, 32, 32, 1)
    padded = np.pad(x[0, :, :, 0], ((15, 16), (13, 13)))
    np.testing.assert_array_equal(result[0, 4, :, :, 0], padded[32:, 32:64])


def test_places_and_scales():
    by_hand = [int(i * 10 / 7) for i in range(7)]
    result = musiq.hashed_positions(7, 12, 10).reshape(7, 12)
    np.testing.assert_array_equal(result[:, 0], [10 * place for place in by_hand])
    np.testing.assert_array_equal(result[0], [int(i * 10 / 12) for i in range(12)])
    assert musiq.scaled(287, 512, 224) == (126, 224) and musiq.scaled(480, 854, 384) == (216, 384)
    assert musiq.scaled(5, 64, 224) == (18, 224)  # 17.5, to even
    assert musiq.scaled(3, 64, 224) == (10, 224)  # 10.5, to even


@pytest.mark.slow
def test_scores_are_those_of_the_published_network():
    tensors = metric_recipe.params(musiq_cases.NET, musiq.shapes())
    params = jax.device_put(musiq.prepare(tensors))
    score = jax.jit(lambda params, frames: musiq.musiq(params, clarity_input(frames)))
    expected = np.load(musiq_cases.FILE)["scores"]
    for size, number in zip(musiq_cases.SIZES, expected, strict=True):
        frame = musiq_cases.frame(*size)
        result = score(params, np.stack([frame, 255 - frame]))  # rows do not mix
        np.testing.assert_allclose(result[0], number, rtol=3e-5)
        assert abs(result[1] - number) > 1e-2
