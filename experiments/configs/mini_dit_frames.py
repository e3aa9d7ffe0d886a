"""First of two stages of the DiT's training: single latents, as images, from captions that describe them.

What a word looks like is learnt from images: one costs a fifth of a chunk, and the latents of a chunk look much
alike.  Then chunks with history; a model that starts with it to copy from hardly learns what words mean.  It takes
many stories: with 240 of them the model drew 88 % of the species of these and 41 % of those of others.  Their first
two chunks will do:

python -m data_pipelines.storyworld.encode --weights=runs/mini --out=data/openings --chunks=2 --stories=3000
python -m data_pipelines.storyworld.encode --weights=runs/mini --out=data/openings --chunks=2 --stories=16 --split=heldout
python -m experiments.train --config=experiments/configs/mini_dit_frames.py --workdir=runs/dit_frames \\
    --weights=runs/mini
python -m experiments.train --config=experiments/configs/mini_dit.py --workdir=runs/dit \\
    --weights=runs/mini --init-from=runs/mini
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.configs import mini_dit
from experiments.experiment import DiTExperiment, as_config

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def experiment() -> DiTExperiment:
    base = mini_dit.experiment()
    return replace(
        base,
        train=replace(
            base.train, steps=1100, sample_every=200, global_batch_size=24, device_batch_size=24
        ),
        optimizer=replace(base.optimizer, lr=2e-3, schedule="cosine", final_factor=0.3),
        data=replace(base.data, latents="data/openings", heldout_stories=16),
        forcing=replace(base.forcing, targets_per_chunk=0, frames=8, standalone=0.7),
    )


def get_config() -> ConfigDict:
    return as_config(experiment())
