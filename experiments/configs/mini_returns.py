"""The DiT of `mini` with its memory: second of its two stages, from the weights of `mini_pictures`.

Block Forcing on excerpts in which somebody comes back (`data_pipelines.storyworld.returns`), with pictures beside them,
so that what words mean is not forgotten.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bvjax.losses.history import shares
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
            global_batch_size=4,
            device_batch_size=4,
            ema_decay=0.997,
            sample_every=150,
            checkpoint_every=50,
        ),
        optimizer=replace(base.optimizer, lr=2e-3, final_factor=0.05),
        data=replace(
            base.data,
            name="returns",
            latents="data/returns",
            extras=(*history.data.extras, "joined"),
            first=400,
            fresh=1,
            heldout_stories=8,
            sample_stories=2,
            sample_chunks=5,
        ),
        forcing=replace(
            history.forcing,
            drawn_targets=4,
            joined_targets=True,
            revisit_fraction=0.4,
            frames=0,
            pictures=6,
            pictures_weight=0.5,
            anchor_weight=0.15,
        ),
        history=replace(
            history.history,
            chances=shares() | dict(semantic=0.5, rolling=0.15, oracle=0.15, random=0.1, none=0.1),
            entry_drop=0.1,
            noise_max=0.15,
            previous_noise=0.7,
        ),
    )


def get_config() -> ConfigDict:
    return as_config(experiment())
