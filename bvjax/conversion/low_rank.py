"""The mathematics of LoRA and its relatives: from the tensors of a file to the change of a weight.

A weight W is [out, in] as PyTorch has it (a convolution's axes behind the first are one).  s is
alpha / rank (alpha / sqrt(rank) for a rank-stabilised LoRA), n the strength that the user gives.

    LoRA  W + n s (up down)                            Hu et al. 2021, arXiv 2106.09685
    LoHa  W + n s (w1_a w1_b) * (w2_a w2_b)            Hyeon-Woo et al. 2022, arXiv 2108.06098
    LoKr  W + n s (w1 (x) w2)                          Yeh et al. 2024, arXiv 2309.14859
    DoRA  W + n (m (W + s up down) / |W + s up down| - W)      Liu et al. 2024, arXiv 2402.09353

* is the elementwise product, (x) the Kronecker product, |.| the norm of each row or each column.

Arrays are NumPy's, as conversion reads them, or JAX's, as generation merges them between chunks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float

Array = Any  # NumPy's or JAX's
Matrix = Float[Array, "out in"]

# The factors of each kind, by their role in a file (`lora_names.ROLES`).
FAMILIES = {
    "LoRA": ("down", "up"),
    "LoHa": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    "LoKr": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
}
TINY = 2.0**-126  # the smallest normal number of float32
FACTORS = frozenset(role for roles in FAMILIES.values() for role in roles)


def change(
    tensors: Mapping[str, Array],
    scale: float | Float[Array, ""],
    weight: Float[Array, "*external"],
) -> Float[Array, "*external"]:
    """The change of a weight at strength 1: n is the caller's.

    Args:
        tensors: of one module by their role; float32.
        scale: s.
        weight: W with PyTorch's axes; a DoRA depends on it.
    """
    total: Array = 0.0
    if not FACTORS.isdisjoint(tensors):
        moved = product(tensors) * scale
        if "magnitude" in tensors:
            moved = dora(weight.reshape(moved.shape), moved, tensors["magnitude"])
        total = total + moved.reshape(weight.shape)
    if "up_bias" in tensors:
        total = total + tensors["up_bias"] * scale
    if "diff" in tensors:
        total = total + tensors["diff"].reshape(weight.shape)
    return total


def product(tensors: Mapping[str, Array]) -> Matrix:
    """The product of the factors, whichever kind they are of; a convolution's have their axes behind the first merged."""
    factors = {
        role: array.reshape(array.shape[0], math.prod(array.shape[1:]))
        for role, array in tensors.items()
        if role in FACTORS
    }
    if "down" in factors:
        return lora(factors["down"], factors["up"])
    if "hada_w1_a" in factors:
        return loha(*(factors[role] for role in FAMILIES["LoHa"]))
    sides = [
        factors[side] if side in factors else factors[f"{side}_a"] @ factors[f"{side}_b"]
        for side in ("lokr_w1", "lokr_w2")
    ]
    return lokr(*sides)


def lora(down: Float[Array, "r in"], up: Float[Array, "out r"]) -> Matrix:
    """up down."""
    return up @ down


def loha(
    w1_a: Float[Array, "out r"],
    w1_b: Float[Array, "r in"],
    w2_a: Float[Array, "out q"],
    w2_b: Float[Array, "q in"],
) -> Matrix:
    """(w1_a w1_b) * (w2_a w2_b), element by element."""
    return (w1_a @ w1_b) * (w2_a @ w2_b)


def lokr(w1: Float[Array, "a b"], w2: Float[Array, "c d"]) -> Matrix:
    """w1 (x) w2, [a c, b d]: block (i, j) is w1[i, j] w2."""
    blocks = w1[:, None, :, None] * w2[None, :, None, :]
    return blocks.reshape(w1.shape[0] * w2.shape[0], w1.shape[1] * w2.shape[1])


def dora(weight: Matrix, change: Matrix, magnitude: Array) -> Matrix:
    """m V / |V| - W with V = W + change, where W is `weight`.

    Args:
        magnitude: m; [out] or [out, 1] when |V| is the norm of each row, as PEFT trains it, [1, in]
            when it is that of each column, as LyCORIS does by default.
    """
    moved = weight + change
    column = magnitude.ndim == 2 and magnitude.shape[0] == 1 and magnitude.shape != (len(weight), 1)
    xp = moved.__array_namespace__()
    norm = xp.sqrt(xp.sum(moved * moved, axis=0 if column else 1, keepdims=True))
    # A row of zeros stays one.
    norm = xp.maximum(norm, xp.asarray(TINY, dtype=norm.dtype))
    return magnitude.reshape(norm.shape) * (moved / norm) - weight
