"""The DiT of `mini` fine-tuned on cuts, from the weights of `mini_returns`: half an hour on two cores.

The last chunk of an excerpt begins a new shot, and sees what retrieval brings and not the chunks before the cut; the
others go on as in `mini_returns`, whose steps take five and a half seconds on one core while another one encodes.

python -m experiments.train --config=experiments/configs/mini_cuts.py --workdir=runs/cuts --init-from=runs/mini
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.configs import mini_returns
from experiments.experiment import DiTExperiment, as_config

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def experiment() -> DiTExperiment:
    base = mini_returns.experiment()
    return replace(
        base,
        train=replace(base.train, steps=300, sample_every=100, checkpoint_every=50, ema_decay=0.98),
        # A tenth of the rate that it was trained with.
        optimizer=replace(base.optimizer, lr=2e-4, warmup_steps=10),
        data=replace(
            base.data,
            name="cuts",
            latents="data/cuts",
            extras=(*base.data.extras, "shot"),
            first=96,
        ),
    )


def get_config() -> ConfigDict:
    return as_config(experiment())
