"""A config file of `experiments.train`: the smallest text encoder, on captions of ./data/text."""

from __future__ import annotations

import dataclasses

from bvjax.config import TextConfig
from bvjax.presets import get_preset
from experiments.configs import mini_text
from experiments.experiment import as_config

CHANGES = {
    "train.steps": 6,
    "train.global_batch_size": 8,
    "train.device_batch_size": 1,
    "train.log_every": 1,
    "train.checkpoint_every": 2,
    "train.sample_every": 0,
    "optimizer.warmup_steps": 1,
    "data.tokenizer_stories": 6,
    "data.heldout_stories": 1,
}


def get_config():
    text = TextConfig(
        vocab_size=300, dim=8, num_layers=1, num_heads=1, head_dim=8, ffn_dim=8, max_length=96
    )
    model = dataclasses.replace(get_preset("mini"), text=text)
    config = as_config(dataclasses.replace(mini_text.experiment(), model=model))
    config.update_from_flattened_dict(CHANGES)
    return config
