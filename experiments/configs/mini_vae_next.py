"""A wider VAE of `mini` with a stem and a tail, on clips of stories that are never seen twice.

The model card has its curve, and the rates that were too large.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.configs import mini_vae
from experiments.experiment import VAEExperiment, as_config

if TYPE_CHECKING:
    from ml_collections import ConfigDict


LATENT_CHANNELS = 48  # one decibel more than 32, from the linear start on


def experiment() -> VAEExperiment:
    base = mini_vae.experiment()
    return replace(
        base,
        # Not of the preset yet: its DiT knows other latents.
        model=replace(
            base.model,
            vae=replace(
                base.model.vae,
                dim=96,
                stem_dim=32,
                tail_dim=32,
                z_dim=LATENT_CHANNELS,
                latent_mean=(0.0,) * LATENT_CHANNELS,
                latent_std=(1.0,) * LATENT_CHANNELS,
            ),
            dit=replace(base.model.dit, in_channels=LATENT_CHANNELS, out_channels=LATENT_CHANNELS),
        ),
        train=replace(
            base.train,
            steps=1150,
            global_batch_size=3,
            device_batch_size=3,
            ema_decay=0.98,
            log_every=10,
            sample_every=100,
            checkpoint_every=50,
        ),
        optimizer=replace(base.optimizer, lr=4e-4, warmup_steps=30),
        data=replace(base.data, cache_dir="", stories=0, crop=48, heldout_stories=64),
        vae=replace(base.vae, heldout_clips=12, stat_batches=6),
    )


def get_config() -> ConfigDict:
    return as_config(experiment())
