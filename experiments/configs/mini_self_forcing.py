"""Stage 2 of `mini`: a four-step generator without guidance, trained on its own minutes and by Block Forcing.

It begins from weights that can leap already (`mini_consistency.py`):

python -m experiments.train --config=experiments/configs/mini_self_forcing.py --workdir=runs/self_forcing \\
    --init-from=runs/mini_fast

Whole minutes are rolled out, so all chunks carry gradient, and every critic sees the whole video.  The real score, where
`self_forcing.objective` has one, is the teacher of stage 1, guided as the preset is.
"""

from __future__ import annotations

from dataclasses import replace

from ml_collections import ConfigDict

from bvjax.losses.adversarial import PUBLISHED
from bvjax.losses.critic_levels import CriticLevelsConfig
from bvjax.losses.self_forcing import SelfForcingConfig
from bvjax.nets.discriminator import DiscriminatorConfig
from bvjax.train.optimizer import OptimizerConfig
from experiments.configs import mini_consistency, mini_dit
from experiments.experiment import SelfForcingExperiment, as_config


def experiment() -> SelfForcingExperiment:
    base, guided = mini_consistency.student(), mini_dit.experiment().model.guidance
    fields = {name: value for name, value in vars(base).items() if name != "task"}
    return SelfForcingExperiment(
        **fields
        | {
            "train": replace(
                base.train, steps=400, ema_decay=0.99, sample_every=50, checkpoint_every=50
            ),
            # Rates and moments of the published recipe are for other sizes; these are a start.
            "optimizer": OptimizerConfig(lr=1e-4, b1=0.0, b2=0.99, warmup_steps=10),
        },
        self_forcing=SelfForcingConfig(
            window=15,
            live=False,
            objective="gan",
            critic_updates=2,
            warmup_updates=20,
            ema_start=50,
            teacher_scale=guided.scale,
            teacher_memory=guided.memory,
        ),
        adversarial=PUBLISHED["self-forcing-paper"],
        critic_levels=CriticLevelsConfig(),
        discriminator=DiscriminatorConfig(taps=(1, 3), layers=4, ffn_dim=384),
        critic_optimizer=OptimizerConfig(lr=2e-4, b1=0.0, b2=0.99),
        teacher="runs/mini",
    )


def get_config() -> ConfigDict:
    return as_config(experiment())
