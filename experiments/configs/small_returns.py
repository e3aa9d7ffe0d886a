"""A larger DiT on the latents of `mini`, for one accelerator: its memory, second of its two stages."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.configs import mini_returns
from experiments.configs.small_pictures import larger
from experiments.experiment import DiTExperiment, as_config

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def experiment() -> DiTExperiment:
    base = larger(mini_returns.experiment())
    return replace(
        base,
        train=replace(
            base.train,
            steps=10_000,
            global_batch_size=16,
            device_batch_size=16,
            ema_decay=0.999,
            log_every=100,
            sample_every=2000,
            checkpoint_every=1000,
        ),
        data=replace(
            base.data, latents="data/small_returns", pictures="data/small_pictures", first=300
        ),
    )


def get_config() -> ConfigDict:
    return as_config(experiment())
