"""SkyReels-V2 against diffusers, live: transformer, timetable, levels, and the whole pipeline.

Everything is float32 on the CPU.  Measured largest differences: 5.2e-5 of a velocity of size 5,
9.1e-6 of final latents of size 7, 3.1e-6 of a video in 0..1.
"""

import dataclasses
from unittest import mock

import jax
import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler

from bvjax.diffusion import diffusion_forcing, solvers, unipc
from bvjax.errors import UserError
from bvjax.generate import decoding
from bvjax.nets import vae
from tests.golden import skyreels_cases as cases
from tests.torch import skyreels_pipeline, twins
from tests.torch.builders import difference, size

VELOCITY, LATENTS, VIDEO = 1e-4, 5e-5, 2e-5
TRANSFORMER = "diffusers `SkyReelsV2Transformer3DModel`"
PIPELINE = "diffusers `SkyReelsV2DiffusionForcingPipeline`"


@pytest.mark.parametrize(
    "case", [*cases.DIT_CASES, *map(cases.random_case, range(10))], ids=lambda c: c.name
)
def test_transformer(case, record_parity):
    want = skyreels_pipeline.velocity(case)
    assert size(want) > 1
    name = "SkyReels-V2 DiT, fps embedding"
    name += ", a timestep for each latent frame" if len(case.timesteps) > 1 else ", one timestep"
    name += ", causal between blocks" if case.block > 1 else ""
    error = difference(cases.our_velocity(case), want)
    record_parity(name, TRANSFORMER, error, VELOCITY, size(want))


def test_the_mask_the_labels_and_the_frame_rate_are_felt():
    """What the cases above set makes differences far above their tolerance."""
    causal = cases.DIT_CASES[2]
    want = skyreels_pipeline.velocity(causal)
    others = (
        {"block": 1},
        {"block": 3},
        {"fps": 16},
        {"timesteps": (0, 0, 640, 640, 999, 900)},
    )
    for change in others:
        assert np.abs(cases.our_velocity(dataclasses.replace(causal, **change)) - want).max() > 1e-2


# --- diffusion forcing as a table ---------------------------------------------------------


@pytest.fixture(scope="module")
def clean_pipeline():
    return skyreels_pipeline.pipeline(cases.PIPELINE)


@pytest.mark.parametrize("steps, frames, ready, window, ar_step, block", cases.TIMETABLES)
def test_timetable(clean_pipeline, record_parity, steps, frames, ready, window, ar_step, block):
    labels = cases.timetable_labels(steps)
    matrix, index, update, interval = clean_pipeline.generate_timestep_matrix(
        frames, torch.from_numpy(labels), window, ar_step, ready, block
    )
    ours = diffusion_forcing.timetable(
        labels, frames, ready=ready, window=window, ar_step=ar_step, block=block
    )
    for a, b in (
        (ours.timestep, matrix),
        (ours.count, index),
        (ours.update, update),
        (ours.interval, interval),
    ):
        record_parity("SkyReels-V2, table of timesteps", PIPELINE, difference(a, b), 0)


def test_both_refuse_a_lag_too_small_for_the_window(clean_pipeline):
    labels = cases.timetable_labels(30)
    arguments = dict(ar_step=5, causal_block_size=5)
    with pytest.raises(ValueError, match="at least 6"):
        clean_pipeline.generate_timestep_matrix(50, torch.from_numpy(labels), 25, **arguments)
    with pytest.raises(UserError, match="6 or more"):
        diffusion_forcing.timetable(labels, 50, window=25, ar_step=5, block=5)


# --- the solver ---------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 30, 50])
def test_levels_labels_and_steps(steps, shift):
    sampler = dataclasses.replace(
        cases.PIPELINE.sampler, steps=steps, shift=shift, corrector="unipc"
    )
    theirs = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    theirs.set_timesteps(steps)
    grid = solvers.sigmas(sampler)
    np.testing.assert_array_equal(grid, theirs.sigmas.numpy())
    np.testing.assert_array_equal(solvers.timesteps(sampler), theirs.timesteps.numpy())
    weights, noise = unipc.weights(grid), np.random.default_rng(0).normal(size=(1, 4, 3, 5))
    noise = noise.astype(np.float32)
    state, x = unipc.init(jax.numpy.asarray(noise)), torch.from_numpy(noise)
    for i in range(steps):
        velocity = np.sin(3 * np.asarray(state.x))
        state = unipc.step(state, velocity, grid[i], jax.tree.map(lambda w, i=i: w[i], weights))
        x = theirs.step(torch.sin(3 * x), theirs.timesteps[i], x, return_dict=False)[0]
        np.testing.assert_allclose(state.x, x.numpy(), atol=5e-5)


# --- the whole pipeline -------------------------------------------------------------------


def our_video(windows):
    """Float frames in 0..1 of one continuous decoding."""
    params, config = cases.pipeline_params()["vae"], cases.PIPELINE.vae
    latents = cases.whole(windows, 5)[None]
    frames = jax.jit(lambda z: vae.decode(params, config, z))(latents)[0]
    return (np.asarray(frames) + 1) / 2


def our_frames(model, windows):
    """uint8 frames, piece by piece, as a run decodes them."""
    state, pieces, params = None, [], cases.pipeline_params()["vae"]
    for window in windows:
        state, piece = decoding.decode_piece(params, model, state, window)
        pieces.append(piece)
    return np.concatenate(pieces)


@pytest.mark.parametrize("name", cases.PIPELINE_CASES)
def test_pipeline(name, record_parity):
    model = cases.PIPELINE_CASES[name]
    made = skyreels_pipeline.pipeline(model)
    want = skyreels_pipeline.call(made, model, "latent")
    video = skyreels_pipeline.call(made, model, "np")
    windows = cases.our_windows(model)
    assert np.abs(want).max() > 3 and video.std() > 0.1
    row, error = f"SkyReels-V2, {name}, two windows", difference(cases.whole(windows, 5), want)
    record_parity(f"{row}: latents", PIPELINE, error, LATENTS, size(want))
    error = difference(our_video(windows), video)
    record_parity(f"{row}: video in 0..1", PIPELINE, error, VIDEO, size(video))
    error = difference(our_frames(model, windows), np.round(255 * video))
    record_parity(f"{row}: video in 0..255", PIPELINE, error, 1, 255)


def test_every_option_of_the_sampler_is_felt():
    """The videos of the cases above differ from each other by far more than the tolerance."""
    made = {name: cases.our_windows(model) for name, model in cases.PIPELINE_CASES.items()}
    noised, clean, late = (made[n] for n in ("noised history", "clean history", "asynchronous"))
    np.testing.assert_array_equal(noised[0], clean[0])  # the first window has no history
    assert np.abs(noised[1] - clean[1]).max() > 1e-3
    assert np.abs(noised[0] - late[0]).max() > 1e-2
    proper = cases.variant("proper", sampler={"corrector": "unipc"})
    assert np.abs(noised[0] - cases.our_windows(proper)[0]).max() > 1e-2


def test_a_scheduler_of_its_own_sample_is_the_ordinary_corrector():
    """`sampler.corrector`: the pipeline writes into the sample that its schedulers keep.

    Given copies, they do what UniPC says, and so do we without the option.
    """
    model = cases.variant("copied", sampler={"corrector": "unipc"})
    step = UniPCMultistepScheduler.step

    def copied(self, output, timestep, sample, **kwargs):
        return step(self, output, timestep, sample.clone(), **kwargs)

    with mock.patch.object(UniPCMultistepScheduler, "step", copied):
        want = skyreels_pipeline.call(skyreels_pipeline.pipeline(model), model, "latent")
    np.testing.assert_allclose(cases.whole(cases.our_windows(model), 5), want, atol=LATENTS)


def test_history_from_pixels(clean_pipeline, record_parity):
    """chunk.history="pixels": the pipeline, given the re-encoded end of its first window."""
    model = cases.variant("pixels", chunk={"history": "pixels"}, sampler={"history_noise": 0.0})
    coder, prepare = clean_pipeline.vae, clean_pipeline.prepare_latents
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (coder.config.latents_mean, coder.config.latents_std)
    )
    heads = []

    def reencode(*args, video_latents=None, **kwargs):
        if video_latents is not None:
            frames = coder.decode(video_latents * std + mean).sample[:, :, -17:]
            heads.append((coder.encode(frames).latent_dist.mode() - mean) / std)
            video_latents = torch.cat([video_latents[:, :, :-5], heads[0]], dim=2)
        return prepare(*args, video_latents=video_latents, **kwargs)

    with mock.patch.object(clean_pipeline, "prepare_latents", reencode):
        latents = skyreels_pipeline.call(clean_pipeline, model, "latent")
    head = twins.to_numpy(heads[0][0])
    assert np.abs(head - latents[5:10]).max() > 1e-2
    want = [latents[:10], np.concatenate([head, latents[10:]])]
    windows = cases.our_windows(model)
    for ours, theirs in zip(windows, want, strict=True):
        row = "SkyReels-V2, history encoded again from pixels: latents"
        record_parity(row, PIPELINE, difference(ours, theirs), LATENTS, size(theirs))
    with torch.no_grad():
        videos = [coder.decode(twins.to_torch(w)[None] * std + mean).sample[0] for w in want]
    frames = np.concatenate([twins.to_numpy(videos[0]), twins.to_numpy(videos[1])[17:]])
    off = our_frames(model, windows).astype(int) - np.round(127.5 * (frames + 1)).astype(int)
    assert np.abs(off).max() <= 1
