"""Samplers against diffusers' schedulers: levels, labels, and whole trajectories of a made-up velocity."""

from __future__ import annotations

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.schedulers import scheduling_flow_match_euler_discrete as euler_source

from bvjax.config import SamplerConfig
from bvjax.diffusion import solvers
from bvjax.diffusion.noise import gaussian
from bvjax.random import purpose_key
from tests.golden import recipe
from tests.torch.builders import difference, size

UNIPC = "diffusers `UniPCMultistepScheduler`"
EULER = "diffusers `FlowMatchEulerDiscreteScheduler`"
TOLERANCE = 1e-5
STEPS = (1, 2, 3, 4, 10, 30, 50)
SHIFTS = (1.0, 3.0, 5.0, 8.0)
NOISE = recipe.uniform("noise", (2, 3, 4, 5))
KEY = jax.random.key(5)


def velocity(x, sigma, sin):
    """Curved, and different at every level: what a wrong order or a wrong level would show in."""
    return sin(2.0 * x + 3.0 * sigma) + 0.5 * x


def ours(sampler: SamplerConfig) -> np.ndarray:
    """The trajectory's end; the velocity sees the label that a network would."""
    solve = jax.jit(
        lambda noise: solvers.solve(sampler, lambda x, s: velocity(x, s, jnp.sin), noise, KEY)
    )
    return np.asarray(solve(NOISE))


def theirs(scheduler) -> np.ndarray:
    x = torch.from_numpy(NOISE)
    for t in scheduler.timesteps:
        label = np.float32(t) / np.float32(1000)
        v = velocity(x, float(label), torch.sin)
        x = scheduler.step(v, t, x, return_dict=False)[0]
    return x.numpy()


def unipc(shift: float) -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )


@pytest.mark.parametrize("shift", SHIFTS)
def test_unipc_levels_and_labels(shift, record_parity):
    for steps in (*STEPS, 1000):
        sampler = SamplerConfig(steps=steps, shift=shift, schedule="diffusers")
        scheduler = unipc(shift)
        scheduler.set_timesteps(steps)
        for name, a, b in (
            ("UniPC, levels", solvers.sigmas(sampler), scheduler.sigmas),
            ("UniPC, labels", solvers.timesteps(sampler), scheduler.timesteps),
        ):
            record_parity(name, UNIPC, difference(a, b), 0, size(b))


@pytest.mark.parametrize("grid", ["wan", "diffusers"])  # MAGI-1 has no pipeline there
@pytest.mark.parametrize("shift, steps", [(3.0, n) for n in STEPS] + [(s, 20) for s in SHIFTS])
def test_unipc_trajectory(grid, shift, steps, record_parity):
    """On diffusers' own levels, and on Wan's, which its scheduler takes as `sigmas`."""
    sampler = SamplerConfig(steps=steps, shift=shift, schedule=grid)
    scheduler = unipc(1.0 if grid == "wan" else shift)
    levels = {"sigmas": solvers.sigmas(sampler)[:-1].astype(np.float64)} if grid == "wan" else {}
    scheduler.set_timesteps(steps, **levels)
    found, want = ours(sampler), theirs(scheduler)
    name = f"UniPC, trajectories on the levels of {'Wan2.1' if grid == 'wan' else 'diffusers'}"
    record_parity(name, UNIPC, difference(found, want), TOLERANCE, size(want))
    assert steps == 1 or difference(ours(dataclasses.replace(sampler, kind="euler")), want) > 1e-3


@pytest.mark.parametrize("grid", ["wan", "diffusers"])  # MAGI-1 has no pipeline there
@pytest.mark.parametrize("shift", SHIFTS)
def test_euler(grid, shift, record_parity):
    """On the scheduler's own levels, and given N equal steps from 1 to 1/N, as most pipelines do."""
    for steps in (1, 4, 30):
        sampler = SamplerConfig(kind="euler", steps=steps, shift=shift, schedule=grid)
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        if grid == "diffusers":
            scheduler.set_timesteps(steps)
        else:
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps))
        row = f"Euler, {'its own' if grid == 'diffusers' else 'equal'} steps: "
        for name, a, b in (
            ("levels", solvers.sigmas(sampler), scheduler.sigmas),
            ("labels / 1000", solvers.timesteps(sampler) / 1e3, scheduler.timesteps / 1e3),
        ):
            record_parity(row + name, EULER, difference(a, b), 5e-7, size(b))
        want = theirs(scheduler)
        error = difference(ours(sampler), want)
        record_parity(row + "trajectories", EULER, error, TOLERANCE, size(want))


def test_few_step_levels(record_parity):
    """[1000, 750, 500, 250] warped by shift 5, and lists of other models."""
    reference = "[1000, 937.5, 833.33, 625]"
    want = np.array([1000, 937.5, 2500 / 3, 625]) / 1000
    sampler = SamplerConfig(kind="few_step", steps=4)
    for levels in (solvers.sigmas(sampler)[:-1], solvers.timesteps(sampler) / 1000):
        record_parity("few-step, warped levels", reference, difference(levels, want), 1e-7, 1.0)
    for listed, shift in (((1000.0, 757.0, 522.0), 1.0), ((1000.0, 500.0), 8.0), ((3.0,), 5.0)):
        sampler = SamplerConfig(kind="few_step", steps=len(listed), few_step=listed, shift=shift)
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(sigmas=np.array(listed) / 1000)
        error = difference(solvers.sigmas(sampler), scheduler.sigmas)
        record_parity("few-step, warped levels", EULER, error, 2e-7, 1.0)


def test_few_step_trajectory(record_parity):
    """Its stochastic steps do the same; both get the same fresh noise."""
    sampler = SamplerConfig(kind="few_step", steps=4)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0, stochastic_sampling=True)
    scheduler.set_timesteps(sigmas=np.array(sampler.few_step) / 1000)
    draws = iter(range(4))

    def fresh(shape, **_):
        key = purpose_key(KEY, "fresh noise", next(draws))
        return torch.from_numpy(np.array(gaussian(key, shape[0], tuple(shape[1:]))))

    with mock.patch.object(euler_source, "randn_tensor", fresh):
        want = theirs(scheduler)
    error = difference(ours(sampler), want)
    record_parity("few-step, trajectories", f"{EULER}, stochastic", error, TOLERANCE, size(want))
