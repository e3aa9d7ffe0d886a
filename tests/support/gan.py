"""A task of two networks: a generator of numbers and its critic, on a toy distribution.

A step updates the critic several times, each time with examples of its own, and then the generator once.  Each has
an optimizer, a schedule and a count of updates of its own; the moving average is the generator's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, UInt32

from bvjax.random import normal
from bvjax.sharding import ONE_DEVICE, Layout
from bvjax.train.mesh import state_shardings
from bvjax.train.optimizer import OptimizerConfig, learning_rate, make_optimizer
from bvjax.train.state import step_key
from bvjax.train.step import accumulate, apply_gradients, average, ema_decay_at, split
from bvjax.train.task import Batch, Metrics, Params

MEAN, SCALE = 2.0, 0.5  # of the distribution
NOISE, HIDDEN = 2, 8


@flax.struct.dataclass
class Player:
    """A network and its optimizer."""

    params: Params
    opt_state: optax.OptState


@flax.struct.dataclass
class GANState:
    """Both players, the generator's moving average and what fixes randomness."""

    step: Int[Array, ""]  # updates of the generator
    generator: Player
    critic: Player
    ema: Params
    key: UInt32[Array, "words"]


@dataclasses.dataclass(frozen=True)
class GANTask:
    """Batches are {"x": [b, 1]}; `poison` is (player, step) whose loss is made NaN."""

    generator: OptimizerConfig
    critic: OptimizerConfig
    critic_updates: int  # for one of the generator
    ema_decay: float
    ema_start: int  # generator updates before the moving average begins
    steps: int  # of the schedules
    layout: Layout = ONE_DEVICE
    poison: tuple[str, int] = ("", 0)
    name: str = "gan"

    @property
    def rates(self) -> Mapping[str, optax.Schedule]:
        critic = learning_rate(self.critic, self.steps * self.critic_updates)
        return {
            "generator's learning rate": learning_rate(self.generator, self.steps),
            "critic's learning rate": lambda step: critic(step * self.critic_updates),
        }

    def with_schedule_end(self, end: int) -> GANTask:
        return dataclasses.replace(self, steps=end)

    def on_one_device(self) -> GANTask:
        return dataclasses.replace(self, layout=ONE_DEVICE)

    def optimizers(self) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
        """The generator's and the critic's; each counts its own updates."""
        critic_end = self.steps * self.critic_updates
        return (
            make_optimizer(self.generator, learning_rate(self.generator, self.steps)),
            make_optimizer(self.critic, learning_rate(self.critic, critic_end)),
        )

    def init_state(self, seed: int, params: Params | None = None) -> GANState:
        keys = jax.random.split(jax.random.key(seed), 3)
        own = init_generator(keys[0]) if params is None else params
        other = init_critic(keys[1])
        generator, critic = self.optimizers()
        return GANState(
            step=jnp.zeros((), jnp.int32),
            generator=Player(own, generator.init(own)),
            critic=Player(other, critic.init(other)),
            ema=jax.tree.map(jnp.copy, own),
            key=jax.random.key_data(keys[2]),
        )

    def parameters(self, state: GANState) -> Mapping[str, Params]:
        return {"generator": state.generator.params, "critic": state.critic.params}

    def shardings(self, state: GANState) -> GANState:
        return state_shardings(self.layout, state, *self.parameters(state).values())

    def train_step(self, state: GANState, batch: Batch) -> tuple[GANState, Metrics]:
        key = step_key(state.key, state.step)
        own, other = self.optimizers()
        poison = {
            player: jnp.where(
                (self.poison[0] == player) & (state.step == self.poison[1]), jnp.nan, 1.0
            )
            for player in ("generator", "critic")
        }

        def critic_loss(params: Params, batch: Batch, key: jax.Array):
            fake = generate(state.generator.params, key, len(batch["x"]))
            margin = judge(params, batch["x"]) - judge(params, fake)
            return poison["critic"] * jax.nn.softplus(-margin).mean(), {"margin": margin.mean()}

        def generator_loss(params: Params, batch: Batch, key: jax.Array):
            fake = generate(params, key, len(batch["x"]))
            return poison["generator"] * jax.nn.softplus(-judge(critic.params, fake)).mean(), {}

        def update_critic(critic: Player, inputs: tuple[Batch, Array]):
            batch, index = inputs
            metrics, grads = accumulate(
                critic_loss, critic.params, batch, jax.random.fold_in(key, index), 1
            )
            params, opt_state, norms = apply_gradients(
                other, critic.params, critic.opt_state, grads
            )
            return Player(params, opt_state), metrics | norms

        critic, metrics = jax.lax.scan(
            update_critic,
            state.critic,
            (split(batch, self.critic_updates), jnp.arange(self.critic_updates)),
        )
        of_critic = jax.tree.map(jnp.mean, metrics)
        of_generator, grads = accumulate(
            generator_loss,
            state.generator.params,
            batch,
            jax.random.fold_in(key, self.critic_updates),
            1,
        )
        params, opt_state, norms = apply_gradients(
            own, state.generator.params, state.generator.opt_state, grads
        )
        decay = ema_decay_at(self.ema_decay, state.step, self.ema_start)
        generator_rate, critic_rate = (rate(state.step) for rate in self.rates.values())
        of_generator |= norms | {"lr": jnp.float32(generator_rate)}
        of_critic |= {"lr": jnp.float32(critic_rate)}
        metrics = {f"generator_{name}": value for name, value in of_generator.items()}
        metrics |= {f"critic_{name}": value for name, value in of_critic.items()}
        new = state.replace(
            step=state.step + 1,
            generator=Player(params, opt_state),
            critic=critic,
            ema=average(state.ema, params, decay),
        )
        return new, metrics

    def sample(self, state: GANState, folder: Path, step: int) -> dict[str, float]:
        made = np.asarray(generate(state.ema, jax.random.key(0), 512))
        return {"sample_mean": float(made.mean()), "sample_scale": float(made.std())}

    def export(self, state: GANState, folder: Path, meta: dict[str, Any]) -> None:
        raise AssertionError("the loop does not export")


def init_generator(key: jax.Array) -> Params:
    return {"dense": {"kernel": 0.1 * jax.random.normal(key, (NOISE, 1)), "bias": jnp.zeros(1)}}


def init_critic(key: jax.Array) -> Params:
    first, last = jax.random.split(key)
    return {
        "hidden": {"kernel": jax.random.normal(first, (1, HIDDEN)), "bias": jnp.zeros(HIDDEN)},
        "dense": {"kernel": 0.1 * jax.random.normal(last, (HIDDEN, 1)), "bias": jnp.zeros(1)},
    }


def generate(params: Params, key: jax.Array, count: int) -> Array:
    """Numbers [count, 1]."""
    noise = normal(key, (count, NOISE))
    return noise @ params["dense"]["kernel"] + params["dense"]["bias"]


def judge(params: Params, x: Array) -> Array:
    """Returns the logits that numbers are real, [b, 1]."""
    hidden = jax.nn.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["dense"]["kernel"] + params["dense"]["bias"]


def examples(index: int, count: int = 24) -> dict[str, np.ndarray]:
    """The batch of a step."""
    x = np.random.default_rng(index).normal(MEAN, SCALE, (count, 1))
    return {"x": x.astype(np.float32)}
