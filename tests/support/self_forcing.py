"""The smallest task of Self Forcing, with all networks in it."""

from __future__ import annotations

import dataclasses

import numpy as np
from few_step import MODEL, examples

from bvjax.losses.adversarial import AdversarialConfig, PenaltyConfig
from bvjax.losses.critic_levels import CriticLevelsConfig
from bvjax.losses.history import HistoryConfig
from bvjax.losses.self_forcing import SelfForcing, SelfForcingConfig
from bvjax.losses.teacher_forcing import ForcingConfig
from bvjax.nets.discriminator import DiscriminatorConfig
from bvjax.sharding import ONE_DEVICE, Layout
from bvjax.train.config import OneModelConfig
from bvjax.train.dit_objective import DiTObjective
from bvjax.train.optimizer import OptimizerConfig
from bvjax.train.self_forcing_task import SelfForcingTask

CHANCES = {"semantic": 1.0, "rolling": 0.0, "oracle": 0.0, "random": 0.0, "none": 0.0}
FORCING = ForcingConfig(targets_per_chunk=1, history=HistoryConfig(chances=CHANCES))
SETTINGS = SelfForcingConfig(
    window=2, critic_updates=2, ema_start=1, teacher_scale=2.0, teacher_memory=3.0
)
OPTIMIZER = OptimizerConfig(lr=1e-2, b1=0.0, schedule="cosine")


def make_task(
    batch: int = 2, device_batch: int = 1, steps: int = 4, layout: Layout = ONE_DEVICE, **settings
) -> SelfForcingTask:
    """A task with the settings changed."""
    null_text = np.zeros((3, 8), np.float32)
    objective = DiTObjective(
        model=MODEL,
        forcing=FORCING,
        null_text=null_text,
        heldout=examples(1, seed=99),
        vae_params=None,
        sample_stories=1,
        sample_chunks=1,
        weights_dtype="float32",
        layout=layout,
        stage="stage2",
    )
    judge = SelfForcing(
        model=MODEL,
        config=dataclasses.replace(SETTINGS, **settings),
        adversarial=AdversarialConfig(
            "relativistic", 0.5, 0.5, r1=PenaltyConfig(0.1, 0.1), r2=PenaltyConfig(0.1, 0.1)
        ),
        levels=CriticLevelsConfig(),
        critic=DiscriminatorConfig(taps=(0,), ffn_dim=8),
        null_text=null_text,
        layout=layout,
    )
    config = OneModelConfig(
        steps=steps,
        global_batch_size=batch,
        device_batch_size=device_batch,
        log_every=1,
        sample_every=0,
        checkpoint_every=1,
        ema_decay=0.5,
    )
    return SelfForcingTask(objective, judge, OPTIMIZER, OPTIMIZER, config, layout)
