"""The baseline of `attention.py`: PyTorch's scaled-dot-product attention, eager, inference mode."""

from __future__ import annotations

import functools
import os

import torch

from experiments.benchmarks.interleave import seconds_per_call, serve


@functools.cache
def _inputs(n: int, s: int, heads: int, head_dim: int) -> list[torch.Tensor]:
    """[1, heads, rows, head_dim], in memory as a projection gives them: heads inside rows."""
    return [torch.randn(1, rows, heads, head_dim).transpose(1, 2) for rows in (n, s, s)]


def answer(request: dict) -> float | str:
    """Seconds of one call; `{"peak_flops": size}`: of a matmul of two such matrices."""
    if "version" in request:
        return f"torch {torch.__version__}"
    with torch.inference_mode():
        if "peak_flops" in request:
            x = torch.randn(request["peak_flops"], request["peak_flops"])
            return seconds_per_call(lambda: x @ x)
        qkv = _inputs(**request)
        return seconds_per_call(lambda: torch.nn.functional.scaled_dot_product_attention(*qkv))


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count())
    serve(answer)
