"""Wan2.1 causal 3-D VAE: 4x8x8 compression to 16 channels, streamed or whole by one code path.

A video is a first piece of 1 + 4k frames (k >= 0) and then pieces of 4k frames; latents come in
pieces of any number. `encode_stream` and `decode_stream` take a piece and a fixed-size state and
return the new state, exactly as if the whole video had gone through at once; `encode` and
`decode` are the case of a first piece. All of them are pure functions: wrap them in `jax.jit` with
`config`, `first` and `layout` static.

However long a piece is, no more of it than `WORK` values wide is in the network at a time, so that memory
does not grow with its length; only what trains (`encode_moments`, `decode_raw`) goes through at once.
With a `layout` the height or width of latents, activations and frames is sharded over its devices.

Latents leave `encode*` normalised, (mu - mean) / std, and deterministic: mu is never sampled.
Pixels are in [-1, 1].

Parameter names are those of the original PyTorch checkpoint with "_k" for ".k":

    | here (under encoder/ or decoder/)         | PyTorch                                  |
    | ----------------------------------------- | ---------------------------------------- |
    | conv1/kernel [3,3,3,i,o]                  | conv1.weight [o,i,3,3,3]                 |
    | downsamples_k/residual_{0,3}/gamma        | downsamples.k.residual.{0,3}.gamma       |
    | downsamples_k/residual_{2,6}/kernel       | downsamples.k.residual.{2,6}.weight      |
    | downsamples_k/shortcut/kernel             | downsamples.k.shortcut.weight            |
    | downsamples_k/resample_1, .../time_conv   | downsamples.k.resample.1, ....time_conv  |
    | upsamples_k/...                           | upsamples.k....                          |
    | middle_{0,2}/..., middle_1/{norm,to_qkv,proj} | middle.{0,2}...., middle.1.{...}     |
    | head_0/gamma, head_2/kernel               | head.0.gamma, head.2.weight              |
    | (top level) conv1, conv2                  | conv1 (quant), conv2 (post-quant)        |
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from bvjax.config import VAEConfig
from bvjax.nets import vae_layers as layers
from bvjax.nets.pieces import in_pieces
from bvjax.nets.vae_stem_tail import Stem, Tail
from bvjax.nets.vae_values import (
    denormalise,
    fold_patches,
    normalise,
    to_float,
    to_uint8,
    unfold_patches,
)
from bvjax.sharding import AXES, ONE_DEVICE, Layout

Params = Any
ENCODING = (
    "stem",
    "encoder",
    "conv1",
)  # top-level modules that make latents; the others make frames
BRANCH_ENDS = ("residual_6", "proj")  # last layers of residual and attention branches
BRANCH_SCALE = 0.1
ZERO_ENDS = (("stem", "head_2"), ("tail", "head_2"))  # start silent
# Values of the widest activation that a device works on at a time, if a latent is no more: some ten of
# them are alive at once, 0.7 GB in float32.
WORK = 2**24


@struct.dataclass
class VAEState:
    """The cache of one direction of the VAE between pieces: nested tuples of arrays.

    Its size depends on batch, height and width only, never on how much video has passed.
    """

    caches: Any
    finite: Bool[Array, ""] | None = None  # whether the last pictures were; None before the first


class Encoder(nn.Module):
    """Pixels, folded by `fold_patches`, to the 2 * z_dim moments, before the quant convolution."""

    config: VAEConfig
    layout: Layout = ONE_DEVICE

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b f h w c"],
        cache: layers.Cache,
        first: bool,
        seen: Float[Array, "b f h w d"] | None = None,
    ):
        """`seen` is what the stem adds to the first features."""
        config = self.config
        conv = dict(impl=_conv_impl(config, self.layout), dtype=config.dtype)
        widths = [config.dim * m for m in config.dim_mult]
        stack = [layers.CausalConv3d(widths[0], name="conv1", **conv)]
        if seen is not None:
            stack.append(lambda x, cache, first: (x + seen, None))
        k = 0
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks):
                stack.append(layers.ResidualBlock(width, name=f"downsamples_{k}", **conv))
                k += 1
            if level < len(widths) - 1:
                halved = (config.spatial_downsample[level], config.temporal_downsample[level])
                stack.append(layers.Downsample(*halved, config.dtype, name=f"downsamples_{k}"))
                k += 1
        stack += _middle(widths[-1], conv, self.layout)
        place = layers.spatial_cut(
            self.layout, *(n * config.patch // config.spatial_factor for n in x.shape[2:4])
        )
        h, _, cache = _with_head(stack, 2 * config.z_dim, conv, x, cache, first, place)
        return h, cache


class Decoder(nn.Module):
    """Latents, after the post-quant convolution, to folded pixels and the features they come from."""

    config: VAEConfig
    layout: Layout = ONE_DEVICE

    @nn.compact
    def __call__(self, z: Float[Array, "b l h w z"], cache: layers.Cache, first: bool):
        config = self.config
        conv = dict(impl=_conv_impl(config, self.layout), dtype=config.dtype)
        widths = [config.dim * m for m in config.dim_mult[::-1]]
        stack = [layers.CausalConv3d(widths[0], name="conv1", **conv)]
        stack += _middle(widths[0], conv, self.layout)
        k = 0
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks + 1):
                stack.append(layers.ResidualBlock(width, name=f"upsamples_{k}", **conv))
                k += 1
            if level < len(widths) - 1:
                doubled = (
                    config.spatial_downsample[::-1][level],
                    config.temporal_downsample[::-1][level],
                )
                stack.append(layers.Upsample(*doubled, **conv, name=f"upsamples_{k}"))
                k += 1
        place = layers.spatial_cut(self.layout, *z.shape[2:4])
        return _with_head(stack, 3 * config.patch**2, conv, z, cache, first, place)


def _conv_impl(config: VAEConfig, layout: Layout) -> str:
    """Returns the meaning of "auto" for the devices of `layout`."""
    impl = layout.kernels if config.conv_impl == "auto" else config.conv_impl
    # The blocks that winograd goes through do not follow a cut.
    return "taps" if layout.mesh is not None and impl in ("cpu", "winograd") else impl


def _middle(width: int, conv: dict[str, str], layout: Layout) -> list[nn.Module]:
    return [
        layers.ResidualBlock(width, name="middle_0", **conv),
        layers.AttentionBlock(conv["dtype"], layout, name="middle_1"),
        layers.ResidualBlock(width, name="middle_2", **conv),
    ]


def _with_head(stack, features: int, conv: dict[str, str], x, cache, first: bool, place):
    """Runs `stack`, then norm, SiLU and the last convolution: (result, its input, cache)."""
    body, head = (None, None) if first else cache
    x, body = layers.run_layers(stack, x, body, first, place)
    x = layers.RMSNorm(silu=True, name="head_0")(x)
    out, head = layers.CausalConv3d(features, name="head_2", **conv)(x, head, first)
    return out, x, (body, head)


class WanVAE(nn.Module):
    """Encoder, decoder and the two pointwise convolutions between them and the latents."""

    config: VAEConfig
    layout: Layout = ONE_DEVICE

    def setup(self):
        config = self.config
        pointwise = dict(kernel_size=(1, 1, 1), dtype=config.dtype)
        self.encoder = Encoder(config, self.layout)
        self.decoder = Decoder(config, self.layout)
        self.stem = Stem(config) if config.stem_dim else None
        self.tail = Tail(config) if config.tail_dim else None
        self.conv1 = layers.CausalConv3d(2 * config.z_dim, **pointwise)
        self.conv2 = layers.CausalConv3d(config.z_dim, **pointwise)

    def encode_piece(
        self, frames: Float[Array | np.ndarray, "b f h w 3"], cache: layers.Cache, first: bool
    ) -> tuple[tuple[Float[Array, "b l h8 w8 z"], Float[Array, "b l h8 w8 z"]], layers.Cache]:
        """Returns ((mu, logvar), new cache), not normalised, in float32."""
        config = self.config
        frames = jnp.asarray(frames, config.dtype)
        seen = self.stem(frames, config.dim * config.dim_mult[0]) if self.stem else None
        h, cache = self.encoder(fold_patches(frames, config.patch), cache, first, seen)
        moments, _ = self.conv1(h, None, first)
        mu, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return (mu, logvar), cache

    def decode_piece(
        self, latents: Float[Array | np.ndarray, "b l h8 w8 z"], cache: layers.Cache, first: bool
    ) -> tuple[Float[Array, "b f h w 3"], layers.Cache]:
        """Takes latents that are not normalised; returns (frames not clamped, new cache)."""
        z, _ = self.conv2(latents.astype(self.config.dtype), None, first)
        folded, features, cache = self.decoder(z, cache, first)
        frames = unfold_patches(folded, self.config.patch)
        if self.tail:
            frames += self.tail(features, frames)
        return frames.astype(jnp.float32), cache

    def __call__(self, frames: Float[Array | np.ndarray, "b f h w 3"]) -> Float[Array, "b f h w 3"]:
        (mu, _), _ = self.encode_piece(frames, None, True)
        return self.decode_piece(mu, None, True)[0]


def init_params(
    config: VAEConfig, key: PRNGKeyArray, height: int | None = None, width: int | None = None
) -> Params:
    """Fresh float32 parameters; they do not depend on `height` and `width` (None: any that fit).

    Kernels are LeCun normal (a tenth of it where a residual branch ends, so that the network starts
    out nearly linear and learns sooner), biases 0, gains 1.  All kernels
    are cut from one draw: compiling the generator once for every shape takes half a minute on CPU.
    """
    side = math.lcm(32, config.spatial_factor)
    size = (height or side, width or side)
    frames = jax.ShapeDtypeStruct((1, 1 + config.temporal_factor, *size, 3), jnp.float32)
    _check_frames(config, frames.shape, first=True)
    shapes = jax.eval_shape(WanVAE(config).init, key, frames)["params"]
    sizes = [math.prod(s.shape) for s in jax.tree.leaves(shapes) if len(s.shape) > 1]
    # 0.8796 is the standard deviation of a unit normal truncated at 2.
    draw = jax.random.truncated_normal(key, -2.0, 2.0, (sum(sizes),), jnp.float32) / 0.87962566
    pieces = iter(jnp.split(draw, np.cumsum(sizes)[:-1].tolist()))

    def leaf(path, s: jax.ShapeDtypeStruct) -> Array:
        if len(s.shape) > 1:
            scale = BRANCH_SCALE if path[-2].key in BRANCH_ENDS else 1.0
            scale = 0.0 if (path[0].key, path[-2].key) in ZERO_ENDS else scale
            return next(pieces).reshape(s.shape) * scale * math.prod(s.shape[:-1]) ** -0.5
        return (jnp.ones if path[-1].key == "gamma" else jnp.zeros)(s.shape)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def _encode_piece(params, config, frames, caches, first, layout=ONE_DEVICE):
    model, params = WanVAE(config, layout), jax.tree.map(layout.constrain, params)
    return model.apply({"params": params}, frames, caches, first, method=model.encode_piece)


def _decode_piece(params, config, z, caches, first, layout=ONE_DEVICE):
    model, params = WanVAE(config, layout), jax.tree.map(layout.constrain, params)
    return model.apply({"params": params}, z, caches, first, method=model.decode_piece)


def latents_at_once(
    config: VAEConfig, batch: int, height: int, width: int, layout: Layout = ONE_DEVICE
) -> int:
    """Returns the number of latents of a video of so many pixels in the network at a time: 1 or more."""
    staged = max(config.stem_dim, config.tail_dim) / config.stem_patch**2
    values = batch * height * width * max(config.dim / config.patch**2, staged)
    most = WORK * layout.size(*AXES)
    return max(1, int(most / (config.temporal_factor * values)))


def init_encode_state(config: VAEConfig, batch: int, height: int, width: int) -> VAEState:
    """The state before a video of `height` x `width` pixels; a first piece ignores its content."""
    frames = jax.ShapeDtypeStruct((batch, 1, height, width, 3), jnp.float32)
    _check_frames(config, frames.shape, first=True)
    return _zero_state(config, lambda m, x: m.encode_piece(x, None, True)[1], frames)


def init_decode_state(config: VAEConfig, batch: int, height: int, width: int) -> VAEState:
    """The state before the latents of a video of `height` x `width` pixels."""
    _check_frames(config, (batch, 1, height, width, 3), first=True)
    s = config.spatial_factor
    z = jax.ShapeDtypeStruct((batch, 1, height // s, width // s, config.z_dim), jnp.float32)
    return _zero_state(config, lambda m, x: m.decode_piece(x, None, True)[1], z)


def _zero_state(config, method, x: jax.ShapeDtypeStruct) -> VAEState:
    """Zeros in the shape of the cache that a one-frame piece leaves behind."""
    model = WanVAE(config)

    def run(key, x):
        return model.init_with_output(key, x, method=method)[0]

    shapes = jax.eval_shape(run, jax.random.key(0), x)
    return VAEState(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))


def encode_stream(
    params: Params,
    config: VAEConfig,
    state: VAEState,
    frames: Float[Array | np.ndarray, "b f h w 3"] | UInt8[Array | np.ndarray, "b f h w 3"],
    *,
    first: bool,
    layout: Layout = ONE_DEVICE,
) -> tuple[VAEState, Float[Array, "b l h8 w8 z"]]:
    """Encodes the next frames in [-1, 1] or 0..255: 1 + 4k with `first`, 4k later.

    k + first latents come out.  Raises ValueError for a frame count, height or width that is not
    legal.
    """
    _check_frames(config, frames.shape, first)
    batch, _, height, width, _ = frames.shape

    def step(caches, frames, first):
        frames = to_float(frames) if frames.dtype == jnp.uint8 else frames
        (mu, _), caches = _encode_piece(params, config, frames, caches, first, layout)
        return caches, normalise(config, mu, first)

    caches, latents = in_pieces(
        step,
        state.caches,
        frames,
        first,
        unit=config.temporal_factor,
        start=1,
        most=latents_at_once(config, batch, height, width, layout),
    )
    return VAEState(caches), latents


def decode_stream(
    params: Params,
    config: VAEConfig,
    state: VAEState,
    latents: Float[Array | np.ndarray, "b l h8 w8 z"],
    *,
    first: bool,
    layout: Layout = ONE_DEVICE,
) -> tuple[VAEState, Float[Array, "b f h w 3"]]:
    """Decodes the next l normalised latents to 4l frames (1 + 4(l-1) with `first`) in [-1, 1]."""
    finish = lambda frames, finite: (jnp.clip(frames, -1.0, 1.0), finite)
    carried = state.caches, state.finite
    (caches, _), frames = _decode_stream(params, config, carried, latents, first, layout, finish)
    return VAEState(caches, state.finite), frames


def decode_pictures(
    params: Params,
    config: VAEConfig,
    state: VAEState,
    latents: Float[Array | np.ndarray, "b l h8 w8 z"],
    *,
    first: bool,
    layout: Layout = ONE_DEVICE,
) -> tuple[VAEState, UInt8[Array, "b f h w 3"]]:
    """Like `decode_stream`, to 0..255: of a long piece the frames never all exist as floats.

    In 0..255 nothing shows that a frame was not finite; `finite` of the state returned says it.
    """
    finish = lambda frames, finite: (to_uint8(frames), finite & jnp.isfinite(frames).all())
    carried = state.caches, jnp.ones((), bool)
    (caches, finite), frames = _decode_stream(
        params, config, carried, latents, first, layout, finish
    )
    return VAEState(caches, finite), frames


def _decode_stream(params, config, carried, latents, first, layout, finish):
    """`finish` makes of (frames, flag) what comes out, and the next flag, from piece to piece."""
    _check_latents(config, latents.shape)
    batch, _, height, width, _ = latents.shape
    s, before = config.spatial_factor, carried[1]

    def step(carried, latents, first):
        caches, flag = carried or (None, before)
        z = denormalise(config, latents, first)
        frames, caches = _decode_piece(params, config, z, caches, first, layout)
        frames, flag = finish(frames, flag)
        return (caches, flag), frames

    most = latents_at_once(config, batch, s * height, s * width, layout)
    return in_pieces(step, carried, latents, first, unit=1, start=1, most=most)


def encode(
    params: Params,
    config: VAEConfig,
    frames: Float[Array | np.ndarray, "b f h w 3"],
    layout: Layout = ONE_DEVICE,
) -> Float[Array, "b l h8 w8 z"]:
    """Encodes a whole video of 1 + 4k frames in [-1, 1] to 1 + k normalised latents."""
    return encode_stream(params, config, VAEState(None), frames, first=True, layout=layout)[1]


def decode(
    params: Params,
    config: VAEConfig,
    latents: Float[Array | np.ndarray, "b l h8 w8 z"],
    layout: Layout = ONE_DEVICE,
) -> Float[Array, "b f h w 3"]:
    """Decodes all the normalised latents of a video; frames clamped to [-1, 1]."""
    return decode_stream(params, config, VAEState(None), latents, first=True, layout=layout)[1]


def encode_moments(
    params: Params, config: VAEConfig, frames: Float[Array | np.ndarray, "b f h w 3"]
) -> tuple[Float[Array, "b l h8 w8 z"], Float[Array, "b l h8 w8 z"]]:
    """(mu, logvar) of a whole video, not normalised: for training."""
    _check_frames(config, frames.shape, first=True)
    return _encode_piece(params, config, frames, None, True)[0]


def decode_raw(
    params: Params, config: VAEConfig, z_raw: Float[Array, "b l h8 w8 z"]
) -> Float[Array, "b f h w 3"]:
    """Frames of latents that are not normalised, not clamped: for training."""
    _check_latents(config, z_raw.shape)
    return _decode_piece(params, config, z_raw, None, True)[0]


def _check_latents(config: VAEConfig, shape: tuple[int, ...]) -> None:
    if len(shape) != 5 or shape[1] < 1 or shape[-1] != config.z_dim:
        raise ValueError(
            f"latents must be [batch, 1 or more latents, height, width, {config.z_dim}],"
            f" got shape {shape}"
        )


def _check_frames(config: VAEConfig, shape: tuple[int, ...], first: bool) -> None:
    if len(shape) != 5 or shape[-1] != 3:
        raise ValueError(f"frames must be [batch, frame, height, width, 3], got shape {shape}")
    t, s, start = config.temporal_factor, config.spatial_factor, int(first)
    count = shape[1]
    if count < 1 or (count - start) % t:
        below = start + (count - start) // t * t
        legal = " or ".join(str(n) for n in (below, below + t) if n > 0)
        piece = f"the first piece of a video has 1 + {t}k" if first else f"a later piece has {t}k"
        raise ValueError(f"{count} frames: {piece} frames; the nearest legal count is {legal}")
    for name, size in (("height", shape[2]), ("width", shape[3])):
        if size < s or size % s:
            legal = " or ".join(str(n) for n in (size // s * s, size // s * s + s) if n > 0)
            raise ValueError(
                f"{name} {size}: must be a multiple of {s}; the nearest legal is {legal}"
            )
