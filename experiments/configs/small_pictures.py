"""A larger DiT on the latents of `mini`, for one accelerator: single pictures, first of its two stages.

Patches of one latent pixel, width 384, 12 layers. `experiments/train_accelerator.sh` trains it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.configs import mini_pictures
from experiments.experiment import DiTExperiment, as_config

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def larger(base: DiTExperiment) -> DiTExperiment:
    """The experiment with the network and the batches of `small`."""
    dit = replace(
        base.model.dit,
        dim=384,
        num_heads=12,
        num_layers=12,
        ffn_dim=1536,
        patch=(1, 1, 1),
        dtype="bfloat16",
    )
    memory = replace(
        base.model.memory, capacity=4 * base.model.memory.capacity
    )  # of four times the tokens
    return replace(
        base,
        model=replace(base.model, name="small", dit=dit, memory=memory),
        data=replace(base.data, weights="experiments/weights/mini_next", workers=15),
    )


def experiment() -> DiTExperiment:
    base = larger(mini_pictures.experiment())
    return replace(
        base,
        train=replace(
            base.train,
            steps=20_000,
            global_batch_size=96,
            device_batch_size=96,
            ema_decay=0.999,
            log_every=100,
            sample_every=2000,
            checkpoint_every=2000,
        ),
        data=replace(base.data, pictures="data/small_pictures", first=600, fresh=1),
    )


def get_config() -> ConfigDict:
    return as_config(experiment())
