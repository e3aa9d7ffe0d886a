"""SkyReels-V2 against golden files that diffusers made (`make_skyreels.py`); no torch needed."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.diffusion import diffusion_forcing
from bvjax.nets import vae
from tests.golden import skyreels_cases as cases

HERE = pathlib.Path(__file__).parent
VELOCITY, LATENTS, VIDEO = 1e-4, 5e-5, 2e-5  # of sizes 5, 7 and 1; as in the live tests


def golden(name):
    with np.load(HERE / f"skyreels_{name}.npz") as file:
        return dict(file)


@pytest.mark.parametrize("case", cases.DIT_CASES, ids=lambda c: c.name)
def test_transformer(case):
    """Scalar and per-frame timesteps, both rates, odd numbers of tokens, the causal block mask."""
    want = golden("dit")[case.name]
    assert np.abs(want).max() > 1
    np.testing.assert_allclose(cases.our_velocity(case), want, atol=VELOCITY)


@pytest.mark.parametrize("number", range(len(cases.TIMETABLES)))
def test_timetable(number):
    steps, frames, ready, window, ar_step, block = cases.TIMETABLES[number]
    table = diffusion_forcing.timetable(
        cases.timetable_labels(steps),
        frames,
        ready=ready,
        window=window,
        ar_step=ar_step,
        block=block,
    )
    labels, count, update = golden("timetable")[f"rows {number}"]
    np.testing.assert_array_equal(table.timestep, labels)
    np.testing.assert_array_equal(table.count, count)
    np.testing.assert_array_equal(table.update, update)
    np.testing.assert_array_equal(table.interval, golden("timetable")[f"interval {number}"])


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.PIPELINE_CASES)
def test_pipeline(name):
    """Text, two windows with history, solver, guidance; of the first case the video too."""
    want, windows = golden("pipeline"), cases.our_windows(cases.PIPELINE_CASES[name])
    latents = cases.whole(windows, 5)
    np.testing.assert_allclose(latents, want[name], atol=LATENTS)
    if cases.PIPELINE_CASES[name] is cases.PIPELINE:
        params, config = (
            jax.tree.map(jnp.asarray, cases.pipeline_params()["vae"]),
            cases.PIPELINE.vae,
        )
        frames = jax.jit(lambda z: vae.decode(params, config, z))(latents[None])[0]
        np.testing.assert_allclose((cases.thinned(frames) + 1) / 2, want["video"], atol=VIDEO)
