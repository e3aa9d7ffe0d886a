"""Parts of the update of a network, and the step of a task as one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from bvjax.random import ExampleKeys
from bvjax.train.mesh import batch_sharding
from bvjax.train.task import Batch, Metrics, Params, State, Task

B = TypeVar("B")
LossFn = Callable[[Params, Batch, ExampleKeys], tuple[Float[Array, ""], Metrics]]


def compile_step(task: Task, state: State) -> jax.stages.Wrapped:
    """`task.train_step`, jitted; it reuses the buffers of the state handed in.

    Args:
        state: the state, or its shapes: what lies where is asked of `task`.
    """
    where = task.shardings(state)
    return jax.jit(
        task.train_step,
        donate_argnums=(0,),
        in_shardings=(where, batch_sharding(task.layout)),
        out_shardings=(where, None),
    )


def accumulate(
    loss_fn: LossFn,
    params: Params,
    batch: Batch,
    key: jax.Array,
    accum: int,
    locate: bool = False,
) -> tuple[Metrics, Params]:
    """Mean metrics (with "loss") and mean gradients over `accum` micro batches of the batch.

    Micro batch i takes the examples i, i + accum, ..., see `split`.  An example draws from a key of its own, that of
    its row in the batch, whatever micro batch it is in: how many there are changes nothing where a loss is a mean over
    examples.  With `locate` there is a metric `bad_part`: the first micro batch whose loss is not finite, or -1.
    """

    def one(micro: Batch, numbers: Array) -> tuple[Metrics, Params]:
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, metrics), grads = grad_fn(params, micro, ExampleKeys(key, numbers))
        metrics = jax.tree.map(lambda m: jnp.asarray(m, jnp.float32), dict(metrics, loss=loss))
        return metrics, grads

    def located(metrics: Metrics, losses: Array) -> Metrics:
        bad = ~jnp.isfinite(losses)
        part = jnp.where(bad.any(), jnp.argmax(bad), -1).astype(jnp.float32)
        return {**metrics, "bad_part": part} if locate else metrics

    numbers = example_numbers(batch)
    if accum == 1:
        metrics, grads = one(batch, numbers)
        return located(metrics, metrics["loss"][None]), grads

    micros = split((batch, numbers), accum)
    shapes = jax.eval_shape(one, *jax.tree.map(lambda x: x[0], micros))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def body(total, xs):
        metrics, grads = one(*xs)
        return jax.tree.map(jnp.add, total, (metrics, grads)), metrics["loss"]

    total, losses = jax.lax.scan(body, zeros, micros)
    metrics, grads = jax.tree.map(lambda x: x / accum, total)
    return located(metrics, losses), grads


def example_numbers(batch: Batch) -> Int[Array, "b"]:
    """The number of each example of the batch of an update: its row."""
    return jnp.arange(len(jax.tree.leaves(batch)[0]), dtype=jnp.int32)


def split(batch: B, parts: int) -> B:
    """A batch as [parts, batch / parts, ...]: part i has the examples i, i + parts, ....

    Under a batch that is sharded over devices no example moves.
    """
    return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)


def apply_gradients(
    optimizer: optax.GradientTransformation,
    params: Params,
    opt_state: optax.OptState,
    grads: Params,
) -> tuple[Params, optax.OptState, Metrics]:
    """The parameters and the optimizer's state after an update, and its norms.

    `grad_norm` is that before clipping, `param_norm` that after the update.
    """
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    norms = {
        "grad_norm": optax.global_norm(grads),
        "update_norm": optax.global_norm(updates),
        "param_norm": optax.global_norm(params),
    }
    return params, opt_state, norms


def is_finite(metrics: Metrics, *names: str) -> Array:
    """Whether metrics of these names are finite: a bool scalar."""
    return jnp.stack([jnp.isfinite(metrics[name]) for name in names]).all()


def keep_unless(finite: Array, new: Any, old: Any) -> Any:
    """The pytree `new` where an update is finite, else `old`: a clip with NaN changes nothing.

    `finite` must not depend on `new` (the loss and the norm of the gradients do not), or both would be in memory.
    """
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)


def ema_decay_at(decay: float, updates: Array, start: int = 0) -> Array:
    """The decay of a moving average at the update that comes after `updates` updates.

    0 before update `start`, then min(decay, (1 + t) / (10 + t)), t counted from there: the average forgets its
    random start quickly.
    """
    t = jnp.asarray(updates, jnp.float32) - start
    return jnp.where(t < 0, 0.0, jnp.minimum(decay, (1.0 + t) / (10.0 + t)))


def average(ema: Params, params: Params, decay: Float[Array, ""]) -> Params:
    """The moving average after an update."""
    return jax.tree.map(lambda e, p: decay * e + (1.0 - decay) * p, ema, params)
