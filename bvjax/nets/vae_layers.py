"""Layers of the Wan2.1 causal 3-D VAE: each maps (piece of video, cache) to (output, new cache).

A video passes through a layer in consecutive pieces. `first` is a static bool: the piece starts
the video, so there is no past and `cache` is not read (it may be None). A layer without memory
has the cache None. Because every layer is exact for pieces of any length, the whole video as one
first piece and the same video cut anywhere give the same result.

Layout is channels-last, [batch, frame, height, width, channel].
Semantics follow the public Wan2.1 code (wan/modules/vae.py, Apache-2.0).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from bvjax.nets import fast_conv
from bvjax.sharding import AXES, ONE_DEVICE, Layout
from kernels_pallas.platforms import PLATFORMS, resolve

Cache = Any  # nested tuples of arrays and None

CONV_IMPLS = ("auto", "taps", "3d", "winograd")
BY_PLATFORM = {"cpu": "winograd", "gpu": "3d", "tpu": "3d", "taps": "taps"}


@runtime_checkable
class StreamLayer(Protocol):
    """Anything that takes (piece, cache, first) and gives (output, new cache)."""

    def __call__(self, x: Array, cache: Cache, first: bool) -> tuple[Array, Cache]: ...


def run_layers(
    layers: Sequence[StreamLayer],
    x: Array,
    caches: Cache,
    first: bool,
    place: Callable[[Array], Array] = lambda x: x,
) -> tuple[Array, Cache]:
    """Runs `layers` in order, each with its own cache; returns the output and the new caches.

    `place` tells the compiler how what is between two layers lies on the devices.
    """
    if first:
        caches = (None,) * len(layers)
    new_caches = []
    x = place(x)
    for layer, cache in zip(layers, caches, strict=True):
        x, cache = layer(x, cache, first)
        x = place(x)
        new_caches.append(cache)
    return x, tuple(new_caches)


def spatial_axes(
    layout: Layout, height: int, width: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Mesh axes that cut the height and those that cut the width of `height` x `width` latents.

    Each axis cuts one of the two, so that as many devices as possible have an equal part.  The
    height is cut where both would do.
    """
    best, cut = 0, ((), ())
    for sides in itertools.product("hw-", repeat=len(AXES)):
        pair = [tuple(a for a, s in zip(AXES, sides, strict=True) if s == side) for side in "hw"]
        rows, columns = (layout.size(*axes) for axes in pair)
        if height % rows == 0 and width % columns == 0 and rows * columns > best:
            best, cut = rows * columns, tuple(pair)
    return cut


def spatial_cut(layout: Layout, height: int, width: int) -> Callable[[Array], Array]:
    """Returns the mesh axes of a video's arrays [batch, frame, height, width, channel] on `layout`.

    Cut as `spatial_axes` says for latents of this size, and then for every multiple of it.
    Convolutions exchange the rows at the cuts.
    """
    if layout.mesh is None:
        return lambda x: x
    cut = spatial_axes(layout, height, width)
    return lambda x: layout.constrain(x, None, None, *cut)


def conv_2d(
    x: Float[Array, "n h w c"], kernel: Float[Array, "kh kw c o"], *, stride: int, padding: Any
) -> Float[Array, "n h2 w2 o"]:
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _fold(x: Float[Array, "b f h w c"]) -> Float[Array, "bf h w c"]:
    return x.reshape(-1, *x.shape[2:])


def conv_3d(
    x: Float[Array, "b fin h w c"],
    kernel: Float[Array, "kt kh kw c o"],
    *,
    stride_t: int = 1,
    impl: str = "auto",
) -> Float[Array, "b fout h w o"]:
    """3-D convolution: valid in time (with a stride), zero padded to the same size in space.

    impl:
        `taps` stacks the temporal taps as channels of one 2-D convolution with time folded into the
        batch, which XLA:CPU runs several times faster than one 3-D convolution (and, forward and
        backward, a third faster than a sum of one 2-D convolution per tap);
        `winograd` goes by `fast_conv` where that pays (`_is_wide`, few outputs) and by taps
        elsewhere, with gradients likewise;
        `3d` is the 3-D convolution;
        `auto` takes winograd on CPU and 3d elsewhere, and so does the name of a platform.

    Raises ValueError for another `impl`.
    """
    if impl not in (*CONV_IMPLS, *PLATFORMS):
        raise ValueError(f"vae.conv_impl is {impl!r}, legal: {', '.join(CONV_IMPLS)}")
    kt, kh, kw = kernel.shape[:3]
    if kh == kw == 1:
        taps = [_strided(x, t, kt, stride_t) @ kernel[t, 0, 0] for t in range(kt)]
        return sum(taps[1:], taps[0])
    form = resolve("VAE convolutions", impl, BY_PLATFORM)
    if form == "3d":
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride_t, 1, 1),
            ((0, 0), *_same(kernel)),
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        )
    if form == "winograd" and stride_t == 1 and kernel.shape[:3] == (3, 3, 3):
        positions = (x.shape[1] - 2) * math.prod((x.shape[0], *x.shape[2:4]))
        if _is_wide(x, kernel) and x.shape[1] > 3 and positions >= WINOGRAD_POSITIONS:
            return _winograd(x, kernel)
        if kernel.shape[3] >= WINOGRAD_WIDTH and 27 * kernel.shape[4] <= kernel.shape[3]:
            return _few_outputs(x, kernel)
    if form == "winograd" and kt == 1 and kernel.shape[1:3] == (3, 3):
        return _flat_conv(_fold(x), kernel[0]).reshape(*x.shape[:4], -1)
    return _conv_taps(x, kernel, stride_t)


# Measured on two cores.  Narrower ones gain a tenth at most, fewer positions do not repay the larger kernel.
WINOGRAD_WIDTH = 96
WINOGRAD_POSITIONS = 2048


def _is_wide(x: Array, kernel: Array) -> bool:
    return min(kernel.shape[-2:]) >= WINOGRAD_WIDTH and x.dtype == jnp.float32


def _same(kernel: Array) -> tuple[tuple[int, int], tuple[int, int]]:
    kh, kw = kernel.shape[-4:-2]
    return ((kh // 2, kh // 2), (kw // 2, kw // 2))


def _conv_taps(x: Array, kernel: Array, stride_t: int = 1) -> Array:
    kt = kernel.shape[0]
    slices = [_strided(x, t, kt, stride_t) for t in range(kt)]
    stacked = jnp.concatenate(slices, axis=-1)
    kernel_2d = jnp.concatenate([kernel[t] for t in range(kt)], axis=-2)
    out = conv_2d(_fold(stacked), kernel_2d, stride=1, padding=_same(kernel))
    return out.reshape(*slices[0].shape[:4], -1)


def _doubled_conv(x: Float[Array, "b f h w c"], kernel: Float[Array, "3 3 c o"]) -> Array:
    """Every pixel four times (nearest neighbour), then a 2-D convolution of the same size."""
    x = jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)
    y = conv_2d(_fold(x), kernel, stride=1, padding=_same(kernel))
    return y.reshape(*x.shape[:2], *y.shape[1:])


def _with_gradient_of(plain, fast):
    """`fast`, differentiated as `plain`: the gradient of blocks in a loop is slow."""
    fn = jax.custom_vjp(fast)
    fn.defvjp(lambda *x: (fast(*x), x), lambda x, g: jax.vjp(plain, *x)[1](g))
    return fn


_winograd = _with_gradient_of(fast_conv.conv_3x3x3_at_once, fast_conv.conv_3x3x3)
_few_outputs = _with_gradient_of(_conv_taps, fast_conv.conv_few_outputs)
_fast_doubled_conv = _with_gradient_of(_doubled_conv, fast_conv.doubled_conv_3x3)


@jax.custom_vjp
def _flat_conv(x: Float[Array, "n h w c"], kernel: Float[Array, "3 3 c o"]) -> Array:
    """A 3 x 3 convolution of pictures, whose gradient is fast for few channels and many pixels.

    XLA:CPU takes 20 times as long for the gradient of such a kernel as for the convolution.
    """
    return conv_2d(x, kernel, stride=1, padding=((1, 1), (1, 1)))


def _flat_conv_backward(saved, g: Float[Array, "n h w o"]):
    x, kernel = saved
    to_x = _flat_conv(g, kernel[::-1, ::-1].swapaxes(2, 3))
    return to_x, fast_conv.flat_kernel_gradient(x, g)


_flat_conv.defvjp(lambda x, kernel: (_flat_conv(x, kernel), (x, kernel)), _flat_conv_backward)


def _strided(x: Array, tap: int, kt: int, stride: int) -> Array:
    """The input frame that temporal tap `tap` sees, for every output frame."""
    return x[:, tap : max(x.shape[1] - kt + 1, 0) + tap : stride]


class CausalConv3d(nn.Module):
    """3-D convolution that sees the present and the past only.

    The cache is the last kt - stride_t frames of its input. A video starts with zeros in it: this
    is the zero left padding.
    """

    features: int
    kernel_size: tuple[int, int, int] = (3, 3, 3)
    stride_t: int = 1
    impl: str = "auto"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b f h w c"], cache: Cache, first: bool
    ) -> tuple[Float[Array, "b fout h w o"], Cache]:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32).astype(
            self.dtype
        )
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(
            self.dtype
        )
        memory = self.kernel_size[0] - self.stride_t
        if memory:
            past = jnp.zeros((x.shape[0], memory, *x.shape[2:]), x.dtype) if first else cache
            x = jnp.concatenate([past, x], axis=1)
            cache = x[:, -memory:]
        else:
            cache = None
        return conv_3d(x, kernel, stride_t=self.stride_t, impl=self.impl) + bias, cache


class Conv2d(nn.Module):
    """Per-frame 2-D convolution with explicit padding ((top, bottom), (left, right))."""

    features: int
    kernel_size: int
    stride: int = 1
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f h2 w2 o"]:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32).astype(
            self.dtype
        )
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(
            self.dtype
        )
        y = conv_2d(_fold(x), kernel, stride=self.stride, padding=self.padding)
        return y.reshape(*x.shape[:2], *y.shape[1:]) + bias


class DoubledConv(nn.Module):
    """Nearest-neighbour doubling of height and width, then a 3 x 3 convolution of each frame."""

    features: int
    dtype: str = "float32"
    impl: str = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f 2*h 2*w o"]:
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32).astype(
            self.dtype
        )
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(
            self.dtype
        )
        fast = resolve("VAE convolutions", self.impl, BY_PLATFORM) == "winograd"
        conv = _fast_doubled_conv if fast and _is_wide(x, kernel) else _doubled_conv
        return conv(x, kernel) + bias


class RMSNorm(nn.Module):
    """L2 normalisation over channels, times sqrt(C) and a learned gain; statistics in float32.

    With `silu` SiLU follows. The backward pass computes both anew from `x`: cheaper than what it would save.
    """

    silu: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
        gamma = self.param("gamma", nn.initializers.ones, (x.shape[-1],), jnp.float32)

        def normed(x, gamma):
            x32 = x.astype(jnp.float32)
            # max(|x|, 1e-12) under the square root, so that the gradient at x = 0 is finite.
            square = jnp.maximum(jnp.sum(x32 * x32, axis=-1, keepdims=True), 1e-24)
            x32 = x32 * lax.rsqrt(square) * (x.shape[-1] ** 0.5 * gamma)
            return (nn.silu(x32) if self.silu else x32).astype(x.dtype)

        return jax.checkpoint(normed)(x, gamma)


class ResidualBlock(nn.Module):
    """norm, SiLU, conv, norm, SiLU, conv; 1x1x1 shortcut where the channels change."""

    features: int
    impl: str = "auto"
    dtype: str = "float32"
    kernel_size: tuple[int, int, int] = (3, 3, 3)

    @nn.compact
    def __call__(self, x: Float[Array, "b f h w c"], cache: Cache, first: bool):
        conv: dict[str, Any] = dict(impl=self.impl, dtype=self.dtype, kernel_size=self.kernel_size)
        cache_a, cache_b = (None, None) if first else cache
        h = RMSNorm(silu=True, name="residual_0")(x)
        h, cache_a = CausalConv3d(self.features, name="residual_2", **conv)(h, cache_a, first)
        h = RMSNorm(silu=True, name="residual_3")(h)
        h, cache_b = CausalConv3d(self.features, name="residual_6", **conv)(h, cache_b, first)
        if x.shape[-1] != self.features:
            pointwise = CausalConv3d(
                self.features, name="shortcut", **conv | dict(kernel_size=(1, 1, 1))
            )
            x, _ = pointwise(x, None, first)
        return x + h, (cache_a, cache_b)


class AttentionBlock(nn.Module):
    """Single-head self-attention over the positions of each frame, with a residual."""

    dtype: str = "float32"
    layout: Layout = ONE_DEVICE

    @nn.compact
    def __call__(self, x: Float[Array, "b f h w c"], cache: Cache, first: bool):
        del cache, first  # frames do not see each other
        b, f, height, width, c = x.shape
        qkv = Conv2d(3 * c, 1, dtype=self.dtype, name="to_qkv")(RMSNorm(name="norm")(x))
        q, k, v = jnp.split(qkv, 3, axis=-1)
        # Every position sees all of its frame; q stays unfolded, for it may be cut either way.
        k, v = (self.layout.constrain(a).reshape(b, f, height * width, c) for a in (k, v))
        scores = jnp.einsum("bfhwc,bfnc->bfhwn", q, k, preferred_element_type=jnp.float32) * c**-0.5
        weights = nn.softmax(scores, axis=-1).astype(v.dtype)
        out = jnp.einsum("bfhwn,bfnc->bfhwc", weights, v)
        return x + Conv2d(c, 1, dtype=self.dtype, name="proj")(out), None


class Downsample(nn.Module):
    """Halves space (if `spatial`), then time (if `temporal`).

    In time: the first frame of the video bypasses the convolution; every later output is a
    kernel-3, stride-2 convolution over the frame before and two new frames. The cache is the last
    frame seen.
    """

    spatial: bool
    temporal: bool
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b f h w c"], cache: Cache, first: bool):
        c = x.shape[-1]
        if self.spatial:
            x = Conv2d(c, 3, 2, ((0, 1), (0, 1)), self.dtype, name="resample_1")(x)
        if not self.temporal:
            return x, None
        time_conv = CausalConv3d(c, (3, 1, 1), stride_t=2, dtype=self.dtype, name="time_conv")
        if not first:
            return time_conv(x, cache, False)
        head = x[:, :1]
        rest, cache = time_conv(x[:, 1:], head, False)
        return jnp.concatenate([head, rest], axis=1), cache


class Upsample(nn.Module):
    """Doubles time (if `temporal`), then (if `spatial`) space, which halves the channels.

    In time: the first latent of the video bypasses the convolution and stays one frame. Every
    later frame becomes two, the two halves of the 2C channels of a causal convolution whose past
    begins *after* that first latent: the second latent has zeros as its past.
    """

    spatial: bool
    temporal: bool
    dtype: str = "float32"
    impl: str = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "b f h w c"], cache: Cache, first: bool):
        c = x.shape[-1]
        if self.temporal:
            time_conv = CausalConv3d(2 * c, (3, 1, 1), dtype=self.dtype, name="time_conv")
            rest = x[:, 1:] if first else x
            pairs, cache = time_conv(rest, cache, first)
            b, f, height, width, _ = rest.shape
            pairs = jnp.stack(jnp.split(pairs, 2, axis=-1), axis=2)
            rest = pairs.reshape(b, 2 * f, height, width, c)
            x = jnp.concatenate([x[:, :1], rest], axis=1) if first else rest
        else:
            cache = None
        if not self.spatial:
            return x, cache
        return DoubledConv(c // 2, self.dtype, self.impl, name="resample_1")(x), cache
