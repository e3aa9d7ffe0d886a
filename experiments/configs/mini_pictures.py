"""The DiT of `mini` on single pictures: first of its two stages.

What a word looks like is learnt from pictures: one costs a fifth of a chunk, and the latents of a chunk look much
alike.  Then chunks with history; a model that starts with it to copy from hardly learns what words mean.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.configs import mini_dit, mini_vae_next
from experiments.data_sets import DataConfig
from experiments.experiment import DiTExperiment, as_config

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def experiment() -> DiTExperiment:
    base = mini_dit.experiment()
    model = mini_vae_next.experiment().model
    dit = replace(
        base.model.dit,
        dim=256,
        num_heads=8,
        ffn_dim=1024,
        in_channels=model.vae.z_dim,
        out_channels=model.vae.z_dim,
        matmul_precision="float32",
        text_modulation=True,
        previous_latent=True,
        remat="dots",
    )
    return replace(
        base,
        model=replace(model, dit=dit),
        train=replace(
            base.train,
            steps=1400,
            global_batch_size=24,
            device_batch_size=24,
            ema_decay=0.998,
            log_every=10,
            sample_every=100,
            checkpoint_every=50,
        ),
        optimizer=replace(base.optimizer, lr=2e-3, schedule="cosine", final_factor=0.1),
        data=DataConfig(
            weights="runs/mini", pictures="data/pictures", first=1000, fresh=2, heldout_stories=8
        ),
        forcing=replace(
            base.forcing,
            targets_per_chunk=0,
            frames=0,
            pictures=5,
            standalone=0.0,
            revisit_fraction=0.0,
        ),
    )


def get_config() -> ConfigDict:
    return as_config(experiment())
