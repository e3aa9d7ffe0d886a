"""What this machine could do at most: its measured rate of one large product, and published peaks."""

from __future__ import annotations

import time
from collections.abc import Callable

# Dense 16-bit products, FLOP/s: data sheets of NVIDIA's H100 and H200 SXM and A100, and Google
# Cloud's pages on TPU v5e, v5p and v6e.  By a part of JAX's `device_kind`.
PEAKS = {
    "H100": 989e12, "H200": 989e12, "H800": 989e12, "A100": 312e12,
    "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v6 lite": 918e12, "TPU v6e": 918e12,
    "TPU v5": 459e12,
}  # fmt: skip
BATCH = 10  # products in a row, so that starting one is hidden behind the one before


def published_peak(device_kind: str) -> float | None:
    """Of one device; None where no data sheet is known here, as for CPUs."""
    return next((peak for name, peak in PEAKS.items() if name in device_kind), None)


def measured(dtype: str, size: int | None = None) -> float:
    """FLOP/s of a square product in `dtype` by XLA on the default device, best of five."""
    import jax
    import jax.numpy as jnp

    size = size or default_size(jax.devices()[0].platform)
    x = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product = jax.jit(jnp.matmul)

    def run():
        made = [product(x, x) for _ in range(BATCH)]
        jax.block_until_ready(made)

    return BATCH * 2 * size**3 / fastest(run)


def default_size(platform: str) -> int:
    """Rows of the matrices: enough to be limited by arithmetic."""
    return 2048 if platform == "cpu" else 8192


def fastest(run: Callable[[], object], repeat: int = 5) -> float:
    """Seconds of the fastest of `repeat` calls, after one that compiles."""
    run()
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
