"""Whole pipelines: a diffusers WanPipeline, saved, converted, and run here to the same video; and back."""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline
from transformers import T5TokenizerFast

from bvjax.chunking import ChunkGrid
from bvjax.config import SamplerConfig
from bvjax.diffusion.noise import initial_noise
from bvjax.generate import decoding
from bvjax.generate.conditions import encode_captions
from bvjax.generate.rollout import stream
from bvjax.loading.bundle import load_bundle
from bvjax.nets import vae
from bvjax.weights import load_config
from tests.conftest import CAPTIONS, make_tokenizer
from tests.torch import builders
from tests.torch.builders import difference, size, to_numpy, to_torch

ROOT = pathlib.Path(__file__).parents[2]
REFERENCE = "diffusers `WanPipeline`"
LATENTS, VIDEO = 5e-5, 2e-5
SEED, STEPS, GUIDANCE, LENGTH = 7, 6, 5.0, 40
PROMPT, NEGATIVE = CAPTIONS[0], CAPTIONS[3]
SCHEDULERS = {
    "UniPC, shift 3": UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ),
    "Euler, shift 5": FlowMatchEulerDiscreteScheduler(shift=5.0),
}
SETTINGS = (
    # one chunk of 3 latents, 9 frames, that looks at nothing but itself
    "chunk.height=32", "chunk.width=48", "chunk.frames=12", "chunk.first=joined", "chunk.fps=16",
    "memory.anchor=false", "memory.slots=1", "memory.capacity=1",
    "retrieval.kind=none", "retrieval.num_recent=0", "retrieval.num_retrieved=0",
    "noise.base=independent", "noise.shuffle=0",
    f"sampler.steps={STEPS}", f"guidance.scale={GUIDANCE}", f"guidance.negative={NEGATIVE}", f"text.max_length={LENGTH}",
)  # fmt: skip


decode = jax.jit(vae.decode, static_argnums=1)


def make_pipeline(folder: pathlib.Path, name: str) -> WanPipeline:
    """Random and tiny, with a SentencePiece vocabulary of its own."""
    vocabulary = folder / "vocabulary"
    vocabulary.mkdir(parents=True)
    make_tokenizer(vocabulary).rename(vocabulary / "spiece.model")
    tokenizer = T5TokenizerFast.from_pretrained(vocabulary, extra_ids=8)
    made = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=builders.text_encoder(vocabulary=len(tokenizer) + 5, dim=16, seed=name),
        transformer=builders.transformer(channels=16, text_dim=16, head_dim=16, seed=name),
        vae=builders.autoencoder(seed=name),
        scheduler=SCHEDULERS[name],
    )
    made.set_progress_bar_config(disable=True)
    return made


def reference(pipeline: WanPipeline, model, output: str) -> np.ndarray:
    """Latents [l, h, w, z] ("latent") or frames [f, h, w, 3] in 0..1 ("np") from our noise."""
    frames = pipeline(
        prompt=PROMPT, negative_prompt=NEGATIVE, height=model.chunk.height, width=model.chunk.width,
        num_frames=ChunkGrid.of(model).num_frames, num_inference_steps=STEPS, guidance_scale=GUIDANCE,
        latents=to_torch(noise(model)), max_sequence_length=LENGTH, output_type=output,
    ).frames  # fmt: skip
    return to_numpy(frames)[0] if output == "latent" else np.asarray(frames)[0]


def noise(model) -> np.ndarray:
    grid = ChunkGrid.of(model)
    shape = (grid.latents_per_chunk, *grid.latent_size, model.dit.in_channels)
    return np.asarray(initial_noise(model.noise, jax.random.key(SEED), 1, shape))


def ours(folder: pathlib.Path, **sampler):
    """(model, latents, float frames in 0..1, uint8 frames of the way that a run decodes)."""
    bundle = load_bundle(folder)
    model, params = bundle.model, bundle.params
    model = dataclasses.replace(model, sampler=dataclasses.replace(model.sampler, **sampler))
    conditions = encode_captions(
        lambda: params["text"], model.text, bundle.tokenizer, [PROMPT], model.guidance.negative
    )
    (piece,) = stream(params["dit"], model, conditions, jax.random.key(SEED))
    latents = np.asarray(piece.latents)
    frames = decode(params["vae"], model.vae, latents[None])
    _, pixels = decoding.decode_piece(params["vae"], model, None, latents)
    return model, latents, (np.asarray(frames)[0] + 1) / 2, pixels


def compare(pipeline: WanPipeline, folder: pathlib.Path, name: str, record) -> None:
    """`folder` makes the pipeline's video; another sampler does not."""
    model, latents, frames, pixels = ours(folder)
    want = reference(pipeline, model, "latent")
    error = difference(latents, want)
    record(f"{name}: latents", REFERENCE, error, LATENTS, size(want))
    want = reference(pipeline, model, "np")
    assert want.std() > 0.05 and ((want > 0) & (want < 1)).mean() > 0.5
    record(f"{name}: video in 0..1", REFERENCE, difference(frames, want), VIDEO, size(want))
    off = difference(pixels, np.round(255 * want))
    record(f"{name}: video in 0..255", REFERENCE, off, 1, 255)
    for change in ({"kind": "euler" if model.sampler.kind == "unipc" else "unipc"}, {"shift": 4.0}):
        assert difference(ours(folder, **change)[2], want) > 1e-2


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_pipeline_of_diffusers_gives_the_same_video_here(name, tmp_path, record_parity):
    """From the same noise; text, guidance and its negative prompt, scheduler and VAE included."""
    pipeline = make_pipeline(tmp_path, name)
    pipeline.save_pretrained(tmp_path / "theirs")
    settings = (*builders.PLAIN, *SETTINGS)
    command = [
        sys.executable,
        "-m",
        "bvjax",
        "convert",
        str(tmp_path / "theirs"),
        str(tmp_path / "ours"),
        "--to",
        "bvjax",
        *(word for key in settings for word in ("--set", key)),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kind, shift = name.split(", shift ")
    told = SamplerConfig(kind=kind.lower(), shift=float(shift), schedule="diffusers", steps=STEPS)
    assert load_config(tmp_path / "ours").sampler == told
    compare(pipeline, tmp_path / "ours", f"pipeline, {name}", record_parity)
