"""A network among several that are trained together: its parameters, its optimizer, and an update of it."""

from __future__ import annotations

import flax
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from bvjax.train.step import apply_gradients
from bvjax.train.task import Metrics, Params


@flax.struct.dataclass
class Player:
    """A network and its optimizer."""

    params: Params
    opt_state: optax.OptState


def new_player(params: Params, optimizer: optax.GradientTransformation) -> Player:
    """A player before its first update."""
    return Player(params, optimizer.init(params))


def updated(
    player: Player,
    grads: Params,
    optimizer: optax.GradientTransformation,
    only: str | None = None,
    alone: Bool[Array, ""] | bool = False,
    anew: Bool[Array, ""] | bool = False,
) -> tuple[Player, Metrics]:
    """The player after an update, and its norms (`apply_gradients`).

    Args:
        grads: of its parameters.
        optimizer: of its own.
        only: a top-level module.
        alone: whether that module alone is trained: the others stay, in parameters and in gradients.
        anew: whether the optimizer begins anew with this update.
    """
    opt_state = player.opt_state
    if only is not None:
        still = {
            name: jax.tree.map(lambda x, name=name: (name != only) & jnp.asarray(alone), part)
            for name, part in grads.items()
        }
        grads = jax.tree.map(lambda g, s: jnp.where(s, 0.0, g), grads, still)
        begun = optimizer.init(player.params)
        opt_state = jax.tree.map(lambda new, old: jnp.where(anew, new, old), begun, opt_state)
    params, opt_state, norms = apply_gradients(optimizer, player.params, opt_state, grads)
    if only is not None:  # weight decay does not reach them either
        params = jax.tree.map(
            lambda new, old, s: jnp.where(s, old, new), params, player.params, still
        )
    return Player(params, opt_state), norms
