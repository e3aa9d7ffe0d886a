"""One update of the parameters, jitted once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from bvjax.train.state import Params, TrainState, step_key

Batch = dict[str, Array]
Metrics = dict[str, Float[Array, ""]]
LossFn = Callable[[Params, Batch, jax.Array], tuple[Float[Array, ""], Metrics]]


def ema_decay_at(decay: float, step: Array) -> Array:
    """min(decay, (1 + t) / (10 + t)): the average forgets its random start quickly."""
    t = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1.0 + t) / (10.0 + t))


def accumulate(
    loss_fn: LossFn, params: Params, batch: Batch, key: jax.Array, accum: int
) -> tuple[Metrics, Params]:
    """Mean metrics (with "loss") and mean gradients over `accum` micro batches of the batch.

    Micro batch i takes the examples i, i + accum, ...: under a batch split over devices no example
    moves.  It draws from fold_in(key, i).
    """

    def one(micro: Batch, index: Array) -> tuple[Metrics, Params]:
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, metrics), grads = grad_fn(params, micro, jax.random.fold_in(key, index))
        metrics = jax.tree.map(lambda m: jnp.asarray(m, jnp.float32), dict(metrics, loss=loss))
        return metrics, grads

    if accum == 1:
        return one(batch, jnp.zeros((), jnp.int32))

    micros = jax.tree.map(lambda x: x.reshape(-1, accum, *x.shape[1:]).swapaxes(0, 1), batch)
    shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], micros), jnp.zeros((), jnp.int32))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def body(total, xs):
        return jax.tree.map(jnp.add, total, one(*xs)), None

    total, _ = jax.lax.scan(body, zeros, (micros, jnp.arange(accum)))
    return jax.tree.map(lambda x: x / accum, total)


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    accum: int = 1,
    ema_decay: float = 0.999,
    donate: bool = True,
    state_sharding: Any = None,
    batch_sharding: Any = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The jitted update (state, batch) -> (state, metrics).

    Metrics are float32 scalars: those of the loss, `loss`, `lr`, and the global norms `grad_norm`
    (before clipping), `update_norm` and `param_norm` (after the update).

    Args:
        loss_fn: (params, batch, key) -> (mean loss over the batch, dict of scalars).
        accum: micro batches an update; must divide the batch.
        donate: reuse the buffers of the state handed in.
        state_sharding, batch_sharding: shardings (or pytrees of them) for jit; None leaves it to
            where the arguments are.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        metrics, grads = accumulate(loss_fn, state.params, batch, step_key(state), accum)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay_at(ema_decay, state.step)
        ema = jax.tree.map(lambda e, p: decay * e + (1.0 - decay) * p, state.ema, params)
        metrics |= {
            "lr": jnp.asarray(schedule(state.step), jnp.float32),
            "grad_norm": optax.global_norm(grads),
            "update_norm": optax.global_norm(updates),
            "param_norm": optax.global_norm(params),
        }
        new = state.replace(step=state.step + 1, params=params, ema=ema, opt_state=opt_state)
        return new, metrics

    shardings = {}
    if state_sharding is not None:
        shardings = {
            "in_shardings": (state_sharding, batch_sharding),
            "out_shardings": (state_sharding, None),
        }
    return jax.jit(train_step, donate_argnums=(0,) if donate else (), **shardings)
