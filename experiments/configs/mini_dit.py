"""The DiT of `mini` by Block Forcing on encoded stories.

Second of two stages, see `mini_dit_frames.py`.  Encode the stories first, with the VAE and the text encoder:

python -m data_pipelines.storyworld.encode --weights=runs/mini --out=data/latents --stories=900
python -m data_pipelines.storyworld.encode --weights=runs/mini --out=data/latents --stories=16 --split=heldout
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bvjax.losses.block_forcing import BlockForcingConfig
from bvjax.losses.history import HistoryConfig, shares
from bvjax.losses.levels import LevelsConfig
from bvjax.losses.teacher_forcing import TargetsConfig
from bvjax.presets import get_preset
from bvjax.train.config import OneModelConfig
from bvjax.train.optimizer import OptimizerConfig
from experiments.data_sets import DataConfig
from experiments.experiment import DiTExperiment, as_config

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def experiment() -> DiTExperiment:
    mini = get_preset("mini")
    return DiTExperiment(
        model=replace(
            mini,
            dit=replace(
                mini.dit,
                matmul_precision="bfloat16",
                similarity_keys=True,
                spatial_position_embedding=True,
                qk_init=2.0,
                # On a CPU what is kept for the backward pass costs more than computing it again.
                remat="dots",
            ),
        ),
        train=OneModelConfig(
            steps=1500,
            # Stories: 15 clean and 15 * targets_per_chunk noisy chunks each, and images.
            global_batch_size=1,
            device_batch_size=1,
            ema_decay=0.995,
            log_every=20,
            sample_every=150,
            checkpoint_every=100,
        ),
        optimizer=OptimizerConfig(
            kind="muon",
            lr=2e-3,
            schedule="cosine",
            warmup_steps=30,
            final_factor=0.05,
            b2=0.99,
        ),
        data=DataConfig(
            weights="runs/mini",
            latents="data/latents",
            extras=("relevance", "standalone"),
        ),
        forcing=TargetsConfig(
            targets_per_chunk=2,
            revisit_fraction=0.7,
            anchor_weight=0.15,
            frames=20,
            frames_weight=0.5,
            standalone=0.5,
        ),
        block=BlockForcingConfig(target="blend", gamma=0.1),
        history=HistoryConfig(
            chances=shares()  # of rules that are not named here
            | dict(semantic=0.5, rolling=0.1, oracle=0.15, random=0.1, none=0.15),
            anchor_drop=0.15,
            caption_drop=0.1,
            noise_chance=0.5,
            noise_max=0.05,
        ),
        levels=LevelsConfig(
            schedule="cosine", role="median_shift", mix=0.8, shift=4.0, weighting="even"
        ),
    )


def get_config() -> ConfigDict:
    return as_config(experiment())
