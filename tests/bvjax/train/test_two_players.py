"""A generator and its critic through the loop: schedules, moving average, checkpoints, what is not finite."""

from __future__ import annotations

import csv
import dataclasses
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gan import GANTask, examples

from bvjax.errors import UserError
from bvjax.train.checkpoint import Checkpoints
from bvjax.train.config import LoopConfig
from bvjax.train.loop import fit
from bvjax.train.optimizer import OptimizerConfig, learning_rate
from bvjax.train.step import compile_step
from data_pipelines.counter_source import IndexedBatches

CONFIG = LoopConfig(
    steps=6, global_batch_size=24, log_every=1, sample_every=0, checkpoint_every=2, keep=3
)
TASK = GANTask(
    generator=OptimizerConfig(lr=0.02, b1=0.0, b2=0.9, schedule="cosine", final_factor=0.5),
    critic=OptimizerConfig(lr=0.05, b1=0.5, b2=0.99, milestones=(0.5,), factors=(0.1,)),
    critic_updates=3,
    ema_decay=0.9,
    ema_start=2,
    steps=CONFIG.steps,
)


def train(workdir: Path, task: GANTask = TASK, config: LoopConfig = CONFIG, cut=None, **options):
    def make(index: int):
        if index == cut:
            raise KeyboardInterrupt
        return examples(index)

    return fit(task, IndexedBatches(make), config, workdir, **options)


def column(workdir: Path, name: str) -> list[float]:
    with open(workdir / "metrics.csv", newline="") as f:
        return [float(row[name]) for row in csv.DictReader(f)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, train(workdir)


def test_resume_is_bit_equal_to_an_unbroken_run(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, cut=5)
    resumed = train(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, resumed.state, whole[1].state)
    for name in ("generator_loss", "critic_loss", "critic_margin"):
        assert column(tmp_path, name) == column(whole[0], name)


def test_each_player_has_its_own_schedule_and_count(whole):
    workdir, result = whole
    of_generator, of_critic = (
        learning_rate(c, n) for c, n in ((TASK.generator, 6), (TASK.critic, 18))
    )
    np.testing.assert_allclose(
        column(workdir, "generator_lr"), [of_generator(step) for step in range(6)], rtol=1e-6
    )
    rates = [of_critic(3 * step) for step in range(6)]
    np.testing.assert_allclose(column(workdir, "critic_lr"), rates, rtol=1e-6)
    assert rates[2] == pytest.approx(10 * rates[3])
    counts = {
        player: {
            int(leaf)
            for leaf in jax.tree.leaves(getattr(result.state, player).opt_state)
            if leaf.dtype == jnp.int32
        }
        for player in ("generator", "critic")
    }
    assert counts == {"generator": {6}, "critic": {18}}


def test_the_moving_average_counts_updates_of_the_generator_and_has_a_start():
    state = TASK.init_state(0)
    step, ema = compile_step(TASK, state), None
    for done in range(5):
        state, _ = step(state, examples(done))
        own = np.asarray(state.generator.params["dense"]["kernel"])
        t = done - TASK.ema_start
        decay = min(TASK.ema_decay, (1 + t) / (10 + t)) if t >= 0 else 0.0
        ema = own if ema is None else decay * ema + (1 - decay) * own
        np.testing.assert_allclose(state.ema["dense"]["kernel"], ema, rtol=1e-5)
    assert not np.allclose(ema, own)


@pytest.mark.parametrize("player", ["generator", "critic"])
def test_nan_in_either_player_names_it_and_keeps_the_last_good_state(whole, tmp_path, player):
    poisoned = dataclasses.replace(TASK, poison=(player, 3))
    with pytest.raises(FloatingPointError) as error:
        train(tmp_path, poisoned)
    message = str(error.value)
    assert f"{player}_loss" in message and message.endswith("that of step 2")
    assert player == "critic" or "critic_" not in message
    assert Checkpoints(tmp_path / "checkpoints", keep=3).latest == 2
    again = train(tmp_path)  # with the cause gone
    jax.tree.map(np.testing.assert_array_equal, again.state, whole[1].state)


def test_an_extended_run_keeps_both_schedules(whole, tmp_path, caplog):
    train(tmp_path)
    longer = dataclasses.replace(CONFIG, steps=8)
    task = dataclasses.replace(TASK, steps=8)
    with pytest.raises(UserError, match="the generator's .* at 0.01 and the critic's .* at 0.005"):
        train(tmp_path, task, longer)
    with caplog.at_level(logging.WARNING, "absl"):
        assert train(tmp_path, task, longer, extend=True).state.step == 8
    assert "8 updates instead of 6" in caplog.text
    for name, last in (("generator_lr", 0.01), ("critic_lr", 0.005)):
        assert column(tmp_path, name)[:6] == column(whole[0], name)
        np.testing.assert_allclose(column(tmp_path, name)[6:], last, rtol=1e-5)


def test_a_player_whose_rate_ends_at_zero_is_not_extended(tmp_path):
    silent = dataclasses.replace(TASK.critic, schedule="cosine", final_factor=0.0)
    task = dataclasses.replace(TASK, critic=silent, steps=2)
    train(tmp_path, task, dataclasses.replace(CONFIG, steps=2))
    with pytest.raises(UserError, match="the critic's learning rate of this run is 0 after 2 upd"):
        train(tmp_path, task, dataclasses.replace(CONFIG, steps=4), extend=True)


def test_the_generator_learns_the_distribution(tmp_path):
    config = dataclasses.replace(CONFIG, steps=250, log_every=0, checkpoint_every=0)
    result = train(tmp_path, dataclasses.replace(TASK, steps=250), config)
    assert TASK.sample(result.state, tmp_path, 0)["sample_mean"] == pytest.approx(2.0, abs=0.4)
