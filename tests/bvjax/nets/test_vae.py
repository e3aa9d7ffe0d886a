"""The VAE against a slow, literal piecewise oracle, and its streaming, causality and size laws."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import VAEConfig
from bvjax.errors import UserError
from bvjax.nets import vae, vae_layers

H, W = 16, 24
_RNG = np.random.default_rng(7)
CONFIG = VAEConfig(
    dim=4,
    z_dim=3,
    num_res_blocks=1,
    latent_mean=tuple(_RNG.normal(size=3).tolist()),
    latent_std=tuple(_RNG.uniform(0.5, 2.0, size=3).tolist()),
    latent_scale=(1.0, 0.5, 0.2),
)
UNIT = np.array(CONFIG.latent_std) / CONFIG.latent_scale  # of a normalised latent

# Compiling is what these tests spend their time on, so: no optimisation, few programs.
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@_jit
def encode(params, frames, cotangent):
    """Latents, moments, and the gradient of <cotangent, latents> in the frames."""
    latents, pullback = jax.vjp(lambda x: vae.encode(params, CONFIG, x), frames)
    return latents, vae.encode_moments(params, CONFIG, frames), pullback(cotangent)[0]


@_jit
def decode(params, latents, cotangent):
    """Frames, raw frames of the same latents, and the gradient of <cotangent, raw frames>."""
    raw_of = lambda z: vae.decode_raw(params, CONFIG, vae.denormalise(CONFIG, z))
    raw, pullback = jax.vjp(raw_of, latents)
    return vae.decode(params, CONFIG, latents), raw, pullback(cotangent)[0]


@functools.partial(_jit, static_argnames="first")
def encode_stream(params, state, x, first):
    return vae.encode_stream(params, CONFIG, state, x, first=first)


@functools.partial(_jit, static_argnames="first")
def decode_stream(params, state, x, first):
    return vae.decode_stream(params, CONFIG, state, x, first=first)


@pytest.fixture(scope="module")
def fresh():
    return vae.init_params(CONFIG, jax.random.key(0), H, W)


@pytest.fixture(scope="module")
def params(fresh):
    """Random kernels, biases and gains: nothing is zero or one."""
    rng = np.random.default_rng(0)
    draw = lambda a: a + (0.2 * rng.normal(size=a.shape).astype(np.float32) if a.ndim == 1 else 0)
    return jax.tree.map(draw, fresh)


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.uniform(-1, 1, size=(2, 9, H, W, 3)), jnp.float32)


@pytest.fixture(scope="module")
def latents():
    rng = np.random.default_rng(2)
    return jnp.asarray(rng.normal(size=(2, 4, H // 8, W // 8, 3)), jnp.float32)


@pytest.fixture(scope="module")
def whole_latents(params, frames):
    return encode(params, frames, jnp.zeros((2, 3, H // 8, W // 8, 3)))[0]


@pytest.fixture(scope="module")
def whole_frames(params, latents):
    return decode(params, latents, jnp.zeros((2, 13, H, W, 3)))[0]


# --- a literal oracle: 1 frame then 4, 4, ...; latents one at a time; caches in a dict -----------


class Oracle:
    """Piecewise Wan2.1 VAE in NumPy; `cache` maps a layer's name to what it stored, or to "Rep"."""

    def __init__(self, params):
        self.params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
        self.cache = {}

    def get(self, path):
        node = self.params
        for key in path.split("/"):
            node = node[key]
        return node

    def has(self, path):
        try:
            return self.get(path) is not None
        except KeyError:
            return False

    def conv(self, path, x, left, stride_t=1):
        """Convolution of x after `left` (the frames put before it), symmetric padding in space."""
        kernel, bias = self.get(path)["kernel"], self.get(path)["bias"]
        kt, kh, kw = kernel.shape[:3]
        x = np.concatenate([left, x], axis=1) if left is not None else x
        h, w = x.shape[2:4]
        x = np.pad(x, ((0, 0), (0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
        out = []
        for t in range(0, x.shape[1] - kt + 1, stride_t):
            frame = sum(
                x[:, t + a, i : i + h, j : j + w] @ kernel[a, i, j]
                for a in range(kt)
                for i in range(kh)
                for j in range(kw)
            )
            out.append(frame + bias)
        return np.stack(out, axis=1)

    def causal(self, path, x):
        """Zero left padding of 2, part of it replaced by the cached frames; keeps the last 2."""
        old = self.cache.get(path)
        left = np.concatenate([np.zeros_like(x[:, :1])] * 2, axis=1)
        if old is not None:
            left = np.concatenate([left, old], axis=1)[:, -2:]
        keep = x[:, -2:]
        if keep.shape[1] < 2 and old is not None:
            keep = np.concatenate([old[:, -1:], keep], axis=1)
        self.cache[path] = keep
        return self.conv(path, x, left)

    def conv2d(self, path, x, pad, stride):
        kernel, bias = self.get(path)["kernel"], self.get(path)["bias"]
        k = kernel.shape[0]
        x = np.pad(x, ((0, 0), (0, 0), pad, pad, (0, 0)))
        oh, ow = (x.shape[2] - k) // stride + 1, (x.shape[3] - k) // stride + 1
        taps = [
            x[:, :, i : i + stride * oh : stride, j : j + stride * ow : stride] @ kernel[i, j]
            for i in range(k)
            for j in range(k)
        ]
        return sum(taps) + bias

    def norm(self, path, x):
        length = np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
        return x / length * np.sqrt(x.shape[-1]) * self.get(path)["gamma"]

    def block(self, path, x):
        h = self.causal(f"{path}/residual_2", _silu(self.norm(f"{path}/residual_0", x)))
        h = self.causal(f"{path}/residual_6", _silu(self.norm(f"{path}/residual_3", h)))
        if self.has(f"{path}/shortcut"):
            x = self.conv(f"{path}/shortcut", x, None)
        return x + h

    def attention(self, path, x):
        out = np.empty_like(x)
        qkv = self.conv2d(f"{path}/to_qkv", self.norm(f"{path}/norm", x), (0, 0), 1)
        for b, f in np.ndindex(*x.shape[:2]):
            q, k, v = np.split(qkv[b, f].reshape(-1, 3 * x.shape[-1]), 3, axis=-1)
            weights = np.exp(q @ k.T / np.sqrt(x.shape[-1]))
            out[b, f] = (weights / weights.sum(-1, keepdims=True) @ v).reshape(x.shape[2:])
        return x + self.conv2d(f"{path}/proj", out, (0, 0), 1)

    def down(self, path, x):
        x = self.conv2d(f"{path}/resample_1", x, (0, 1), 2)
        if self.has(f"{path}/time_conv"):
            old, self.cache[path] = self.cache.get(path), x[:, -1:]
            if old is not None:
                x = self.conv(f"{path}/time_conv", x, old, stride_t=2)
        return x

    def up(self, path, x):
        if self.has(f"{path}/time_conv"):
            old = self.cache.get(path)
            if old is None:
                self.cache[path] = "Rep"
            else:
                zero = np.zeros_like(x[:, :1])
                left = np.concatenate([zero, zero], axis=1) if isinstance(old, str) else old
                self.cache[path] = np.concatenate([left[:, -1:], x], axis=1)[:, -2:]
                both = self.conv(f"{path}/time_conv", x, left)
                c = x.shape[-1]
                halves = (slice(0, c), slice(c, 2 * c))
                times = range(x.shape[1])
                x = np.stack([both[:, t, ..., half] for t in times for half in halves], axis=1)
        x = x.repeat(2, axis=2).repeat(2, axis=3)
        return self.conv2d(f"{path}/resample_1", x, (1, 1), 1)

    def through(self, room, names, x):
        x = self.causal(f"{room}/conv1", x)
        for name in names:
            path = f"{room}/{name}"
            if self.has(f"{path}/to_qkv"):
                x = self.attention(path, x)
            elif self.has(f"{path}/resample_1"):
                x = self.down(path, x) if room == "encoder" else self.up(path, x)
            else:
                x = self.block(path, x)
        return self.causal(f"{room}/head_2", _silu(self.norm(f"{room}/head_0", x)))

    def encode(self, frames):
        names = [f"downsamples_{k}" for k in range(7)] + [f"middle_{k}" for k in range(3)]
        starts = [0, *range(1, frames.shape[1], 4)]
        pieces = [frames[:, s : s + (4 if s else 1)] for s in starts]
        h = np.concatenate([self.through("encoder", names, p) for p in pieces], axis=1)
        return np.split(self.conv("conv1", h, None), 2, axis=-1)

    def decode(self, z):
        z = self.conv("conv2", z, None)
        names = [f"middle_{k}" for k in range(3)] + [f"upsamples_{k}" for k in range(11)]
        pieces = [self.through("decoder", names, z[:, i : i + 1]) for i in range(z.shape[1])]
        return np.concatenate(pieces, axis=1)


def _silu(x):
    return x / (1 + np.exp(-x))


def test_encode_is_the_piecewise_algorithm(params, frames):
    mu, logvar = Oracle(params).encode(np.asarray(frames, np.float64))
    assert np.abs(mu).max() > 0.1
    want = (mu - np.array(CONFIG.latent_mean)) / UNIT
    latents, moments, _ = encode(params, frames, jnp.zeros(want.shape))
    np.testing.assert_allclose(latents, want, atol=2e-5)
    np.testing.assert_allclose(moments[0], mu, atol=2e-5)
    np.testing.assert_allclose(moments[1], logvar, atol=2e-5)


def test_decode_is_the_piecewise_algorithm(params, latents):
    z = np.asarray(latents, np.float64) * UNIT + np.array(CONFIG.latent_mean)
    want = Oracle(params).decode(z)
    assert (np.abs(want) > 1).any() and (np.abs(want) < 1).mean() > 0.2
    clamped, raw, _ = decode(params, latents, jnp.zeros(want.shape))
    np.testing.assert_allclose(raw, want, atol=2e-5)
    np.testing.assert_allclose(clamped, want.clip(-1, 1), atol=2e-5)


# --- streaming -----------------------------------------------------------------------------------


def _stream(step, params, state, x, split):
    pieces = []
    for i, piece in enumerate(jnp.split(x, np.cumsum(split)[:-1].tolist(), axis=1)):
        state, out = step(params, state, piece, first=i == 0)
        pieces.append(out)
    return jnp.concatenate(pieces, axis=1)


@pytest.mark.parametrize("split", [(1, 4, 4), (5, 4), (1, 8)])
def test_streamed_encode_is_whole_encode(params, frames, whole_latents, split):
    # A used state: a first piece must not read what an earlier video left behind.
    state = jax.tree.map(jnp.ones_like, vae.init_encode_state(CONFIG, 2, H, W))
    got = _stream(encode_stream, params, state, frames, split)
    np.testing.assert_allclose(got, whole_latents, atol=1e-5)


@pytest.mark.parametrize("split", [(1, 1, 1, 1), (2, 2), (1, 2, 1)])
def test_streamed_decode_is_whole_decode(params, latents, whole_frames, split):
    state = jax.tree.map(jnp.ones_like, vae.init_decode_state(CONFIG, 2, H, W))
    got = _stream(decode_stream, params, state, latents, split)
    np.testing.assert_allclose(got, whole_frames, atol=1e-5)


def test_long_piece_in_a_loop_is_whole_decode(params, latents, whole_frames, monkeypatch):
    """One latent at a time, 0..255 made in the loop; a piece may go on from the middle."""
    monkeypatch.setattr(vae, "WORK", 1)
    run = functools.partial(_jit, static_argnames="first")(
        lambda state, x, first: vae.decode_pictures(params, CONFIG, state, x, first=first)
    )
    state, head = run(vae.init_decode_state(CONFIG, 2, H, W), latents[:, :1], first=True)
    state, rest = run(state, latents[:, 1:], first=False)
    got = np.concatenate([head, rest], axis=1)
    assert got.dtype == np.uint8
    want = (np.asarray(whole_frames) + 1) * 127.5
    np.testing.assert_allclose(got, want, atol=0.5 + 1e-3)


@pytest.mark.slow
def test_long_piece_in_a_loop_is_whole_encode(params, frames, whole_latents, monkeypatch):
    monkeypatch.setattr(vae, "WORK", 1)
    got = _jit(lambda x: vae.encode(params, CONFIG, x))(frames)
    np.testing.assert_allclose(got, whole_latents, atol=1e-5)


@pytest.mark.slow
def test_memory_of_a_loop_does_not_grow_with_the_piece(params, monkeypatch):
    monkeypatch.setattr(vae, "WORK", 1)
    state, sizes = vae.init_decode_state(CONFIG, 1, 64, 64), []
    for count in (2, 8):
        run = lambda s, z: vae.decode_pictures(params, CONFIG, s, z, first=False)
        z = jax.ShapeDtypeStruct((1, count, 8, 8, 3), jnp.float32)
        memory = _jit(run).lower(state, z).compile().memory_analysis()
        sizes.append(memory.temp_size_in_bytes)
    assert sizes[1] - sizes[0] < 2 * 6 * 4 * 64 * 64 * 3, "more than the pictures themselves"


def test_lengths_and_state_size(params):
    """n latents are 1 + 4(n-1) frames; the state never grows."""
    shape_of = functools.partial(jax.tree.map, lambda a: (a.shape, a.dtype))
    down, up = vae.init_encode_state(CONFIG, 2, H, W), vae.init_decode_state(CONFIG, 2, H, W)
    for n in (1, 3):
        for first in (True, False):
            count = 4 * n - 3 * first
            x = jnp.zeros((2, count, H, W, 3))
            z = jnp.zeros((2, n, H // 8, W // 8, 3))
            run = functools.partial(vae.encode_stream, config=CONFIG, first=first)
            state, out = jax.eval_shape(
                lambda p, s, x, run=run: run(p, state=s, frames=x), params, down, x
            )
            assert out.shape == z.shape and shape_of(state) == shape_of(down)
            run = functools.partial(vae.decode_stream, config=CONFIG, first=first)
            state, out = jax.eval_shape(
                lambda p, s, z, run=run: run(p, state=s, latents=z), params, up, z
            )
            assert out.shape == x.shape and shape_of(state) == shape_of(up)


def test_latents_do_not_see_later_frames(params, frames):
    for i in range(3):
        cotangent = jnp.zeros((2, 3, H // 8, W // 8, 3)).at[:, i].set(1.0)
        reach = jnp.abs(encode(params, frames, cotangent)[2]).max(axis=(0, 2, 3, 4))
        assert (reach[: 4 * i + 1] > 0).all(), "a latent must see all frames up to its own"
        assert (reach[4 * i + 1 :] == 0).all()


def test_frames_do_not_see_later_latents(params, latents):
    for frame, last in ((0, 0), (1, 1), (4, 1), (5, 2), (12, 3)):
        cotangent = jnp.zeros((2, 13, H, W, 3)).at[:, frame].set(1.0)
        reach = jnp.abs(decode(params, latents, cotangent)[2]).max(axis=(0, 2, 3, 4))
        assert reach[last] > 0
        assert (reach[last + 1 :] == 0).all()


# --- layers, sizes, names ------------------------------------------------------------------------


@pytest.mark.parametrize("kernel, stride", [((3, 3, 3), 1), ((3, 3, 3), 2), ((3, 1, 1), 2)])
def test_taps_are_the_3d_convolution(kernel, stride):
    x = jnp.asarray(_RNG.normal(size=(2, 7, 6, 5, 4)), jnp.float32)
    k = jnp.asarray(_RNG.normal(size=(*kernel, 4, 3)), jnp.float32)
    pads = [(0, 0), *((n // 2, n // 2) for n in kernel[1:])]
    want = jax.lax.conv_general_dilated(
        x, k, (stride, 1, 1), pads, dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )
    for impl in vae_layers.CONV_IMPLS:
        got = vae_layers.conv_3d(x, k, stride_t=stride, impl=impl)
        np.testing.assert_allclose(got, want, atol=1e-4)


def _shapes(config):
    tree = jax.eval_shape(functools.partial(vae.init_params, config), jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {re.sub(r"_(\d+)", r".\1", ".".join(p.key for p in path)): s.shape for path, s in leaves}


def test_wan_sizes_and_names():
    shapes = _shapes(VAEConfig())
    count = lambda prefix: sum(int(np.prod(s)) for n, s in shapes.items() if n.startswith(prefix))
    assert count("") == 126_892_531
    assert round(count("encoder") / 1e6, 2) == 53.60
    assert round(count("decoder") / 1e6, 2) == 73.30
    assert shapes["conv1.kernel"] == (1, 1, 1, 32, 32)
    assert shapes["conv2.kernel"] == (1, 1, 1, 16, 16)
    assert shapes["encoder.downsamples.3.shortcut.kernel"] == (1, 1, 1, 96, 192)
    assert shapes["encoder.downsamples.5.time_conv.kernel"] == (3, 1, 1, 192, 192)
    assert shapes["encoder.middle.1.to_qkv.kernel"] == (1, 1, 384, 1152)
    assert shapes["decoder.upsamples.3.time_conv.kernel"] == (3, 1, 1, 384, 768)
    assert shapes["decoder.upsamples.4.shortcut.kernel"] == (1, 1, 1, 192, 384)
    assert shapes["decoder.upsamples.14.residual.6.kernel"] == (3, 3, 3, 96, 96)
    assert shapes["decoder.head.2.kernel"] == (3, 3, 3, 96, 3)


def test_init_params_has_the_module_tree_and_scale(fresh):
    frames = jax.ShapeDtypeStruct((1, 5, 8, 8, 3), jnp.float32)
    want = jax.eval_shape(vae.WanVAE(CONFIG).init, jax.random.key(3), frames)["params"]
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(lambda s: s.shape, want)
    block = fresh["decoder"]["middle_0"]
    np.testing.assert_allclose(block["residual_2"]["kernel"].std(), (27 * 16) ** -0.5, rtol=0.04)
    assert np.unique(block["residual_2"]["kernel"]).size > 6000
    assert (block["residual_0"]["gamma"] == 1).all() and (block["residual_2"]["bias"] == 0).all()


def test_bfloat16_keeps_its_caches_and_gives_float32():
    config = VAEConfig(dim=4, dtype="bfloat16")
    params = jax.eval_shape(functools.partial(vae.init_params, config), jax.random.key(0))
    state = vae.init_decode_state(config, 1, 8, 8)
    assert {a.dtype for a in jax.tree.leaves(state.caches)} == {jnp.dtype(jnp.bfloat16)}
    run = lambda p, s, z: vae.decode_stream(p, config, s, z, first=False)
    after, out = jax.eval_shape(run, params, state, jnp.zeros((1, 1, 1, 1, 16)))
    assert out.dtype == jnp.float32
    assert jax.tree.map(jnp.dtype, after) == jax.tree.map(jnp.dtype, state)


def test_to_uint8():
    x = jnp.array([-2.0, -1.0, 0.0, 1.0, 3.0])
    assert vae.to_uint8(x).tolist() == [0, 0, 128, 255, 255]
    assert (vae.to_uint8(jnp.arange(256) / 127.5 - 1.0) == jnp.arange(256)).all()


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, first, message",
    [
        ((1, 16, 16, 16, 3), True, r"16 frames: .* 1 \+ 4k .* 13 or 17"),
        ((1, 0, 16, 16, 3), True, r"0 frames: .* is 1$"),
        ((1, 5, 16, 16, 3), False, r"5 frames: .* 4k frames; .* 4 or 8"),
        ((1, 3, 16, 16, 3), False, r"3 frames: .* is 4$"),
        ((1, 5, 20, 16, 3), True, r"height 20: .* 8; .* 16 or 24"),
        ((1, 5, 16, 7, 3), True, r"width 7: .* is 8$"),
        ((1, 5, 16, 16, 4), True, r"\[batch, frame, height, width, 3\]"),
        ((5, 16, 16, 3), True, r"\(5, 16, 16, 3\)"),
    ],
)
def test_illegal_frames(unchecked_types, shape, first, message):
    state = vae.VAEState(None)
    with pytest.raises(ValueError, match=message):
        vae.encode_stream({}, CONFIG, state, jnp.zeros(shape), first=first)


@pytest.mark.parametrize("shape", [(1, 0, 2, 2, 3), (1, 1, 2, 2, 16), (1, 2, 2, 3)])
def test_illegal_latents(unchecked_types, shape):
    with pytest.raises(ValueError, match="latents must be"):
        vae.decode({}, CONFIG, jnp.zeros(shape))


def test_illegal_conv_impl():
    with pytest.raises(ValueError, match="conv_impl is 'fast', legal: auto, taps, 3d, winograd"):
        vae_layers.conv_3d(jnp.zeros((1, 3, 4, 4, 1)), jnp.zeros((3, 3, 3, 1, 1)), impl="fast")


# ---- folded pixels ------------------------------------------------------------------------------
def test_patches_fold_and_unfold():
    x = jnp.arange(2 * 1 * 4 * 6 * 3.0).reshape(2, 1, 4, 6, 3)
    folded = vae.fold_patches(x, 2)
    assert folded.shape == (2, 1, 2, 3, 12)
    np.testing.assert_array_equal(folded[1, 0, 1, 2, 3:6], x[1, 0, 2, 5])  # row 0, column 1
    np.testing.assert_array_equal(vae.unfold_patches(folded, 2), x)


@pytest.mark.slow
def test_a_folding_vae_streams_as_whole():
    """Folds in place of two halvings, one temporal-only halving and one of both."""
    config = VAEConfig(
        dim=4,
        z_dim=3,
        patch=4,
        dim_mult=(1, 1, 2),
        num_res_blocks=1,
        spatial_downsample=(False, True),
        temporal_downsample=(True, True),
        latent_mean=(0.0,) * 3,
        latent_std=(1.0,) * 3,
    )
    assert (config.spatial_factor, config.temporal_factor) == (8, 4)
    params = vae.init_params(config, jax.random.key(0))
    frames = jnp.asarray(np.random.default_rng(3).uniform(-1, 1, (1, 9, 16, 16, 3)), jnp.float32)

    @_jit
    def both(params, frames):
        whole = vae.encode(params, config, frames)
        state = vae.init_encode_state(config, 1, 16, 16)
        state, a = vae.encode_stream(params, config, state, frames[:, :5], first=True)
        _, b = vae.encode_stream(params, config, state, frames[:, 5:], first=False)
        video = vae.decode(params, config, whole)
        state = vae.init_decode_state(config, 1, 16, 16)
        state, c = vae.decode_stream(params, config, state, whole[:, :2], first=True)
        _, d = vae.decode_stream(params, config, state, whole[:, 2:], first=False)
        return whole, jnp.concatenate([a, b], 1), video, jnp.concatenate([c, d], 1)

    whole, pieces, video, streamed = both(params, frames)
    assert whole.shape == (1, 3, 2, 2, 3)
    assert video.shape == frames.shape
    np.testing.assert_allclose(pieces, whole, atol=1e-5)
    np.testing.assert_allclose(streamed, video, atol=1e-5)


def test_downsampling_needs_a_value_between_widths():
    with pytest.raises(UserError, match="vae.spatial_downsample needs one value"):
        VAEConfig(spatial_downsample=(True,))
    with pytest.raises(UserError, match="vae.patch is 0"):
        VAEConfig(patch=0)
