"""The networks against what diffusers and transformers made of the same weights (no torch needed)."""

from __future__ import annotations

import numpy as np
import pytest

from tests.golden import wan_cases as cases


@pytest.fixture(scope="module")
def golden():
    with np.load(cases.FILE) as file:
        return dict(file)


def check(ours, want, tolerance):
    assert np.abs(want).max() > 0.9  # there is something to be wrong about
    np.testing.assert_allclose(ours, want, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", cases.LEVELS)
def test_dit(golden, name):
    check(cases.our_velocity(name), golden[name], 5e-5)


def test_the_golden_velocities_tell_levels_apart(golden):
    one, each = (golden[name] for name in cases.LEVELS)
    assert np.abs(one - each).max() > 0.1


def test_vae_encode(golden):
    check(cases.our_latents(), golden["vae, encode"], 1e-5)


def test_vae_decode(golden):
    check(cases.our_frames(), golden["vae, decode"], 1e-5)


def test_umt5(golden):
    """Captions of four lengths, more than 128 tokens among them."""
    check(cases.our_states(), golden["umt5"], 2e-5)
