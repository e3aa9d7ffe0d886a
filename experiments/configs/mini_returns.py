"""The DiT of `mini` with its memory: second of its two stages, from the weights of `mini_pictures`.

Block Forcing on excerpts in which somebody comes back (`data_pipelines.storyworld.returns`), with pictures beside them,
so that what words mean is not forgotten.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.configs import mini_dit, mini_pictures
from experiments.experiment import DiTExperiment, as_config

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def experiment() -> DiTExperiment:
    base, history = mini_pictures.experiment(), mini_dit.experiment()
    return replace(
        base,
        train=replace(
            base.train,
            steps=1500,
            global_batch_size=3,
            device_batch_size=3,
            ema_decay=0.997,
            sample_every=150,
            checkpoint_every=50,
        ),
        optimizer=replace(base.optimizer, lr=1e-3, final_factor=0.05),
        data=replace(
            base.data,
            name="returns",
            latents="data/returns",
            extras=history.data.extras,
            first=400,
            fresh=1,
            heldout_stories=8,
            sample_stories=2,
            sample_chunks=5,
        ),
        forcing=replace(
            history.forcing, frames=0, pictures=16, pictures_weight=0.5, anchor_weight=0.15
        ),
    )


def get_config() -> ConfigDict:
    return as_config(experiment())
