"""levels.start="level": chunks begin at their level, with the last latent of the chunk before under the noise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import SamplerConfig
from bvjax.denoiser import denoise
from bvjax.denoiser.denoise import denoise_chunk
from bvjax.denoiser.encode import write_chunk
from bvjax.denoiser.types import ChunkInput, init_state
from bvjax.diffusion.noise import schedule_levels
from bvjax.diffusion.solvers import Start, sigmas, solve
from bvjax.errors import UserError
from bvjax.generate.checks import check_model
from bvjax.level_schedule import ChunkLevelsConfig
from bvjax.overrides import apply_overrides
from bvjax.presets import get_preset
from tests.bvjax.losses.test_teacher_forcing import DIM, MODEL, TEXT
from tests.support.random_params import random_dit

KEY = jax.random.key(1)


@pytest.mark.parametrize("kind", ["euler", "unipc", "few_step"])
def test_a_solver_begins_at_a_lower_level(kind):
    """The model is asked at levels that are all that much lower; index 0 is the sampler's own."""
    sampler = SamplerConfig(kind=kind, steps=4, shift=3.0)
    own, x, asked = sigmas(sampler), jnp.ones((1, 2)), []

    def velocity(x, sigma):
        jax.debug.callback(lambda sigma: asked.append(float(sigma)), sigma)
        return x * sigma

    for index, first in ((0, own[0]), (1, 0.25), (2, 0.5)):
        asked.clear()
        start = Start(jnp.int32(index), (0.25, 0.5))
        out = jax.jit(lambda x, s: solve(sampler, velocity, x, KEY, start=s))(x, start)
        jax.effects_barrier()
        levels = own * first / own[0]
        np.testing.assert_allclose(sorted(asked)[::-1], levels[:-1], atol=1e-3)
        if kind == "euler":
            factors = 1 + np.diff(levels) * levels[:-1]
            np.testing.assert_allclose(out, np.full((1, 2), np.prod(factors)), rtol=1e-5)
        if index == 0:
            np.testing.assert_allclose(out, solve(sampler, velocity, x, KEY), rtol=1e-5)


def test_a_chunk_begins_with_the_last_latent_at_its_level(monkeypatch):
    """Chunk 2 of a linear schedule; after a cut, or where nothing is before it, with noise."""
    levels = ChunkLevelsConfig("linear", eps_min=0.2, eps_max=0.6, chunks=3, start="level")
    model = dataclasses.replace(
        MODEL, levels=levels, guidance=dataclasses.replace(MODEL.guidance, scale=1.0)
    )
    seen = {}

    def told(sampler, velocity, noise, key, graded=None, look=None, start=None):
        seen.update(noise=noise, start=start)
        return noise

    monkeypatch.setattr(denoise, "solve", told)
    params, keys = random_dit(model), jax.random.split(KEY, 2)
    words = jax.random.normal(keys[0], (TEXT, DIM))
    inputs = ChunkInput(jnp.int32(1), words, words.mean(0), jnp.zeros((TEXT, DIM)), KEY)
    before = jax.random.normal(keys[1], (2, 4, 4, 16))
    state, _ = write_chunk(params, model, init_state(model), inputs, before)
    second = inputs.replace(chunk_id=jnp.int32(2))
    denoise_chunk(params, model, state, second)
    noise = denoise.noise_of_chunk(model, second)
    assert seen["start"].index == 2
    np.testing.assert_allclose(seen["start"].levels, schedule_levels(levels, 3))
    np.testing.assert_allclose(seen["noise"], 0.6 * before[None, -1:] + 0.4 * noise, atol=1e-5)
    for alone in (second.replace(shot=jnp.int32(2)), second.replace(chunk_id=jnp.int32(3))):
        denoise_chunk(params, model, state, alone)
        assert seen["start"].index == 0
        np.testing.assert_allclose(seen["noise"], denoise.noise_of_chunk(model, alone), atol=1e-6)
    plain = dataclasses.replace(model, levels=ChunkLevelsConfig())
    denoise_chunk(params, plain, init_state(plain), second)
    assert seen["start"] is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["levels.start=noise"], "levels.start is 'noise'; it can be full, level"),
        (
            ["levels.start=level", "memory.offload=host"],
            "which memory.offload='host' does not keep",
        ),
        (
            ["levels.start=level", "policy.name=lct", "guidance.memory=0"],
            "which policy lct does not do",
        ),
        (["levels.start=level", "sampler.ar_step=1"], "sampler.ar_step with levels of their own"),
    ],
)
def test_what_cannot_begin_at_a_level_is_refused(overrides, words):
    with pytest.raises(UserError, match=words):
        check_model(apply_overrides(get_preset("mini"), overrides))
