"""A generator and its critic with the batch sharded over eight devices: the steps of one, and a run that goes on."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from gan import GANTask, examples

from bvjax.sharding import make_layout
from bvjax.train.config import LoopConfig
from bvjax.train.loop import fit
from bvjax.train.optimizer import OptimizerConfig
from data_pipelines.counter_source import IndexedBatches

CONFIG = LoopConfig(steps=4, global_batch_size=24, log_every=1, sample_every=0, checkpoint_every=2)
ADAM = OptimizerConfig(lr=0.01, schedule="cosine", b1=0.5)
TASK = GANTask(ADAM, ADAM, critic_updates=3, ema_decay=0.9, ema_start=1, steps=4)


def test_two_players_on_eight_devices(tmp_path):
    cut = dataclasses.replace(TASK, layout=make_layout(dict(data=8)))
    expected = fit(TASK, IndexedBatches(examples), CONFIG, tmp_path / "one").state

    def some(index):
        if index == 3:
            raise KeyboardInterrupt
        return examples(index)

    with pytest.raises(KeyboardInterrupt):
        fit(cut, IndexedBatches(some), CONFIG, tmp_path / "run")
    whole = fit(cut, IndexedBatches(examples), CONFIG, tmp_path / "whole").state
    kernel = whole.critic.params["hidden"]["kernel"]
    assert len(kernel.sharding.device_set) == 8
    resumed = fit(cut, IndexedBatches(examples), CONFIG, tmp_path / "run").state
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), whole, expected
    )
