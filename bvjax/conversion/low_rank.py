"""The mathematics of LoRA and its relatives: from the tensors of a file to the change of a weight.

A weight W is [out, in] as PyTorch has it (a convolution's axes behind the first are one).  s is
alpha / rank (alpha / sqrt(rank) for a rank-stabilised LoRA), n the strength that the user gives.

    LoRA  W + n s (up down)                            Hu et al. 2021, arXiv 2106.09685
    LoHa  W + n s (w1_a w1_b) * (w2_a w2_b)            Hyeon-Woo et al. 2022, arXiv 2108.06098
    LoKr  W + n s (w1 (x) w2)                          Yeh et al. 2024, arXiv 2309.14859
    DoRA  W + n (m (W + s up down) / |W + s up down| - W)      Liu et al. 2024, arXiv 2402.09353

* is the elementwise product, (x) the Kronecker product, |.| the norm of each row or each column.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Matrix = Float[np.ndarray, "out in"]


def lora(down: Float[np.ndarray, "r in"], up: Float[np.ndarray, "out r"]) -> Matrix:
    """up down."""
    return up @ down


def loha(
    w1_a: Float[np.ndarray, "out r"],
    w1_b: Float[np.ndarray, "r in"],
    w2_a: Float[np.ndarray, "out q"],
    w2_b: Float[np.ndarray, "q in"],
) -> Matrix:
    """(w1_a w1_b) * (w2_a w2_b), element by element."""
    return (w1_a @ w1_b) * (w2_a @ w2_b)


def lokr(w1: Float[np.ndarray, "a b"], w2: Float[np.ndarray, "c d"]) -> Matrix:
    """w1 (x) w2, [a c, b d]: block (i, j) is w1[i, j] w2."""
    return np.kron(w1, w2)


def dora(weight: Matrix, change: Matrix, magnitude: np.ndarray) -> Matrix:
    """m V / |V| - W with V = W + change, where W is `weight`.

    Args:
        magnitude: m; [out] or [out, 1] when |V| is the norm of each row, as PEFT trains it, [1, in]
            when it is that of each column, as LyCORIS does by default.
    """
    moved = weight + change
    column = magnitude.ndim == 2 and magnitude.shape[0] == 1 and magnitude.shape != (len(weight), 1)
    norm = np.linalg.norm(moved, axis=0 if column else 1, keepdims=True)
    norm = np.maximum(norm, np.finfo(np.float32).tiny)  # a row of zeros stays one
    return magnitude.reshape(norm.shape) * (moved / norm) - weight
