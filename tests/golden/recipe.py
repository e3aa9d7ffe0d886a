"""Weights and inputs that both frameworks can draw without a file: numbers seeded by a name.

They are made of the raw 64-bit words of a Philox generator, which are the same in every version of
NumPy (its `normal` need not be), and are uniform.
"""

from __future__ import annotations

import hashlib
import math

import flax.traverse_util
import numpy as np
from jaxtyping import Float

from bvjax import weights
from bvjax.config import ModelConfig

CENTRES = {"scale": 1.0, "gamma": 1.0}  # of leaves that multiply


def uniform(name: str, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """float32 numbers of mean 0 and variance 1, uniform on +-sqrt(3), that depend on `name`."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    words = np.random.Philox(key=key).random_raw(math.prod(shape))
    unit = (words >> np.uint64(11)) * 2.0**-53  # [0, 1)
    return np.float32(math.sqrt(12.0) * (unit - 0.5)).reshape(shape)


def leaf(name: str, shape: tuple[int, ...], fan_in: int, centre: float) -> np.ndarray:
    """A parameter of about unit gain: `centre` and numbers of variance 1 / fan_in around it."""
    return np.float32(centre + uniform(name, shape) / math.sqrt(fan_in))


def params(model: ModelConfig, part: str, seed: str = "") -> dict:
    """Random parameters of a part, also of what initialisation leaves at zero or one.

    Leaves are drawn layer by layer under their names on disk.
    """
    flat = weights.flatten(weights.shapes(model, part))
    drawn: dict[str, list[np.ndarray]] = {}
    for name, (stored, layer) in weights.disk_names(flat).items():
        shape = tuple(flat[stored].shape[0 if layer is None else 1 :])
        last = name.rpartition("/")[2]
        fan_in = math.prod(shape[:-1]) if len(shape) > 1 else 16
        if last in ("embedding", "modulation"):  # rows are looked up, not summed
            fan_in = 16 if last == "modulation" else 1
        values = leaf(f"{seed}/{part}/{name}", shape, fan_in, CENTRES.get(last, 0.0))
        drawn.setdefault(stored, []).append(values)
    return flax.traverse_util.unflatten_dict(
        {
            stored: np.stack(layers) if stored.startswith(weights.STACKED) else layers[0]
            for stored, layers in drawn.items()
        },
        sep="/",
    )
