"""Parameters that are random everywhere."""

from __future__ import annotations

from typing import Any

import jax

from bvjax.config import ModelConfig
from bvjax.nets import dit


def random_like(shapes: Any, seed: int) -> Any:
    """Random in every leaf, zero starts included: a head of zeros hides every leak, and has no gradient behind it."""
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    draws = [0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, draws)


def random_dit(model: ModelConfig, seed: int = 1) -> Any:
    """Parameters of a model's DiT."""
    init = lambda key: dit.init_params(model.dit, model.text.dim, key)
    return random_like(jax.eval_shape(init, jax.random.key(0)), seed)
