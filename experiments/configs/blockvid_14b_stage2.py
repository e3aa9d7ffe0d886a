"""Stage 2 of the paper (`blockvid_stage2`) for the 14B model, from a few-step start made of its stage 1.

The discriminator's registers look at the depths at which those of the 1.3B model do.
"""

from __future__ import annotations

from dataclasses import replace

from ml_collections import ConfigDict

from bvjax.nets.discriminator import default_taps
from experiments.configs import blockvid_14b_stage1, blockvid_stage2
from experiments.experiment import SelfForcingExperiment, as_config


def experiment() -> SelfForcingExperiment:
    smaller, stage1 = blockvid_stage2.experiment(), blockvid_14b_stage1.experiment()
    taps = default_taps(stage1.model.dit.num_layers)
    return replace(
        smaller,
        model=replace(smaller.model, name=stage1.model.name, dit=stage1.model.dit),
        data=replace(smaller.data, weights=stage1.data.weights),
        discriminator=replace(smaller.discriminator, taps=taps),
    )


def get_config() -> ConfigDict:
    return as_config(experiment())
