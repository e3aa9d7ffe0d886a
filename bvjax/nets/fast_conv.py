"""Convolutions with 3-wide kernels in fewer multiplications: Winograd's minimal filtering.

Along an axis two neighbouring outputs of a 3-wide kernel need four multiplications instead of six (Lavin
and Gray, arXiv 1509.09308, section 4.1), so in three dimensions 8 outputs need 64 instead
of 216.  Each is one matmul over channels.  Two outputs of an input of which every
element stands there twice (nearest-neighbour doubling) need three.

The tiles go through in blocks that stay in the processor's cache; without that the transforms cost
what the fewer matmuls save.  For float32 only: the sums and differences of inputs cost about one bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

BLOCK = 256  # tiles a block: tall enough to multiply well, short enough for the cache
PICTURES = 6  # at a time, in the gradient of a flat kernel
ORDER = (1, 2, 0)  # time last, where what is added lies together in memory


class Axis(NamedTuple):
    """The tiles of one axis: each reads len(inputs[0]) elements and the next begins `stride` on.

    With inputs d and kernel g its outputs are  outputs @ ((inputs @ d) * (kernel @ g)).
    """

    stride: int
    inputs: Sequence[Sequence[float]]
    kernel: Sequence[Sequence[float]]
    outputs: Sequence[Sequence[float]]


PAIR = Axis(
    stride=2,
    inputs=[[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
    kernel=[[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]],
    outputs=[[1, 1, 1, 0], [0, 1, -1, -1]],
)
DOUBLED = Axis(  # the tile (a, b, c) stands for the four inputs a, b, b, c
    stride=1,
    inputs=[[1, -1, 0], [0, 1, 0], [0, 1, -1]],
    kernel=[[1, 0, 0], [1, 1, 1], [0, 0, 1]],
    outputs=[[1, 1, 0], [0, 1, -1]],
)
APART = Axis(stride=1, inputs=[[1]], kernel=[[1]], outputs=[[1]])  # no kernel along this axis


def conv_3x3x3(
    x: Float[Array, "b fin h w c"], kernel: Float[Array, "3 3 3 c o"]
) -> Float[Array, "b fout h w o"]:
    """Valid in time (fout = fin - 2), zero padded to the same size in space."""
    padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    return _convolve(padded, kernel, (PAIR, PAIR, PAIR), (x.shape[1] - 2, *x.shape[2:4]))


def conv_3x3x3_at_once(
    x: Float[Array, "b fin h w c"], kernel: Float[Array, "3 3 3 c o"]
) -> Float[Array, "b fout h w o"]:
    """`conv_3x3x3` with all tiles in one block: eight times the memory of `x`, and a fast gradient."""
    padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    size = (x.shape[1] - 2, x.shape[2], x.shape[3])
    return _convolve(padded, kernel, (PAIR, PAIR, PAIR), size, at_once=math.inf)


def doubled_conv_3x3(
    x: Float[Array, "b f h w c"], kernel: Float[Array, "3 3 c o"]
) -> Float[Array, "b f 2*h 2*w o"]:
    """Each frame doubled by nearest neighbour, then convolved with zero padding to the same size."""
    padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    _, frames, height, width, _ = x.shape
    return _convolve(
        padded, kernel[None], (APART, DOUBLED, DOUBLED), (frames, 2 * height, 2 * width)
    )


def conv_few_outputs(
    x: Float[Array, "b fin h w c"], kernel: Float[Array, "3 3 3 c o"]
) -> Float[Array, "b fout h w o"]:
    """Like `conv_3x3x3`, for o far below c: one matmul computes what every tap adds to an output."""
    _, fin, h, w, _ = x.shape
    taps = jnp.einsum(
        "bfhwc,tijco->tijobfhw", x, kernel
    )  # space last: o is too narrow to add along
    taps = jnp.pad(taps, ((0, 0),) * 6 + ((1, 1), (1, 1)))
    out = sum(
        taps[t, i, j, :, :, t : t + fin - 2, i : i + h, j : j + w]
        for t in range(3)
        for i in range(3)
        for j in range(3)
    )
    return jnp.moveaxis(out, 0, -1)


def flat_kernel_gradient(
    x: Float[Array, "n h w c"], g: Float[Array, "n h w o"]
) -> Float[Array, "3 3 c o"]:
    """Gradient of the kernel of a zero-padded 3 x 3 convolution of `x` whose output has gradient `g`.

    A row of three shifted copies is one matmul; a few pictures at a time stay in the cache.
    """
    count = max(n for n in range(1, PICTURES + 1) if len(x) % n == 0)
    _, h, w, c = x.shape

    def add(total, pictures):
        x, g = pictures
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = jnp.concatenate([x[:, :, j : j + w] for j in range(3)], axis=-1)
        g = g.reshape(-1, g.shape[-1])
        rows = [x[:, i : i + h].reshape(-1, 3 * c).T @ g for i in range(3)]
        return total + jnp.stack(rows), None

    zeros = jnp.zeros((3, 3 * c, g.shape[-1]), x.dtype)
    pieces = [a.reshape(-1, count, *a.shape[1:]) for a in (x, g)]
    return lax.scan(add, zeros, pieces)[0].reshape(3, 3, c, -1)


def _convolve(
    x: Float[Array, "b t h w c"],
    kernel: Float[Array, "kt kh kw c o"],
    axes: tuple[Axis, Axis, Axis],
    size: tuple[int, int, int],
    at_once: float = BLOCK,
) -> Float[Array, "b t2 h2 w2 o"]:
    """`x` is padded as the convolution of output `size` wants it; `at_once` tiles at a time."""
    tiles = [-(-n // len(a.outputs)) for n, a in zip(size, axes, strict=True)]
    block = tiles if at_once >= math.prod(tiles) else _block(tiles)
    counts = [-(-n // m) for n, m in zip(tiles, block, strict=True)]
    reach = [len(a.inputs[0]) - a.stride for a in axes]
    full = [n * m * a.stride + r for n, m, a, r in zip(counts, block, axes, reach, strict=True)]
    x = jnp.pad(x, ((0, 0), *((0, n - m) for n, m in zip(full, x.shape[1:4], strict=True)), (0, 0)))
    for i, axis in enumerate(axes):
        kernel = jnp.moveaxis(
            jnp.tensordot(jnp.array(axis.kernel, jnp.float32), kernel, (1, i)), 0, i
        )
    batch, features = x.shape[0], kernel.shape[-1]
    kernel = kernel.transpose(0, 2, 1, 3, 4).reshape(-1, *kernel.shape[-2:])
    inside = [m * a.stride + r for m, a, r in zip(block, axes, reach, strict=True)]
    outside = [m * len(a.outputs) for m, a in zip(block, axes, strict=True)]

    def step(i, out):
        at = jnp.unravel_index(i, counts)
        begin = (0, *(n * m * a.stride for n, m, a in zip(at, block, axes, strict=True)), 0)
        piece = lax.dynamic_slice(x, begin, (batch, *inside, x.shape[-1]))
        products = jnp.einsum("pnc,pco->pno", _spread(piece, axes, block), kernel)
        piece = _gather(products.reshape(-1, batch, *block, features), axes)
        begin = (0, *(n * m for n, m in zip(at, outside, strict=True)), 0)
        return lax.dynamic_update_slice(out, piece, begin)

    shape = [n * m for n, m in zip(counts, outside, strict=True)]
    if math.prod(counts) == 1:
        products = jnp.einsum("pnc,pco->pno", _spread(x, axes, block), kernel)
        out = _gather(products.reshape(-1, batch, *block, features), axes)
    else:
        out = jnp.zeros((batch, *shape, features), x.dtype)
        out = lax.fori_loop(0, math.prod(counts), step, out)
    return out[:, : size[0], : size[1], : size[2]]


def _block(tiles: Sequence[int]) -> list[int]:
    """Tiles of a block along each axis, evenly cut: the whole of the inner axes where it fits."""
    block, remaining = [1, 1, 1], BLOCK
    for i in (0, 2, 1):
        m = max(1, min(tiles[i], remaining))
        block[i] = -(-tiles[i] // -(-tiles[i] // m))
        remaining = max(1, remaining // block[i])
    return block


def _spread(
    piece: Float[Array, "b t h w c"], axes: Sequence[Axis], block: Sequence[int]
) -> Float[Array, "p n c"]:
    """Returns the factors of the kernels in each matmul, one row a tile."""
    for done, i in enumerate(ORDER):
        axis, at = axes[i], done + 1 + i  # behind the products of those done, and the batch
        last = (block[i] - 1) * axis.stride + 1
        reads = [
            lax.slice_in_dim(piece, r, r + last, axis.stride, at)
            for r in range(len(axis.inputs[0]))
        ]
        piece = jnp.stack([_combine(row, reads) for row in axis.inputs])
    return piece.reshape(-1, math.prod((piece.shape[3], *block)), piece.shape[-1])


def _gather(products: Float[Array, "p b t h w o"], axes: Sequence[Axis]) -> Float[Array, "..."]:
    """Outputs of a block, [b, t, h, w, o], from the products of its tiles."""
    out = products.reshape(*(len(axes[i].inputs) for i in reversed(ORDER)), *products.shape[1:])
    for i in ORDER:
        parts = [lax.index_in_dim(out, p, 2, keepdims=False) for p in range(out.shape[2])]
        out = jnp.stack([_combine(row, parts) for row in axes[i].outputs])
    out = out.transpose(3, 4, 0, 5, 2, 6, 1, 7)
    b, t, nt, h, nh, w, nw, o = out.shape
    return out.reshape(b, t * nt, h * nh, w * nw, o)


def _combine(row: Sequence[float], parts: Sequence[Array]) -> Array:
    """Sum of `parts` with factors 1, -1 and 0."""
    total = None
    for factor, part in zip(row, parts, strict=True):
        if factor == 1:
            total = part if total is None else total + part
        elif factor == -1:
            total = -part if total is None else total - part
    return total
