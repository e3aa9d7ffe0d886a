"""The state of `one_model.OneModelTask`: what its checkpoints hold besides the data iterator's position."""

from __future__ import annotations

from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, UInt32

from bvjax.train.task import Params


@flax.struct.dataclass
class TrainState:
    """Parameters, their moving average, the optimizer, and the two numbers that fix randomness.

    The key is never advanced: step t draws from fold_in(key, t), so that a run can be cut anywhere.
    """

    step: Int[Array, ""]  # updates done so far
    params: Params
    ema: Params
    opt_state: optax.OptState
    key: UInt32[Array, "words"]  # data of the base key


def init_state(
    init: Callable[[jax.Array], Params],
    optimizer: optax.GradientTransformation,
    seed: int,
    params: Params | None = None,
) -> TrainState:
    """State before the first step.  Traceable; `params` replaces what `init(key)` would draw."""
    init_key, base_key = jax.random.split(jax.random.key(seed))
    if params is None:
        params = init(init_key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
        key=jax.random.key_data(base_key),
    )


def step_key(key: UInt32[Array, "words"], step: Int[Array, ""]) -> jax.Array:
    """The key of the step that comes after `step` steps, of a state with the base key `key`."""
    return jax.random.fold_in(jax.random.wrap_key_data(key), step)
