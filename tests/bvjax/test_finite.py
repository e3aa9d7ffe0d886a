"""NaN and infinity are found wherever they are, in every dtype of weights."""

import ml_dtypes
import numpy as np
import pytest

from bvjax.finite import BLOCK, is_finite


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, BLOCK - 1, BLOCK, 2 * BLOCK + 6])
def test_one_value_is_found(dtype, value, at):
    array = np.zeros(2 * BLOCK + 7, dtype)
    array[:4] = ml_dtypes.finfo(dtype).max, ml_dtypes.finfo(dtype).min, -0.0, 1e-7
    assert is_finite(array)
    array[at] = value
    assert not is_finite(array)


def test_shapes_and_other_dtypes():
    assert is_finite(np.zeros((0, 3), np.float32)) and is_finite(np.float32(1))
    assert not is_finite(np.float16(np.nan)) and not is_finite(np.full((2, 3, 4), np.inf))
    assert is_finite(np.arange(3)) and is_finite(np.array([True])) and is_finite(np.array(["a"]))
    strided = np.zeros((8, 8), np.float16)
    strided[3, 5] = np.nan
    assert (
        not is_finite(strided[:, 5:6]) and is_finite(strided[:, ::2]) and not is_finite(strided.T)
    )
    assert not is_finite(np.full(2, np.nan, ml_dtypes.float8_e4m3fn))
