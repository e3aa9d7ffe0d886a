"""The paper's stage 1 (section 5.1): Block Forcing on heterogeneous long takes, one epoch.

From the weights of SkyReels-V2-DF-1.3B (`--init-from`, docs/weights.md).  The paper's data is private; any clips with a
caption for each chunk will do.  What the paper gives: AdamW, 1e-4 and then 5e-5, weight decay 1e-4, cosine levels, SNR
0.003 at the last one, l = 2, s = 4, one epoch of 1.1 million videos.  What it does not: the batch, and the reading of
Eq. 5, which are defaults here.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from bvjax.losses.block_forcing import BlockForcingConfig
from bvjax.losses.history import HistoryConfig
from bvjax.losses.levels import LevelsConfig
from bvjax.losses.teacher_forcing import TargetsConfig
from bvjax.presets import get_preset
from bvjax.train.config import OneModelConfig
from bvjax.train.optimizer import OptimizerConfig
from experiments.data_sets import DataConfig
from experiments.experiment import DiTExperiment, as_config

VIDEOS, BATCH = 1_100_000, 32


def experiment() -> DiTExperiment:
    return DiTExperiment(
        model=get_preset("blockvid-1.3b"),
        train=OneModelConfig(
            steps=VIDEOS // BATCH,
            global_batch_size=BATCH,
            device_batch_size=1,
            ema_decay=0.999,
            log_every=10,
            sample_every=1000,
            checkpoint_every=500,
        ),
        optimizer=OptimizerConfig(lr=1e-4, milestones=(0.5,), factors=(0.5,), weight_decay=1e-4),
        data=DataConfig(weights="weights/skyreels-1.3b", latents="data/takes", name="folder"),
        # One chunk of a minute with the chunks that it sees: what its step costs does not grow with the video.
        forcing=TargetsConfig(targets_per_chunk=1, drawn_targets=1),
        block=BlockForcingConfig(target="blend", gamma=0.1),
        # Nobody knows the ground-truth relevance of chunks in films.
        history=HistoryConfig(
            chances=dict(semantic=0.6, rolling=0.2, random=0.1, none=0.1, oracle=0.0)
        ),
        levels=LevelsConfig(schedule="cosine", eps_max=1.0 / 1.003),
        weights_dtype="bfloat16",
    )


def get_config() -> ConfigDict:
    return as_config(experiment())
