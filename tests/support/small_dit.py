"""A config file of `experiments.train`: the smallest DiT, on the stories of `small_runs.make_stories` in ./data."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from small_runs import SMALL_DIT  # noqa: E402

from experiments.configs import mini_dit  # noqa: E402
from experiments.experiment import as_config  # noqa: E402

CHANGES = {
    "train.steps": 6,
    "train.global_batch_size": 8,
    "train.device_batch_size": 1,
    "train.log_every": 1,
    "train.checkpoint_every": 2,
    "train.sample_every": 0,
    "optimizer.warmup_steps": 1,
    "optimizer.lr": 0.002,
    "optimizer.kind": "adamw",
    "data.weights": "data/weights",
    "data.latents": "data/latents",
    "data.heldout_stories": 1,
    "data.sample_stories": 1,
    "data.sample_chunks": 1,
    "forcing.frames": 0,
    "forcing.targets_per_chunk": 1,
    "forcing.revisit_fraction": 0.0,
    "forcing.standalone": 0.0,
}


def get_config():
    model = dataclasses.replace(
        SMALL_DIT, dit=dataclasses.replace(SMALL_DIT.dit, similarity_keys=True, qk_init=2.0)
    )
    config = as_config(dataclasses.replace(mini_dit.experiment(), model=model))
    config.update_from_flattened_dict(CHANGES)
    return config
