"""The paper's stage 2 (section 5.1): Block Forcing and Self Forcing on minute-long videos, two epochs of LV-Bench.

From a few-step start made of stage 1 (`--init-from`).  Optimizer, levels and memory are those of stage 1.  The paper
names the objective (Eq. 1) and not its recipe; windows, ratio, penalties and moving average are Self Forcing's and
LongLive's.  LV-Bench has 800 videos for training.
"""

from __future__ import annotations

from dataclasses import replace

from ml_collections import ConfigDict

from bvjax.config import GuidanceConfig, SamplerConfig
from bvjax.losses.adversarial import PUBLISHED
from bvjax.losses.self_forcing import SelfForcingConfig
from bvjax.nets.discriminator import DiscriminatorConfig
from bvjax.train.optimizer import OptimizerConfig
from experiments.configs import blockvid_stage1
from experiments.experiment import SelfForcingExperiment, as_config

EPOCHS, VIDEOS = 2, 800


def experiment() -> SelfForcingExperiment:
    stage1 = blockvid_stage1.experiment()
    shift = stage1.model.sampler.shift
    sections = vars(stage1) | dict(
        task="self_forcing",
        model=replace(
            stage1.model,
            sampler=SamplerConfig(kind="few_step", steps=4, shift=shift),
            guidance=GuidanceConfig(scale=1.0),
        ),
        train=replace(
            stage1.train,
            steps=EPOCHS * VIDEOS // stage1.train.global_batch_size,
            ema_decay=0.99,
            log_every=1,
            sample_every=25,
            checkpoint_every=5,
        ),
        data=replace(stage1.data, name="lvbench", latents="data/lvbench"),
    )
    return SelfForcingExperiment(
        **sections,
        self_forcing=SelfForcingConfig(
            window=3, objective="gan", live=True, critic_updates=5, ema_start=10
        ),
        adversarial=PUBLISHED["self-forcing-paper"],
        discriminator=DiscriminatorConfig(),
        critic_optimizer=OptimizerConfig(lr=1e-4, b1=0.0, weight_decay=1e-4),
    )


def get_config() -> ConfigDict:
    return as_config(experiment())
