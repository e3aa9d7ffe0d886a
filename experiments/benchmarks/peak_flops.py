"""The measured peak of this machine: its rate of one large matmul."""

from __future__ import annotations

import time
from collections.abc import Callable

BATCH = 10  # matmuls in a row, so that starting one is hidden behind the one before


def measured(dtype: str, size: int | None = None) -> float:
    """FLOP/s of a square matmul in `dtype` by XLA on the default device, best of five."""
    import jax
    import jax.numpy as jnp

    size = size or default_size(jax.devices()[0].platform, dtype)
    x = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    matmul = jax.jit(jnp.matmul)

    def run():
        outputs = [matmul(x, x) for _ in range(BATCH)]
        jax.block_until_ready(outputs)

    return BATCH * 2 * size**3 / fastest(run)


def default_size(platform: str, dtype: str) -> int:
    """Rows of the matrices: enough to be limited by arithmetic, and not by patience."""
    if platform == "cpu":
        return 2048 if dtype == "float32" else 512
    return 8192


def fastest(run: Callable[[], object], repeat: int = 5) -> float:
    """Seconds of the fastest of `repeat` calls, after one that compiles."""
    run()
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
