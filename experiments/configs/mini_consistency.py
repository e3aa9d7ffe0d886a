"""The start of a four-step `mini`: consistency distillation from its stage-1 weights, on the same encoded stories.

The teacher is guided by captions and by the memory as the preset is; the student needs no guidance.

python -m experiments.train --config=experiments/configs/mini_consistency.py --workdir=runs/consistency \\
    --init-from=runs/mini --weights=runs/mini_fast

The folder that gets the student needs the VAE and the text encoder too: copy those of runs/mini.  ODE regression, the
alternative, is task "ode" with a section `ode` (`losses.ode_regression`); see `mini_ode.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bvjax.config import GuidanceConfig, SamplerConfig
from bvjax.losses.consistency import ConsistencyConfig
from experiments.configs import mini_dit
from experiments.experiment import ConsistencyExperiment, DiTExperiment, as_config

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def student() -> DiTExperiment:
    """Stage 1 with a student for a model, and a gentler optimizer."""
    base = mini_dit.experiment()
    model = replace(
        base.model,
        sampler=SamplerConfig(kind="few_step", steps=4, shift=base.model.sampler.shift),
        guidance=GuidanceConfig(scale=1.0),
    )
    return replace(
        base,
        model=model,
        train=replace(base.train, steps=800, ema_decay=0.99),
        optimizer=replace(base.optimizer, lr=2e-4, final_factor=0.1),
        # The student knows no null caption: it is never guided.
        history=replace(base.history, caption_drop=0.0),
        forcing=replace(base.forcing, targets_per_chunk=1, revisit_fraction=0.0),
    )


def experiment() -> ConsistencyExperiment:
    base, guided = student(), mini_dit.experiment().model.guidance
    fields = {name: value for name, value in vars(base).items() if name != "task"}
    return ConsistencyExperiment(
        **fields,
        consistency=ConsistencyConfig(
            levels=48, guidance=guided.scale, memory_guidance=guided.memory
        ),
    )


def get_config() -> ConfigDict:
    return as_config(experiment())
