"""The DiT of `mini` on films of your own (docs/data.md), which have no ground truth: nothing that needs any is drawn.

python -m experiments.train --config=experiments/configs/mini_films.py --workdir=runs/films \\
    --config.data.weights=bvjax/assets/mini --config.data.latents=data/curated/latents --init-from=bvjax/assets/mini
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bvjax.losses.history import shares
from experiments.configs import mini_dit
from experiments.experiment import DiTExperiment, as_config

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def experiment() -> DiTExperiment:
    base = mini_dit.experiment()
    return replace(
        base,
        data=replace(
            base.data, name="films", latents="data/films", extras=(), heldout_split="test",
            heldout_stories=1, sample_stories=1, sample_chunks=2,
        ),
        forcing=replace(base.forcing, revisit_fraction=0.0, standalone=0.0, frames=4),
        history=replace(
            base.history,
            chances=shares() | dict(semantic=0.6, rolling=0.15, oracle=0.0, random=0.1, none=0.15),
        ),
    )  # fmt: skip


def get_config() -> ConfigDict:
    return as_config(experiment())
