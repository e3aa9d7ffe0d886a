"""The task of stage 2: a few-step generator trained on its own rollouts, with its critics, and by Block Forcing.

A step is `critic_updates` updates of the critics and then one of the generator, each with the next window of every
rollout.  In the generator's, L = w_sf L_SF + w_bf L_BF (Eq. 1, 5): L_SF of the window, L_BF of the batch's examples.
Where rollouts live on (`self_forcing.live`) one that is over begins an example of the batch; else each update rolls
all of them out anew, and L_SF and L_BF are of the same clips.

On a mesh videos are sharded over `data`; each replica of the model rolls its own out, one after the other.  Networks,
tokens and the bank of a rollout are sharded within a replica as in all of training and generation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, UInt32

from bvjax.distributed import exchange
from bvjax.losses.clip import make_clip
from bvjax.losses.self_forcing import SelfForcing, SelfForcingConfig
from bvjax.losses.self_rollout import Live, SelfRollout, Story, Window
from bvjax.memory import spare_slots
from bvjax.nets import discriminator
from bvjax.random import ExampleKeys, purpose_key
from bvjax.sharding import ONE_DEVICE, Layout
from bvjax.train import mesh
from bvjax.train.config import OneModelConfig
from bvjax.train.dit_objective import DiTObjective
from bvjax.train.optimizer import OptimizerConfig, learning_rate, make_optimizer
from bvjax.train.players import Player, new_player, updated
from bvjax.train.state import step_key
from bvjax.train.step import (
    accumulate,
    average,
    ema_decay_at,
    example_numbers,
    is_finite,
    keep_unless,
    split,
)
from bvjax.train.task import Batch, Metrics, Params


@flax.struct.dataclass
class SelfForcingState:
    """The players, what fixes randomness, and the rollouts that go on.  None: this objective has none."""

    step: Int[Array, ""]  # updates of the generator
    generator: Player
    ema: Params
    critics: dict[str, Player]  # discriminator, fake_score
    teacher: Params | None  # of the real score; it stays as it is
    live: Live | None  # a batch of rollouts
    key: UInt32[Array, "words"]


@dataclasses.dataclass(frozen=True, eq=False)
class SelfForcingTask:
    """Trains the generator of `objective` with the critics of `judge`.

    `objective.heldout` says how large the stories are.  Samples and exports are of the moving average and, under
    `raw`, of the generator as it is: early in a run the average is far worse.
    """

    objective: DiTObjective
    judge: SelfForcing
    optimizer: OptimizerConfig
    critic_optimizer: OptimizerConfig
    config: OneModelConfig
    layout: Layout = ONE_DEVICE
    schedule_end: int | None = None  # None: config.steps
    name: str = "dit"

    def __post_init__(self):
        """Raises `UserError` for stories shorter than a window, and for batches that do not divide."""
        self.rollout.check_story(len(self.objective.heldout["text"][0]))
        self.micro_batches  # noqa: B018

    @property
    def settings(self) -> SelfForcingConfig:
        return self.judge.config

    @property
    def rollout(self) -> SelfRollout:
        """The rollout within one replica of the model."""
        model, settings, layout = self.objective.model, self.settings, self.layout.replica
        return SelfRollout(model, self.objective.null_text, settings.window, settings.live, layout)

    @property
    def critic_updates(self) -> int:
        """Updates of the critics in a step."""
        return self.settings.critic_updates if self.settings.critics else 0

    @property
    def micro_batches(self) -> int:
        """How many make an update of a network."""
        return mesh.micro_batches(self.config, self.layout)

    # ---- schedules -----------------------------------------------------------------------------
    @property
    def _end(self) -> int:
        return self.config.steps if self.schedule_end is None else self.schedule_end

    @property
    def _critic_schedule(self) -> optax.Schedule:
        """The critics' rate, by their updates since the warm-up of the heads or since its beginning."""
        updates = self._end * self.critic_updates - self.settings.warmup_updates
        return learning_rate(self.critic_optimizer, max(updates, 1))

    @property
    def rates(self) -> Mapping[str, optax.Schedule]:
        rates = {"generator's learning rate": learning_rate(self.optimizer, self._end)}
        if self.critic_updates:
            schedule, warmup = self._critic_schedule, self.settings.warmup_updates

            def of_critics(step):
                done = step * self.critic_updates
                return schedule(jnp.where(done < warmup, done, done - warmup))

            rates["critics' learning rate"] = of_critics
        return rates

    def with_schedule_end(self, end: int) -> SelfForcingTask:
        return dataclasses.replace(self, schedule_end=end)

    def on_one_device(self) -> SelfForcingTask:
        return dataclasses.replace(
            self,
            objective=dataclasses.replace(self.objective, layout=ONE_DEVICE),
            judge=dataclasses.replace(self.judge, layout=ONE_DEVICE),
            layout=ONE_DEVICE,
        )

    def _optimizers(self) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
        """The generator's and the critics'; each counts its own updates."""
        schedule = learning_rate(self.optimizer, self._end)
        return (
            make_optimizer(self.optimizer, schedule),
            make_optimizer(self.critic_optimizer, self._critic_schedule),
        )

    # ---- state ---------------------------------------------------------------------------------
    def init_state(self, seed: int, params: Params | None = None) -> SelfForcingState:
        """The state before the first step.

        Args:
            seed: of all random numbers.
            params: {"generator": ..., "teacher": ...}; without a teacher the start of the generator is it.
        """
        init, critic, base = jax.random.split(jax.random.key(seed), 3)
        start = {"generator": self.objective.init(init)} if params is None else params
        own, teacher = start["generator"], start.get("teacher", start["generator"])
        optimizer, other = self._optimizers()
        critics = {}
        if self.settings.plays:
            begun = discriminator.init_params(self.judge.critic, self.objective.model, own, critic)
            critics["discriminator"] = new_player(begun, other)
        if self.settings.matches:
            critics["fake_score"] = new_player(jax.tree.map(jnp.copy, teacher), other)
        return SelfForcingState(
            step=jnp.zeros((), jnp.int32),
            generator=new_player(own, optimizer),
            ema=jax.tree.map(jnp.copy, own),
            critics=critics,
            teacher=jax.tree.map(jnp.copy, teacher) if self.settings.matches else None,
            live=self._no_rollouts() if self.settings.live and self._rolls else None,
            key=jax.random.key_data(base),
        )

    def _no_rollouts(self) -> Live:
        """As many rollouts that are over as a batch has examples."""
        example = {name: jnp.asarray(x[:1]) for name, x in self.objective.heldout.items()}
        story = jax.tree.map(lambda x: x[0], self._stories(example))
        over = dataclasses.replace(self.rollout, layout=ONE_DEVICE).over(story)
        count = self.config.global_batch_size
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), over)

    def parameters(self, state: SelfForcingState) -> Mapping[str, Params]:
        critics = {name.replace("_", " "): player.params for name, player in state.critics.items()}
        return {"generator": state.generator.params, **critics}

    def shardings(self, state: SelfForcingState) -> SelfForcingState:
        networks = [player.params for player in (state.generator, *state.critics.values())]
        placed = mesh.state_shardings(self.layout, state, *networks)
        rows, live = mesh.batch_sharding(self.layout), None
        if state.live is not None:
            live = jax.tree.map(lambda _: rows, state.live)
            bank = spare_slots.shardings(state.live.bank, self.layout, "data")
            live = dataclasses.replace(live, bank=bank)
        return dataclasses.replace(placed, live=live)

    # ---- step ----------------------------------------------------------------------------------
    @property
    def _rolls(self) -> bool:
        """Whether there is anything to do with rollouts."""
        return bool(self.settings.critics) and self.settings.w_sf > 0

    def train_step(self, state: SelfForcingState, batch: Batch) -> tuple[SelfForcingState, Metrics]:
        """A step.  A player whose loss or gradient is not finite stays as it is, and `skipped` is 1; so does the average.

        A rollout that is not finite is over: its story has no other update.
        """
        key = step_key(state.key, state.step)
        own, other = self._optimizers()
        updates = self.critic_updates
        critics, live = state.critics, state.live
        metrics: Metrics = {}
        finite = jnp.bool_(True)

        def update(carry, index):
            key_of_update, count = jax.random.fold_in(key, index), state.step * updates + index
            return self._update_critics(
                state.generator.params, *carry, batch, other, key_of_update, count
            )

        if updates:
            (critics, live), values = jax.lax.scan(update, (critics, live), jnp.arange(updates))
            metrics |= {name: value.mean() for name, value in values.items()}
            finite = metrics.pop("finite") == 1.0
            metrics["critic_lr"] = jnp.float32(self.rates["critics' learning rate"](state.step))
        given = {name: player.params for name, player in critics.items()}
        given |= {} if state.teacher is None else {"teacher": state.teacher}
        live, grads, values = self._generator_gradient(
            state, given, live, batch, jax.random.fold_in(key, updates)
        )
        generator, norms = updated(state.generator, grads, own)
        rate = self.rates["generator's learning rate"](state.step)
        values |= norms | {"lr": jnp.float32(rate)}
        metrics |= {f"generator_{name}": value for name, value in values.items()}
        decay = ema_decay_at(self.config.ema_decay, state.step, self.settings.ema_start)
        ema = average(state.ema, generator.params, decay)
        of_generator = is_finite(values, "loss", "grad_norm")
        generator, ema = keep_unless(of_generator, (generator, ema), (state.generator, state.ema))
        metrics["skipped"] = 1.0 - (finite & of_generator).astype(jnp.float32)
        new = dataclasses.replace(
            state,
            step=state.step + 1,
            generator=generator,
            critics=critics,
            ema=ema,
            live=live,
        )
        return new, metrics

    def _update_critics(self, generator, critics, live, batch, optimizer, key, count):
        """Both critics on the next windows of the generator as it is."""
        rolled, windows = self._windows(generator, live, batch, key)
        live = None if live is None else rolled
        new, metrics, warmup = {}, {"finite": jnp.ones(())}, self.settings.warmup_updates
        losses = {
            "discriminator": self.judge.discriminator_loss,
            "fake_score": self.judge.fake_score_loss,
        }
        for name, player in critics.items():
            values, grads = accumulate(
                losses[name], player.params, windows, purpose_key(key, name), self.micro_batches
            )
            only: dict[str, Any] = {}
            if name == "discriminator" and warmup:
                only = {"only": "heads", "alone": count < warmup, "anew": count == warmup}
            after, norms = updated(player, grads, optimizer, **only)
            finite = is_finite(values | norms, "loss", "grad_norm")
            new[name] = keep_unless(finite, after, player)
            metrics["finite"] *= finite.astype(jnp.float32)
            metrics |= {f"{name}_{n}": value for n, value in (values | norms).items()}
        return (new, live), metrics

    def _generator_gradient(self, state, critics, live, batch, key):
        """The gradient of the generator's loss, and scalars of it."""
        params, settings = state.generator.params, self.settings
        accum = self.micro_batches
        metrics: Metrics = {"loss": jnp.zeros(())}
        total = jax.tree.map(jnp.zeros_like, params)
        if settings.w_bf:
            values, grads = accumulate(
                self.objective.loss, params, batch, purpose_key(key, "block forcing"), accum
            )
            metrics |= {"bf_loss" if n == "loss" else n: value for n, value in values.items()}
            metrics["loss"] = settings.w_bf * metrics["bf_loss"]
            total = jax.tree.map(lambda g: settings.w_bf * g, grads)
        if self._rolls:
            rolled, windows = self._windows(params, live, batch, key)
            live = None if live is None else rolled
            cotangents, values = self._video_gradients(critics, windows, key, accum)
            grads = self._pull_back(params, rolled, windows, cotangents)
            # Heads that are not warm yet have nothing to say.
            warm = (state.step + 1) * self.critic_updates > settings.warmup_updates
            weight = settings.w_sf * jnp.where(warm, 1.0, 0.0)
            total = jax.tree.map(lambda t, g: t + weight * g, total, grads)
            metrics |= values
            metrics["loss"] += weight * metrics["sf_loss"]
        return live, total, metrics

    def _video_gradients(self, critics, windows, key, accum):
        """Cotangents of windows and anchors, micro batch by micro batch."""

        def one(inputs):
            micro, numbers = inputs
            micro_key = ExampleKeys(purpose_key(key, "judge"), numbers)
            window, anchor, metrics = self.judge.video_gradient(critics, micro, micro_key)
            return (window / accum, anchor / accum), metrics

        inputs = windows, example_numbers(windows)
        if accum == 1:
            return one(inputs)
        cotangents, metrics = jax.lax.map(one, split(inputs, accum))
        joined = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), cotangents)
        return joined, jax.tree.map(jnp.mean, metrics)

    # ---- rollouts ------------------------------------------------------------------------------
    def _stories(self, batch: Batch) -> Story:
        clip = make_clip(batch, self.rollout.grid)
        missing = self.objective.model.text.max_length - clip.text.shape[2]
        text = jnp.pad(clip.text, ((0, 0), (0, 0), (0, missing), (0, 0)))  # as generation has it
        return Story(text, clip.embedding, clip.anchor[:, 0], clip.chunks)

    def _windows(self, params, live, batch, key) -> tuple[Live, Window]:
        """The next window of each rollout."""
        stories, rollout = self._stories(batch), self.rollout
        seeds = jnp.arange(len(stories.text))
        exit_key = purpose_key(key, "exit step")
        exit_step = jax.random.randint(exit_key, (), 0, rollout.last_step + 1)
        base = jax.random.key_data(purpose_key(key, "rollouts"))

        def one(constants, live, story, seed):
            params, base, exit_step = constants
            own_key = jax.random.fold_in(jax.random.wrap_key_data(base), seed)
            live, window = rollout.next_window(params, live, story, own_key, exit_step)
            return rollout.ended_unless_finite(live, window), window

        constants = jax.lax.stop_gradient(params), base, exit_step
        return self._next_windows(one, constants, live, (stories, seeds))

    def _next_windows(self, one: Callable, constants: Any, live: Live | None, videos: Any) -> Any:
        """`one` of the constants and of each video after the other, on a mesh in each replica those it has."""

        def local(constants, live, videos):
            if live is None:
                return jax.lax.map(lambda video: one(constants, None, *video), videos)

            def body(all_live, inputs):
                row, video = inputs
                mine = jax.tree.map(lambda x: x[row], all_live)
                mine, window = one(constants, mine, *video)
                # In place: there is a second bank of one video at a time, and not of all.
                return jax.tree.map(lambda x, new: x.at[row].set(new), all_live, mine), window

            return jax.lax.scan(body, live, (jnp.arange(len(jax.tree.leaves(videos)[0])), videos))

        specs = (P(), P("data"), P("data"))
        return self.layout.each_replica(local, specs, P("data"))(constants, live, videos)

    def _pull_back(self, params, live, windows, cotangents):
        """The gradient of all windows: the sum over videos."""
        rollout = self.rollout

        def local(params, videos):
            def one(total, video):
                live, window, (cotangent, of_anchor) = video
                grads = rollout.pull_back(params, live.bank, window, cotangent, of_anchor)
                return jax.tree.map(jnp.add, total, grads), None

            zeros = rollout.layout.constrain_parameters(jax.tree.map(jnp.zeros_like, params))
            return jax.lax.scan(one, zeros, videos)[0]

        videos = (live, windows, cotangents)
        if self.layout.mesh is None:
            return local(params, videos)
        summed = lambda *inputs: jax.lax.psum(local(*inputs), "data")
        return self.layout.each_replica(summed, (P(), P("data")), P())(params, videos)

    # ---- results -------------------------------------------------------------------------------
    def sample(self, state: SelfForcingState, folder: Path, step: int) -> dict[str, float]:
        """Samples of the average and, in the folder `raw`, of the generator as it is."""
        scalars = self.objective.sample(state.ema, folder, step)
        raw = self.objective.sample(state.generator.params, folder / "raw", step)
        return scalars | {f"raw_{name}": value for name, value in raw.items()}

    def export(self, state: SelfForcingState, folder: Path, meta: dict[str, Any]) -> None:
        """Writes the moving average, and under `raw` the generator as it is."""
        average, raw = exchange.whole((state.ema, state.generator.params))
        if jax.process_index() == 0:
            self.objective.export(average, folder, meta)
            self.objective.export(raw, folder / "raw", meta)
