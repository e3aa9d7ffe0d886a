"""The model that a benchmark runs: a weights folder, or a preset with random weights of its shapes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bvjax import weights
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.generate.checks import check_model
from bvjax.overrides import apply_overrides
from bvjax.presets import get_preset

_POOL = 2**22 + 15  # numbers drawn; odd, so that no two kernels begin at the same one


def sized(preset: str, overrides: Iterable[str] = ()) -> ModelConfig:
    """A preset with overrides, of one key the last; raises `UserError` where they do not fit each other."""
    by_key = {assignment.partition("=")[0]: assignment for assignment in overrides}
    model = apply_overrides(get_preset(preset), by_key.values())
    check_model(model)
    return model


def load(
    folder: str | None, preset: str | None, overrides: Iterable[str], parts: Iterable[str]
) -> tuple[ModelConfig, dict[str, Any]]:
    """The model and its parameters on the default device.

    Args:
        folder: of weights, which must have all `parts`; exactly one of it and `preset` is given.
        preset: whose names and shapes random weights get.

    Raises:
        UserError: both or neither are given, or what they name is not there.
    """
    if (folder is None) == (preset is None):
        raise UserError("give one of --weights and --preset")
    if preset is not None:
        model = sized(preset, overrides)
        return model, {part: random_params(model, part) for part in parts}
    model = apply_overrides(weights.load_config(Path(folder)), overrides)
    check_model(model)
    stored = {
        part: weights.load_weights(Path(folder), [part], dtype=stored_dtype(model, part))[1][part]
        for part in parts
    }
    return model, jax.device_put(stored)


def stored_dtype(model: ModelConfig, part: str) -> str | None:
    """Returns parameters like `bundle.LazyParams`: float32, but what computes in another dtype as it is stored."""
    return "float32" if getattr(model, part).dtype == "float32" else None


def random_params(model: ModelConfig, part: str) -> Any:
    """Random parameters of unit gain, in the dtype that the part computes in, on the device.

    Numbers are drawn once and repeated: 14 billion of them would take minutes, and how fast a
    matmul is does not depend on them.  The same for the same shapes, in every process.
    """
    shapes, dtype = weights.shapes(model, part), jnp.dtype(getattr(model, part).dtype)
    pool = np.random.default_rng(0).standard_normal(_POOL, np.float32)
    start = 0

    def draw(path, shape):
        nonlocal start
        name, stacked = path[-1].key, path[0].key == "blocks"
        size = shape.shape[1:] if stacked else shape.shape
        if name in ("bias", "scale", "gamma"):
            return jnp.full(shape.shape, float(name != "bias"), dtype)
        fan = size[-1] if name in ("modulation", "embedding") else int(np.prod(size[:-1])) or 1
        values = np.resize(np.roll(pool, -start)[: min(shape.size, _POOL)], shape.shape)
        start = (start + 7919) % _POOL
        return jnp.asarray((values * fan**-0.5).astype(dtype))

    return jax.tree_util.tree_map_with_path(draw, shapes)
