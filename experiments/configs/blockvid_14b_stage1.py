"""Stage 1 of the paper (`blockvid_stage1`) for the 14B model, from the weights of SkyReels-V2-DF-14B."""

from __future__ import annotations

from dataclasses import replace

from ml_collections import ConfigDict

from bvjax.presets import get_preset
from experiments.configs import blockvid_stage1
from experiments.experiment import DiTExperiment, as_config


def experiment() -> DiTExperiment:
    smaller = blockvid_stage1.experiment()
    data = replace(smaller.data, weights="weights/skyreels-14b")
    return replace(smaller, model=get_preset("blockvid-14b"), data=data)


def get_config() -> ConfigDict:
    return as_config(experiment())
