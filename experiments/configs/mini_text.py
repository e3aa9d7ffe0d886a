"""The text encoder of `mini`: umT5's architecture, small, trained on storyworld captions, then frozen.

The tokenizer is learned first, from the captions of `tokenizer_stories` stories, into `tokenizer_dir`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bvjax.losses.text_pretrain import TextLossConfig
from bvjax.presets import get_preset
from bvjax.train.config import OneModelConfig
from bvjax.train.optimizer import OptimizerConfig
from experiments.experiment import CaptionData, TextExperiment, as_config

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def experiment() -> TextExperiment:
    return TextExperiment(
        model=get_preset("mini"),
        train=OneModelConfig(
            steps=1500,
            global_batch_size=4,  # stories of 15 captions
            device_batch_size=4,
            ema_decay=0.99,
            log_every=25,
            sample_every=250,
            checkpoint_every=250,
        ),
        optimizer=OptimizerConfig(
            lr=2e-3,
            schedule="cosine",
            warmup_steps=50,
            final_factor=0.02,
            b2=0.98,
            weight_decay=0.01,
        ),
        data=CaptionData(tokenizer_stories=1000),
        text=TextLossConfig(similarity_weight=20.0),
    )


def get_config() -> ConfigDict:
    return as_config(experiment())
