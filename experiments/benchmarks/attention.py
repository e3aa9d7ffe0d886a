"""Attention against PyTorch's scaled-dot-product attention, float32 on the CPU:

python -m experiments.benchmarks.attention

Each runs in a process of its own, interleaved, with all cores; PyTorch eager in inference mode
(`attention_torch.py`), in this Python if it has torch and otherwise in .venv-torch.  A turn calls the
same function for 0.3 s, after one turn that compiles and warms up; told are the median seconds of a
call and the median ratio of pairs of turns.  Beside them stands the rate at which each multiplies
two large matrices, the measured peak of this machine.  Not included: projections, RoPE.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import statistics
import sys

from absl import app, flags

from experiments.benchmarks import metrics
from experiments.benchmarks.interleave import (
    ROOT,
    Program,
    interleaved,
    median_ratio,
    seconds_per_call,
    serve,
)

_REPEAT = flags.DEFINE_integer("repeat", 7, "Turns of each.", lower_bound=1)
_ROWS = flags.DEFINE_list("rows", ["1000", "2000", "4000", "8000"], "Queries, and as many keys.")
_HEADS = flags.DEFINE_list("heads", ["12x128", "6x32"], "Heads x their width.")
_SERVE = flags.DEFINE_bool("serve", False, "Be the program that is measured.")
_PEAK_SIZE = 2048


def answer(request: dict) -> float | str:
    """Answers as `attention_torch.answer`."""
    import jax
    import jax.numpy as jnp

    if "version" in request:
        return f"jax {jax.__version__}"
    if "peak_flops" in request:
        x = jax.random.normal(jax.random.key(0), (request["peak_flops"],) * 2)
        matmul = jax.jit(jnp.matmul)
        return seconds_per_call(lambda: matmul(x, x).block_until_ready())
    attend, qkv = _program(**request)
    return seconds_per_call(lambda: attend(*qkv).block_until_ready())


@functools.cache
def _program(n: int, s: int, heads: int, head_dim: int):
    import jax

    from kernels_pallas.attention import attention

    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(1, rows, heads, head_dim) for rows in (n, s, s)]
    qkv = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
    return jax.jit(attention).lower(*qkv).compile(), qkv


def main(argv) -> None:
    if _SERVE.value:
        return serve(answer)
    python = sys.executable
    if importlib.util.find_spec("torch") is None:
        python = ROOT / ".venv-torch/bin/python"
    ours = Program(sys.executable, "experiments.benchmarks.attention", "--serve")
    theirs = Program(python, "experiments.benchmarks.attention_torch")
    print("| heads | rows | PyTorch | bvjax | speed-up | PyTorch, GF/s | bvjax, GF/s |")
    print("|---|---|---|---|---|---|---|")
    for heads in _HEADS.value:
        count, width = map(int, heads.split("x"))
        for rows in map(int, _ROWS.value):
            request = dict(n=rows, s=rows, heads=count, head_dim=width)
            samples = interleaved((ours, theirs), _REPEAT.value, **request)
            jax_s, torch_s = map(statistics.median, samples)
            rates = [f"{4 * rows * rows * count * width / s / 1e9:.0f}" for s in (torch_s, jax_s)]
            ratio = median_ratio(*samples)
            name = f"attention {heads}, {rows} rows: times as fast as PyTorch"
            metrics.note(name, ratio, "x", 0.9)
            print(
                f"| {heads} | {rows} | {1e3 * torch_s:.1f} ms | {1e3 * jax_s:.1f} ms "
                f"| {ratio:.2f} | {rates[0]} | {rates[1]} |",
                flush=True,
            )
    best = [
        2 * _PEAK_SIZE**3 / min(t) / 1e9
        for t in interleaved((ours, theirs), 7, peak_flops=_PEAK_SIZE)
    ]
    versions = ", ".join(str(program.ask(version=True)) for program in (ours, theirs))
    print(
        f"\nOne {_PEAK_SIZE}x{_PEAK_SIZE} float32 matmul, best of seven rounds: PyTorch {best[1]:.0f} GF/s, "
        f"JAX {best[0]:.0f} GF/s. {versions}, {os.cpu_count()} cores."
    )
    for program in (ours, theirs):
        program.close()


if __name__ == "__main__":
    app.run(main)
