"""The start of a four-step `mini` by ODE regression, the alternative to `mini_consistency.py`; the same command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bvjax.losses.ode_regression import OdeConfig
from experiments.configs import mini_consistency, mini_dit
from experiments.experiment import OdeExperiment, as_config

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def experiment() -> OdeExperiment:
    base, guided = mini_consistency.student(), mini_dit.experiment().model.guidance
    fields = {name: value for name, value in vars(base).items() if name != "task"}
    return OdeExperiment(
        **fields,
        ode=OdeConfig(levels=24, guidance=guided.scale, memory_guidance=guided.memory),
    )


def get_config() -> ConfigDict:
    return as_config(experiment())
