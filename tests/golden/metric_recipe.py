"""Weights of the metric networks that both frameworks can draw: numbers seeded by a tensor's name."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from tests.golden.recipe import uniform

PRELU = "prelu"  # marks nets whose one-dimensional weights are slopes, not scales


def params(
    net: str, shapes: Mapping[str, tuple[int, ...]], vectors: str = ""
) -> dict[str, np.ndarray]:
    """float32 values for the published names and shapes of a network, of about unit gain.

    Kernels have variance 1 / fan-in; scales and running variances lie around 1 (slopes of PReLU,
    with `vectors=PRELU`, around 0.25); biases, means and embeddings are small.
    """
    drawn = {}
    for name, shape in shapes.items():
        values = uniform(f"{net}/{name}", shape)
        if len(shape) == 1 and name.endswith(("weight", "running_var")):
            drawn[name] = np.float32((0.25 if vectors == PRELU else 1.0) + 0.05 * values)
        elif name.endswith("weight") and len(shape) > 1:
            drawn[name] = np.float32(values / math.sqrt(math.prod(shape[1:])))
        elif len(shape) == 2:  # CLIP's projection
            drawn[name] = np.float32(values / math.sqrt(shape[0]))
        else:
            drawn[name] = np.float32(0.1 * values)
    return drawn
