"""Both forms of the rotation against complex numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels_pallas.rope import rotate


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 2**-7)])
@pytest.mark.parametrize("form", ["pairs", "product"])
def test_equals_complex_numbers(form, dtype, tolerance):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 7, 3, 8)), dtype)
    angles = rng.uniform(-400, 400, (2, 7, 4)).astype(np.float32)
    got = jax.jit(rotate, static_argnums=2)(x, angles, form)
    assert got.dtype == dtype
    pairs = np.asarray(x, np.float64).reshape(2, 7, 3, 4, 2)
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles.astype(float))[:, :, None]
    want = np.stack([turned.real, turned.imag], -1).reshape(x.shape)
    np.testing.assert_allclose(np.asarray(got, float), want, rtol=tolerance, atol=1e-4)


def test_unknown_form():
    with pytest.raises(ValueError, match="'complex' is unknown"):
        rotate(jnp.zeros((1, 1, 2)), jnp.zeros((1, 1)), "complex")
