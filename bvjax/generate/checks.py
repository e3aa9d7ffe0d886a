"""Checks that a configuration can generate at all, made before anything is computed."""

from __future__ import annotations

import math

from bvjax import policies
from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.diffusion import diffusion_forcing, noise, solvers
from bvjax.errors import UserError
from bvjax.memory import bank
from bvjax.nets.dit import PRECONDITIONING, REMAT
from bvjax.nets.matmul_precision import MATMUL_PRECISIONS
from bvjax.nets.vae_layers import CONV_IMPLS

GUIDANCE_BANKS = ("one", "two")


def check_model(model: ModelConfig, num_chunks: int = 1) -> None:
    """Raises `UserError` naming the key, its value and the legal ones."""
    _check_parts(model)
    grid = ChunkGrid.of(model, num_chunks)
    policies.check(model, num_chunks)
    bank.check(model)
    solvers.sigmas(model.sampler)
    _check_diffusion_forcing(model, grid)
    for name, value, legal in (
        ("noise.base", model.noise.base, noise.BASES),
        ("guidance.bank", model.guidance.bank, GUIDANCE_BANKS),
        ("dit.preconditioning", model.dit.preconditioning, PRECONDITIONING),
        ("dit.matmul_precision", model.dit.matmul_precision, MATMUL_PRECISIONS),
        ("dit.remat", model.dit.remat, tuple(REMAT)),
        ("vae.conv_impl", model.vae.conv_impl, CONV_IMPLS),
    ):
        if value not in legal:
            raise UserError(f"{name} is {value!r}; it can be {', '.join(legal)}")
    if model.dit.preconditioning == "linear" and model.dit.latent_std != model.vae.latent_scale:
        raise UserError(
            "dit.latent_std is not vae.latent_scale: this DiT was trained on latents of another VAE"
        )
    _check_previous_latent(model)
    _check_start(model)
    if model.noise.shuffle < 0:
        raise UserError(
            f"noise.shuffle is {model.noise.shuffle}; it must be 0 (off) or more latent frames"
        )
    for name, value, meaning in (
        ("guidance.scale", model.guidance.scale, "1 = no guidance"),
        ("guidance.memory", model.guidance.memory, "0 = no guidance by what was retrieved"),
    ):
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"{name} is {value}; it must be 0 or more ({meaning})")


def _check_previous_latent(model: ModelConfig) -> None:
    dit = model.dit
    if not dit.previous_latent:
        return
    if dit.latent_correlation != model.vae.latent_correlation:
        raise UserError(
            "dit.latent_correlation is not vae.latent_correlation: this DiT was trained on latents of another VAE"
        )
    if model.chunk.first == "overlap":
        raise UserError(
            "chunk.first='overlap' begins a chunk with the end of the last one, and dit.previous_latent tells it; use "
            "chunk.first='separate'"
        )
    if model.sampler.causal_block > 1:
        raise UserError(
            f"sampler.causal_block is {model.sampler.causal_block}; with dit.previous_latent, which is of whole chunks, "
            "it must be 1"
        )


def _check_start(model: ModelConfig) -> None:
    """Raises `UserError` where chunks cannot begin with what the chunk before ends with."""
    if model.levels.start == "full":
        return
    begin = "levels.start='level' begins chunks with the last latent of the chunk before"
    if not policies.policy_of(model.policy.name).scans:
        raise UserError(
            f"{begin}, which policy {model.policy.name} does not do; use levels.start='full'"
        )
    if model.memory.offload == "host":
        raise UserError(
            f"{begin}, which memory.offload='host' does not keep; use memory.offload='none'"
        )
    if model.chunk.first == "overlap" or model.sampler.ar_step:
        raise UserError(
            f"{begin}, and chunk.first='overlap' and sampler.ar_step with levels of their own; use "
            "chunk.first='separate' and sampler.ar_step=0"
        )


def check_image(model: ModelConfig) -> None:
    """Raises `UserError` when a video cannot begin with an image, which is one latent frame."""
    if model.chunk.first != "separate" and model.sampler.ar_step and model.sampler.causal_block > 1:
        raise UserError(
            f"sampler.causal_block is {model.sampler.causal_block}; with sampler.ar_step and an image "
            "as the first frame it must be 1"
        )


def _check_parts(model: ModelConfig) -> None:
    """Raises `UserError` when the DiT is not of the latents that the VAE makes."""
    for name, value in (
        ("dit.in_channels", model.dit.in_channels),
        ("dit.out_channels", model.dit.out_channels),
    ):
        if value != model.vae.z_dim:
            raise UserError(f"{name} is {value}; it must be vae.z_dim = {model.vae.z_dim}")


def _check_diffusion_forcing(model: ModelConfig, grid: ChunkGrid) -> None:
    sampler = model.sampler
    diffusion_forcing.check(sampler)
    for value, name in (
        (grid.window_latents, "window"),
        (grid.overlap_latents, "history that windows share"),
    ):
        if value % sampler.causal_block:
            raise UserError(
                f"sampler.causal_block is {sampler.causal_block}; it must divide the {value} latent "
                f"frames of the {name}"
            )
    if sampler.history_noise and model.chunk.first == "separate":
        raise UserError(
            f"sampler.history_noise is {sampler.history_noise}, but with chunk.first 'separate' no "
            "window has history in it; use overlap or joined"
        )
