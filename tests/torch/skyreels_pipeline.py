"""diffusers' transformer and diffusion-forcing pipeline over our parameters and our noise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from unittest import mock

import jax
import numpy as np
import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline, UniPCMultistepScheduler
from diffusers.pipelines.skyreels_v2 import pipeline_skyreels_v2_diffusion_forcing as source

from bvjax.config import ModelConfig
from bvjax.diffusion.diffusion_forcing import history_noise
from bvjax.random import purpose_key
from tests.golden import skyreels_cases as cases
from tests.torch import twins


def velocity(case: cases.DiTCase) -> np.ndarray:
    """What `cases.our_velocity` should be."""
    latents, text = cases.dit_inputs(case)
    per_frame = len(case.timesteps) > 1
    with torch.no_grad():
        out = twins.skyreels(cases.dit_model(case), cases.dit_params(case), case.block)(
            twins.to_torch(latents),
            torch.tensor([case.timesteps] if per_frame else case.timesteps),
            torch.from_numpy(text),
            enable_diffusion_forcing=per_frame,
            fps=[0 if case.fps == 16 else 1],
            return_dict=False,
        )[0]
    return twins.to_numpy(out)


class Ids:
    """A tokenizer whose text is the ids themselves."""

    def __call__(self, prompts, *, max_length, **_):
        rows = [[int(word) for word in prompt.split()] for prompt in prompts]
        ids = torch.tensor([row + [0] * (max_length - len(row)) for row in rows])
        return SimpleNamespace(input_ids=ids, attention_mask=(ids > 0).long())


def scheduler(model: ModelConfig) -> UniPCMultistepScheduler:
    """As the published folders configure it."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=model.sampler.shift
    )


def pipeline(model: ModelConfig) -> SkyReelsV2DiffusionForcingPipeline:
    params = cases.pipeline_params()
    made = SkyReelsV2DiffusionForcingPipeline(
        tokenizer=Ids(),
        text_encoder=twins.umt5(model, params["text"]),
        transformer=twins.skyreels(model, params["dit"], model.sampler.causal_block),
        vae=twins.vae(model, params["vae"]),
        scheduler=scheduler(model),
    )
    made.set_progress_bar_config(disable=True)
    return made


@contextlib.contextmanager
def our_noise(model: ModelConfig) -> Iterator[None]:
    """The pipeline's draws, replaced by ours: one initial noise a window, history noise each step."""
    window, draws = 0, 0

    def initial(shape, **_):
        nonlocal window, draws
        window, draws = window + 1, 0
        noise = twins.to_torch(cases.window_noise(model, window))[None]
        assert noise.shape == shape
        return noise

    def fresh(like):
        nonlocal draws
        key = purpose_key(jax.random.key(cases.SEED), "solver", window)
        batch, channels, frames, *size = like.shape
        noise = np.asarray(history_noise(key, draws, (batch, frames, *size, channels)))
        draws += 1
        return twins.to_torch(noise)

    with mock.patch.object(source, "randn_tensor", initial), mock.patch("torch.randn_like", fresh):
        yield


def call(made: SkyReelsV2DiffusionForcingPipeline, model: ModelConfig, output_type: str):
    """The latents [l, h, w, z] or the video [f, h, w, 3] in 0..1 of `cases.WINDOWS` windows."""
    chunk, sampler = model.chunk, model.sampler
    with our_noise(model), torch.no_grad():
        out = made(
            prompt=" ".join(map(str, cases.CAPTION_IDS)),
            negative_prompt=" ".join(map(str, cases.NULL_IDS)),
            height=chunk.height,
            width=chunk.width,
            num_frames=chunk.overlap_frames + cases.WINDOWS * chunk.frames,
            base_num_frames=chunk.overlap_frames + chunk.frames,
            overlap_history=chunk.overlap_frames,
            num_inference_steps=sampler.steps,
            guidance_scale=model.guidance.scale,
            max_sequence_length=model.text.max_length,
            addnoise_condition=sampler.history_noise,
            ar_step=sampler.ar_step,
            causal_block_size=sampler.causal_block if sampler.causal_block > 1 else None,
            fps=chunk.fps,
            output_type=output_type,
        ).frames[0]
    return twins.to_numpy(out) if output_type == "latent" else np.asarray(out)
