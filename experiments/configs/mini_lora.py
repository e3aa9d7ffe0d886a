"""A LoRA of `mini` on films of your own (docs/lora.md); with other keys of `data`, on any data set.

python -m experiments.train --config=experiments/configs/mini_lora.py --workdir=runs/lora \\
    --config.data.weights=bvjax/assets/mini --config.data.latents=data/curated/latents --init-from=bvjax/assets/mini
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bvjax.train.lora import LoraConfig
from bvjax.train.optimizer import OptimizerConfig
from experiments.configs import mini_films
from experiments.experiment import DiTExperiment, as_config

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def experiment() -> DiTExperiment:
    base = mini_films.experiment()
    return replace(
        base,
        lora=LoraConfig(rank=16),
        # Factors begin at zero and are small: they take ten times the rate of the whole network, and no decay.
        optimizer=OptimizerConfig(lr=1e-3, schedule="cosine", warmup_steps=20, weight_decay=0.0),
        train=replace(base.train, steps=300, ema_decay=0.98, checkpoint_every=50, sample_every=100),
        weights_dtype="float32",
    )


def get_config() -> ConfigDict:
    return as_config(experiment())
