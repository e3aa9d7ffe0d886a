"""UniPC against trajectories of diffusers' scheduler (no torch needed)."""

from __future__ import annotations

import numpy as np
import pytest

from bvjax.diffusion import solvers
from tests.golden import wan_cases as cases


@pytest.mark.parametrize("name", cases.SAMPLERS)
def test_unipc(name):
    with np.load(cases.FILE) as golden:
        np.testing.assert_array_equal(
            solvers.sigmas(cases.SAMPLERS[name]), golden[f"{name}: levels"]
        )
        np.testing.assert_array_equal(
            solvers.timesteps(cases.SAMPLERS[name]), golden[f"{name}: labels"]
        )
        assert np.abs(golden[name]).max() > 1
        np.testing.assert_allclose(cases.our_sample(name), golden[name], rtol=0, atol=1e-5)
