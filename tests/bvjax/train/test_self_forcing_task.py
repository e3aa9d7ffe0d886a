"""The task of Self Forcing: what an update is made of, what persists, and what stops it."""

from __future__ import annotations

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from few_step import examples, random_params
from self_forcing import make_task

from bvjax.errors import UserError
from bvjax.losses.self_forcing import SelfForcingConfig
from bvjax.losses.self_rollout import Window
from bvjax.train.checkpoint import Checkpoints
from bvjax.train.loop import fit
from bvjax.train.players import new_player
from bvjax.train.self_forcing_task import SelfForcingState, SelfForcingTask
from data_pipelines.counter_source import IndexedBatches


def same(a, b) -> bool:
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def state_of(task, params=None):
    return jax.jit(task.init_state, static_argnums=0)(0, params or {"generator": random_params()})


@pytest.mark.slow
def test_a_step_trains_every_player_and_rollouts_go_on():
    """One program for all exit steps and all places in a story; the minute's end begins another story."""
    task = make_task(objective="gan+dmd", warmup_updates=2)
    start = {"generator": random_params(), "teacher": random_params(2)}
    state = before = state_of(task, start)
    step = jax.jit(task.train_step)
    done, names, reals = [], None, []
    for i in range(4):
        state, metrics = step(state, examples(2, seed=i))
        assert names in (None, set(metrics)) and all(np.isfinite(x) for x in metrics.values())
        names = set(metrics)
        done.append(int(state.live.done[0]))
        reals.append(np.asarray(state.live.story.chunks[0, 0]))
        heads, trunk = (
            not same(
                state.critics["discriminator"].params[part],
                before.critics["discriminator"].params[part],
            )
            for part in ("heads", "trunk")
        )
        assert heads and trunk == (i > 0)  # the two updates of the first step warm the heads up
    assert step._cache_size() == 1
    assert set(done) <= {2, 3, 4} and state.step == 4
    assert same(state.teacher, before.teacher) and same(state.teacher, start["teacher"])
    assert not same(state.critics["fake_score"].params, before.critics["fake_score"].params)
    assert not same(state.generator.params, before.generator.params)
    stories = [examples(2, seed=i)["latents"][:, 1:2] for i in range(4)]
    assert all(any(np.allclose(real, x) for s in stories for x in s) for real in reals)
    assert {n.split("_")[0] for n in names} == {
        "generator",
        "critic",
        "discriminator",
        "fake",
        "skipped",
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Stub(SelfForcingTask):
    """Its rollouts have a loss of 0.5 and a gradient of 1 everywhere."""

    def _windows(self, params, live, batch, key):
        return None, None

    def _video_gradients(self, critics, windows, key, accum):
        return None, {"sf_loss": jnp.float32(0.5)}

    def _pull_back(self, params, live, windows, cotangents):
        return jax.tree.map(jnp.ones_like, params)


@pytest.mark.parametrize("warmup", [0, 4])
def test_an_update_is_the_weighted_sum_of_both_losses(warmup):
    """Eq. 1 and 5 in one update; before the critics' heads are warm it is Block Forcing's alone."""
    real = make_task(w_sf=2.0, w_bf=3.0, warmup_updates=warmup)
    by_hand = lambda params, batch, key: (7.0 * params["w"].sum() + 1.0, {})
    objective = types.SimpleNamespace(**vars(real.objective) | {"loss": by_hand})
    task = Stub(**vars(real) | {"objective": objective})
    for step, share in ((0, 0.0 if warmup else 1.0), (2, 1.0)):
        state = types.SimpleNamespace(
            step=jnp.int32(step), generator=types.SimpleNamespace(params={"w": jnp.zeros(3)})
        )
        batch = {"x": jnp.zeros((2, 1))}
        _, grads, metrics = task._generator_gradient(state, {}, None, batch, jax.random.key(0))
        np.testing.assert_allclose(grads["w"], 2.0 * share + 3.0 * 7.0)
        assert metrics["loss"] == 2.0 * share * 0.5 + 3.0
        assert (metrics["sf_loss"], metrics["bf_loss"]) == (0.5, 1.0)


def run(workdir, cut=None):
    """Trains; a person interrupts before batch `cut`."""

    def make(index: int):
        if index == cut:
            raise KeyboardInterrupt
        return examples(2, seed=index)

    task = make_task(steps=3)
    return fit(task, IndexedBatches(make), task.config, workdir, {"generator": random_params()})


@pytest.mark.long
def test_a_rollout_in_the_middle_of_its_story_is_resumed_bit_equal(tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", cut=1)
    assert Checkpoints(tmp_path / "cut" / "checkpoints", keep=2).latest is not None
    assert same(run(tmp_path / "cut").state, whole.state)


def test_state_without_rollouts_or_critics():
    """Nothing is kept that an objective does not need."""
    state = jax.eval_shape(lambda: make_task(objective="none").init_state(0))
    assert state.critics == {} and state.teacher is None and state.live is None
    state = jax.eval_shape(lambda: make_task(live=False).init_state(0))
    assert set(state.critics) == {"discriminator"} and state.live is None
    state = jax.eval_shape(lambda: make_task(objective="dmd").init_state(0))
    assert set(state.critics) == {"fake_score"} and state.teacher is not None
    # A batch of two; 4 chunks and the anchor in 4 slots evict one entry, which a window may have seen.
    assert state.live.bank.bank.keys.shape[:4] == (2, 1, 1, 4 + 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"window": 5},
            "self_forcing.window is 5, but the stories have 4 chunks; it must be 1 to 4",
        ),
        ({"device_batch": 3}, "2 is not a multiple of data=1 x device_batch_size 3"),
        ({"objective": "wgan"}, "objective is 'wgan'; it can be gan, dmd, gan\\+dmd, none"),
        ({"w_sf": -1.0}, "self_forcing.w_sf is -1.0; it must be 0 or more"),
        ({"w_bf": 0.0, "objective": "none"}, "nothing is left to train with"),
        ({"critic_updates": 0}, "self_forcing.critic_updates is 0; it must be 1 or more"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make_task(**changes)


def test_rates_are_counted_in_updates_of_each_player():
    task = make_task(steps=10, warmup_updates=4)
    rates = task.rates
    assert float(rates["critics' learning rate"](0)) == pytest.approx(1e-2)
    assert float(rates["critics' learning rate"](2)) == pytest.approx(1e-2)  # anew after 4 updates
    assert float(rates["critics' learning rate"](10)) == pytest.approx(0.0, abs=1e-6)
    assert set(make_task(objective="none").rates) == {"generator's learning rate"}
    assert SelfForcingConfig().critics == ("discriminator",)


@pytest.mark.long
def test_batches_cut_in_any_way_give_the_same_update():
    """Draws are those of the examples, so that 1 x 4, 2 x 2 and 4 x 1 are one update of every player."""
    expected = None
    for device_batch in (4, 2, 1):
        task = make_task(batch=4, device_batch=device_batch, objective="gan+dmd")
        state = state_of(task, {"generator": random_params(), "teacher": random_params(2)})
        new, metrics = jax.jit(task.train_step)(state, examples(4))
        got = new.generator, new.critics, new.ema, new.live
        if expected is None:
            expected, losses = got, metrics
        for name, value in losses.items():
            np.testing.assert_allclose(metrics[name], value, rtol=2e-5, atol=1e-7, err_msg=name)
        assert metrics["generator_loss"] == pytest.approx(float(losses["generator_loss"]), rel=1e-6)
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True
        ):
            name = jax.tree_util.keystr(path)
            # The game is of differences: the last bias has no gradient, and Adam takes rounding for one.
            if "['head']['2']['bias']" not in name:
                # Adam's steps of 1e-2 have the size of rounding where a critic's gradient has: some thousandths.
                close(a, b, name, tolerance=1e-3 if path[0].idx == 1 else 1e-5)


def close(a, b, name, tolerance):
    """Asserts equality to `tolerance` of the largest number."""
    largest = max(float(np.abs(np.asarray(b, np.float64)).max()), 1e-12)
    np.testing.assert_allclose(
        np.asarray(a), np.asarray(b), rtol=0, atol=tolerance * largest, err_msg=name
    )


@dataclasses.dataclass(frozen=True, eq=False)
class ByHand(Stub):
    """Losses of two players that are sums of squares; `of_critic` and `of_generator` of a batch are added."""

    def init_state(self, seed, params=None):
        own, other = self._optimizers()
        params = {"w": jnp.ones(3)}
        return SelfForcingState(
            step=jnp.int32(0), generator=new_player(params, own), ema=params,
            critics={"discriminator": new_player({"heads": jnp.ones(2)}, other)},
            teacher=None, live=None, key=jax.random.key_data(jax.random.key(0)),
        )  # fmt: skip

    def _windows(self, params, live, batch, key):
        return None, batch


def by_hand(**changes) -> ByHand:
    real = make_task(live=False, **changes)
    square = lambda params: sum(jnp.sum(x**2) for x in params.values())

    def loss(name):
        return lambda params, batch, key: (square(params) + batch[name].sum(), {})

    objective = types.SimpleNamespace(**vars(real.objective) | {"loss": loss("of_generator")})
    judge = types.SimpleNamespace(
        **vars(real.judge) | {"discriminator_loss": loss("of_critic"), "fake_score_loss": None}
    )
    config = dataclasses.replace(real.config, max_skipped=2)
    return ByHand(**vars(real) | {"objective": objective, "judge": judge, "config": config})


def poisoned(*parts):
    """Two examples, NaN in the second of these parts."""
    bad = np.array([0.0, np.nan], np.float32)
    return {
        n: bad if n in parts else np.zeros(2, np.float32) for n in ("of_critic", "of_generator")
    }


@pytest.mark.parametrize("part", ["of_critic", "of_generator"])
def test_a_player_whose_update_is_not_finite_stays_as_it_was(part):
    task = by_hand()
    step = jax.jit(task.train_step)
    before, _ = step(task.init_state(0), poisoned())
    after, metrics = step(before, poisoned(part))
    of_critic = part == "of_critic"
    assert same(after.critics, before.critics) == of_critic
    assert same((after.generator, after.ema), (before.generator, before.ema)) != of_critic
    assert metrics["skipped"] == 1 and after.step == 2
    bad = {name for name, value in metrics.items() if not np.isfinite(value)}
    assert bad == ({"discriminator_loss"} if of_critic else {"generator_loss", "generator_bf_loss"})


def test_the_player_is_named_and_the_run_stops_after_some(tmp_path, caplog):
    task = by_hand(steps=6)
    parts = {1: "of_critic", 3: "of_generator", 4: "of_critic"}
    data = IndexedBatches(lambda i: poisoned(parts.get(i)))
    with pytest.raises(FloatingPointError, match="discriminator_loss not finite at step 5; .* 4;"):
        fit(task, data, task.config, tmp_path)
    assert "update 2 is left out, discriminator_loss not finite (1 of at most" in caplog.text
    assert "update 4 is left out, generator_bf_loss, generator_loss not finite" in caplog.text


def test_a_rollout_with_a_number_that_is_not_finite_is_over():
    task = make_task()
    live = jax.tree.map(lambda x: x[0], task._no_rollouts())
    live = dataclasses.replace(live, done=jnp.int32(2), anchor=live.anchor + 1.0)
    window = Window(jnp.ones(3), *[None] * (len(dataclasses.fields(Window)) - 1))
    assert same(task.rollout.ended_unless_finite(live, window), live)
    story = dataclasses.replace(live.story, chunks=live.story.chunks.at[3, 0, 0, 0, 0].set(jnp.nan))
    for bad in (
        (dataclasses.replace(live, story=story), window),
        (live, dataclasses.replace(window, latents=jnp.array([jnp.inf]))),
    ):
        ended = task.rollout.ended_unless_finite(*bad)
        assert ended.done == 4 and not np.asarray(ended.anchor).any()
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(ended) if x.dtype.kind == "f")
