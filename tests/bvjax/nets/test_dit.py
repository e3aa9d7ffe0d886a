"""The DiT against its equations in float64, its chunk axis and context, and its parameter names."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax import presets
from bvjax.config import DiTConfig
from bvjax.nets import dit
from bvjax.nets.rope import angles, apply_rope
from bvjax.nets.source_rows import gather_context

CFG = DiTConfig(
    dim=32, num_heads=2, num_layers=2, ffn_dim=48, freq_dim=16, in_channels=4, out_channels=4
)
B, C, L, HW, N, TEXT, DT = 1, 3, 2, 4, 8, 3, 6
MODEL = dit.WanDiT(CFG, DT)
PROBES = jnp.array([1, 4, 7])


def keep_top_half(importance):
    return importance >= jnp.median(importance, axis=-1, keepdims=True)


def grid(base):
    t, h, w = np.meshgrid(np.arange(L), np.arange(2), np.arange(2), indexing="ij")
    return np.stack([base + t, h, w], -1).reshape(N, 3)


@jax.jit
def forward(params, inputs, context=None, self_context=None):
    return MODEL.apply(
        {"params": params},
        *inputs,
        context,
        PROBES,
        None,
        return_kv=True,
        self_context=self_context,
        keep_fn=keep_top_half,
    )


@pytest.fixture(scope="module")
def params():
    """All tensors random: zero heads and biases would hide mistakes."""
    shapes = jax.eval_shape(lambda key: dit.init_params(CFG, DT, key), jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        scale = 0.3 if path[-1].key == "kernel" else 0.2
        offset = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(offset + scale * rng.standard_normal(leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(1)
    return (
        jnp.asarray(rng.standard_normal((B, C, L, HW, HW, 4)), jnp.float32),
        jnp.asarray(rng.uniform(0.1, 0.9, (B, C)), jnp.float32),
        jnp.asarray(rng.standard_normal((B, C, TEXT, DT)), jnp.float32),
        jnp.asarray(np.stack([[grid(5 + L * c) for c in range(C)]] * B), jnp.int32),
    )


def random_context(rows, **how):
    rng = np.random.default_rng(2)
    shape = (CFG.num_layers, B, C, rows, CFG.num_heads, CFG.head_dim)
    keys, values = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for _ in range(2))
    return dit.Context(keys=keys, values=values, **how)


# --- the equations -----------------------------------------------------------------------------


class Oracle:
    """Wan2.1's forward pass of one chunk in NumPy float64, with the names of its checkpoints."""

    def __init__(self, params):
        self.params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def linear(self, x, *path, layer=None):
        node = self.params
        for name in path:
            node = node[name]
        pick = (lambda w: w) if layer is None else (lambda w: w[layer])
        return x @ pick(node["kernel"]) + pick(node["bias"])

    @staticmethod
    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + CFG.eps)

    @staticmethod
    def gelu(x):
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    @staticmethod
    def silu(x):
        return x / (1 + np.exp(-x))

    def attention(self, name, i, x, memory, positions):
        def rms(y, norm):
            y = y / np.sqrt((y**2).mean(-1, keepdims=True) + CFG.eps)
            return y * self.params["blocks"][name][norm]["scale"][i]

        path = ("blocks", name)
        q = rms(self.linear(x, *path, "q", layer=i), "norm_q")
        k = rms(self.linear(memory, *path, "k", layer=i), "norm_k")
        v = self.linear(memory, *path, "v", layer=i)
        q, k, v = (y.reshape(len(y), CFG.num_heads, CFG.head_dim) for y in (q, k, v))
        if positions is not None:
            turn = angles(positions, CFG.head_dim, CFG.rope_theta)
            q, k = (np.asarray(apply_rope(jnp.asarray(y, jnp.float32), turn)) for y in (q, k))
        out = np.zeros_like(v, shape=q.shape)
        for a in range(CFG.num_heads):
            weights = np.exp(q[:, a] @ k[:, a].T / math.sqrt(CFG.head_dim))
            out[:, a] = weights / weights.sum(-1, keepdims=True) @ v[:, a]
        return self.linear(out.reshape(len(x), -1), *path, "o", layer=i)

    def __call__(self, latents, sigma, text, positions):
        half = CFG.freq_dim // 2
        phase = 1000.0 * sigma * 10000.0 ** (-np.arange(half) / half)
        e = self.linear(np.concatenate([np.cos(phase), np.sin(phase)]), "time_embedding", "0")
        e = self.linear(self.silu(e), "time_embedding", "2")
        e0 = self.linear(self.silu(e), "time_projection", "1").reshape(6, -1)
        text = self.gelu(self.linear(text, "text_embedding", "0"))
        text = self.linear(text, "text_embedding", "2")
        x = []
        for t, i, j in np.ndindex(L, HW // 2, HW // 2):
            patch = latents[t, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]  # [ph, pw, c]
            x.append(self.linear(patch.transpose(2, 0, 1).reshape(-1), "patch_embedding"))
        x = np.stack(x)
        blocks = self.params["blocks"]
        for i in range(CFG.num_layers):
            m = blocks["modulation"][i] + e0
            y = self.norm(x) * (1 + m[1]) + m[0]
            x = x + m[2] * self.attention("self_attn", i, y, y, positions)
            y = self.norm(x) * blocks["norm3"]["scale"][i] + blocks["norm3"]["bias"][i]
            x = x + self.attention("cross_attn", i, y, text, None)
            y = self.linear(self.norm(x) * (1 + m[4]) + m[3], "blocks", "ffn", "0", layer=i)
            x = x + m[5] * self.linear(self.gelu(y), "blocks", "ffn", "2", layer=i)
        shift, scale = self.params["head"]["modulation"] + e
        x = self.linear(self.norm(x) * (1 + scale) + shift, "head", "head")
        out = np.zeros(latents.shape)
        for n, (t, i, j) in enumerate(np.ndindex(L, HW // 2, HW // 2)):
            out[t, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = x[n].reshape(2, 2, 4)
        return out


def test_equals_the_equations_chunk_by_chunk(params, inputs):
    velocity, _ = forward(params, inputs)
    oracle = Oracle(params)
    for c in range(C):
        want = oracle(*(np.asarray(x[0, c], np.float64) for x in inputs[:3]), inputs[3][0, c])
        assert np.abs(want).max() > 0.5
        np.testing.assert_allclose(velocity[0, c], want, rtol=1e-3, atol=1e-3)


def test_timestep_embedding_is_within_its_stated_error():
    t = np.float32([0.0, 0.37, 500.0, 999.9, 1000.0])
    phase = t.astype(np.float64)[:, None] * 10000.0 ** (-np.arange(128) / 128)
    got = dit.timestep_embedding(jnp.asarray(t), 256)
    np.testing.assert_allclose(got, np.concatenate([np.cos(phase), np.sin(phase)], -1), atol=1e-4)


def test_one_sigma_a_chunk_is_one_sigma_a_frame(params, inputs):
    latents, sigma, text, positions = inputs
    per_frame = jnp.repeat(sigma[..., None], L, axis=2)
    want, _ = forward(params, inputs)
    got, _ = forward(params, (latents, per_frame, text, positions))
    np.testing.assert_allclose(got, want, atol=1e-5)
    other, _ = forward(params, (latents, per_frame.at[0, 0, 1].add(0.3), text, positions))
    change = jnp.abs(other - want).max(axis=(0, 2, 3, 4, 5))
    assert change[0] > 1e-2 and change[1:].max() < 1e-5


def test_padding_rows_of_the_text_are_attended(params, inputs):
    latents, sigma, text, positions = inputs
    padded = jnp.pad(text, [(0, 0), (0, 0), (0, 4), (0, 0)])
    assert (
        jnp.abs(
            forward(params, (latents, sigma, padded, positions))[0] - forward(params, inputs)[0]
        ).max()
        > 1e-2
    )


# --- chunks and context ------------------------------------------------------------------------


@jax.jit
def gradient_of_chunk(params, inputs, self_context, i, importance_weight):
    """Gradient of a random projection of chunk i's velocity with respect to all latents."""

    def out(latents):
        velocity, kv = forward(params, (latents, *inputs[1:]), None, self_context)
        weights = jnp.sin(jnp.arange(velocity.size, dtype=jnp.float32)).reshape(velocity.shape)
        return jnp.sum((velocity * weights)[:, i]) + importance_weight * kv.importance[..., 0].sum()

    return jax.grad(out)(inputs[0])


def sensitivity(params, inputs, self_context=None):
    """[i, j]: size of the gradient of chunk i's velocity with respect to chunk j's latents."""
    rows = [gradient_of_chunk(params, inputs, self_context, i, 0.0) for i in range(C)]
    return np.array([np.abs(row).max(axis=(0, 2, 3, 4, 5)) for row in rows])


def test_chunks_are_independent_without_context(params, inputs):
    size = sensitivity(params, inputs)
    assert (np.diag(size) > 1e-3).all()
    assert (size[~np.eye(C, dtype=bool)] == 0).all()


def test_context_by_length_is_context_by_mask_in_any_order(params, inputs):
    length = jnp.broadcast_to(jnp.array([5, 0, 7]), (CFG.num_layers, B, C))
    by_length = random_context(7, length=length)
    mask = jnp.arange(7) < length[..., None]
    want, _ = forward(params, inputs, by_length)
    got, _ = forward(params, inputs, random_context(7, mask=mask))
    np.testing.assert_allclose(got, want, atol=1e-5)

    alone, _ = forward(params, inputs)
    change = jnp.abs(want - alone).max(axis=(0, 2, 3, 4, 5))
    assert change[1] < 1e-5 and change[0] > 1e-2 and change[2] > 1e-2

    order = jnp.array([3, 6, 0, 5, 1, 4, 2])
    shuffled = jax.tree.map(lambda x: x[:, :, :, order], random_context(7, mask=mask))
    got, _ = forward(params, inputs, shuffled)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_gather_context_equals_a_loop():
    rng = np.random.default_rng(3)
    keys, values = rng.standard_normal((2, B, 4, N, 2, 16)).astype(np.float32)
    keep = rng.random((B, 4, N)) < 0.5
    index, valid = np.array([[[2, 0], [3, 3]]]), np.array([[[True, False], [True, True]]])
    positions = rng.integers(0, 9, (B, 2, 2, N, 3))
    got = jax.jit(gather_context, static_argnums=6)(
        keys, values, keep, index, valid, positions, 1e4
    )
    assert got[0].shape == (B, 2, 2 * N, 2, 16) and got[2].shape == (B, 2, 2 * N)
    for m, e in np.ndindex(2, 2):
        rows, source = slice(e * N, (e + 1) * N), index[0, m, e]
        want = apply_rope(jnp.asarray(keys[0, source]), angles(positions[0, m, e], 16, 1e4))
        np.testing.assert_allclose(got[0][0, m, rows], want, atol=1e-6)
        np.testing.assert_array_equal(got[1][0, m, rows], values[0, source])
        np.testing.assert_array_equal(got[2][0, m, rows], keep[0, source] & valid[0, m, e])


ENTRIES = ((), (0,), (1,))  # chunk 2 does not see chunk 0 directly, only what chunk 1 made of it


def teacher_forcing():
    """Each chunk sees the one before, in the second of two entries, at window positions."""
    index = np.array([[[0, s[0] if s else 0] for s in ENTRIES]])
    valid = np.array([[[False, bool(s)] for s in ENTRIES]])
    positions = np.broadcast_to(np.stack([grid(1), grid(3)]), (B, C, 2, N, 3))
    positions = jnp.asarray(positions, jnp.int32)
    return dit.SelfContext(jnp.asarray(index), jnp.asarray(valid), positions)


def test_self_context_equals_chunk_by_chunk_through_chunk_kv(params, inputs):
    together, together_kv = forward(params, inputs, None, teacher_forcing())
    kept_kv = []
    for c, entries in enumerate(ENTRIES):
        context = None
        if entries:
            kv = kept_kv[entries[0]]
            turn = angles(jnp.asarray(grid(3), jnp.int32), CFG.head_dim, CFG.rope_theta)
            context = dit.Context(
                keys=apply_rope(kv.keys, turn), values=kv.values, mask=keep_top_half(kv.importance)
            )
        alone, kv = forward(params, [x[:, c : c + 1] for x in inputs], context)
        kept_kv.append(kv)
        np.testing.assert_allclose(together[:, c], alone[:, 0], rtol=1e-5, atol=2e-5)
        for part, want in zip(jax.tree.leaves(together_kv), jax.tree.leaves(kv), strict=True):
            np.testing.assert_allclose(part[:, :, c], want[:, :, 0], rtol=1e-5, atol=1e-5)


def test_self_context_adds_to_a_given_context(params, inputs):
    length = jnp.broadcast_to(jnp.array([5, 0, 7]), (CFG.num_layers, B, C))
    both, _ = forward(params, inputs, random_context(7, length=length), teacher_forcing())
    mask = jnp.arange(7) < length[..., None]
    same, _ = forward(params, inputs, random_context(7, mask=mask), teacher_forcing())
    np.testing.assert_allclose(both, same, atol=1e-5)
    for fewer in (
        forward(params, inputs, random_context(7, length=length)),
        forward(params, inputs, None, teacher_forcing()),
    ):
        assert jnp.abs(both - fewer[0])[:, 2].max() > 1e-2


def test_no_future_leaks_through_self_context(params, inputs):
    size = sensitivity(params, inputs, teacher_forcing())
    assert (size[np.triu_indices(C, 1)] == 0).all()
    assert (size[np.tril_indices(C)] > 1e-5).all()
    broken = teacher_forcing()
    broken = broken.replace(index=broken.index.at[0, 1, 1].set(2))
    assert sensitivity(params, inputs, broken)[1, 2] > 1e-5  # so the test above can fail


def test_importance_counts_heads_and_probes_and_stops_gradients(params, inputs):
    _, kv = forward(params, inputs)
    assert kv.importance.shape == (CFG.num_layers, B, C, N)
    np.testing.assert_allclose(kv.importance.sum(-1), len(PROBES) * CFG.num_heads, rtol=1e-5)
    without, with_importance = (gradient_of_chunk(params, inputs, None, 0, w) for w in (0.0, 1e3))
    np.testing.assert_array_equal(without, with_importance)


def test_kv_is_returned_on_request_only(params, inputs):
    velocity, kv = jax.eval_shape(lambda p: MODEL.apply({"params": p}, *inputs), params)
    assert kv is None and velocity.dtype == jnp.float32 and velocity.shape == inputs[0].shape


# --- parameters and configuration --------------------------------------------------------------


@pytest.mark.parametrize(
    "preset, count",
    [
        (presets.WAN_1_3B, 1_418_996_800),
        (presets.WAN_14B, 14_288_491_584),
        (presets.SKYREELS, 1_435_525_696),
    ],
)
def test_parameter_counts_are_wan_s(preset, count):
    shapes = jax.eval_shape(
        lambda key: dit.init_params(preset.dit, preset.text.dim, key), jax.random.key(0)
    )
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == count
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(shapes))


def test_initialisation_is_wan_s():
    params = dit.init_params(CFG, DT, jax.random.key(0))
    assert not np.any(params["head"]["head"]["kernel"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(params["blocks"]):
        names = [p.key for p in path]
        if names[-1] == "bias":
            assert not np.any(leaf)
        if names[-1] == "kernel":
            bound = math.sqrt(6 / (leaf.shape[1] + leaf.shape[2]))  # Xavier, of one layer
            assert 0.9 * bound < np.abs(leaf).max() <= bound
            assert np.any(leaf[0] != leaf[1])
    assert np.std(params["blocks"]["modulation"]) == pytest.approx(CFG.dim**-0.5, rel=0.2)
    assert np.std(params["time_embedding"]["2"]["kernel"]) == pytest.approx(0.02, rel=0.1)


def test_scanned_layers_use_their_own_parameters_in_order(params, inputs):
    """The oracle above is the unrolled loop; here layer 0 alone, and the layers swapped."""
    want, kv = forward(params, inputs)
    single = dit.WanDiT(dataclasses.replace(CFG, num_layers=1), DT)
    first = {**params, "blocks": jax.tree.map(lambda x: x[:1], params["blocks"])}
    _, kv_first = jax.jit(lambda p: single.apply({"params": p}, *inputs, return_kv=True))(first)
    np.testing.assert_allclose(kv_first.keys[0], kv.keys[0], atol=1e-5)
    swapped = {**params, "blocks": jax.tree.map(lambda x: x[::-1], params["blocks"])}
    assert jnp.abs(forward(swapped, inputs)[0] - want).max() > 1e-2


def test_remat_changes_nothing_but_memory(params, inputs):
    def gradient(remat):
        model = dit.WanDiT(dataclasses.replace(CFG, remat=remat), DT)
        return jax.grad(lambda p: jnp.mean(model.apply({"params": p}, *inputs)[0] ** 2))

    want, got = (jax.jit(gradient(remat))(params) for remat in ("none", "full"))
    for one, other in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * float(np.abs(one).max()) + 1e-7)
    matmuls = {
        remat: str(jax.make_jaxpr(gradient(remat))(params)).count("dot_general")
        for remat in ("dots", "full")
    }
    assert matmuls["dots"] < matmuls["full"]


def test_bfloat16_matmuls_keep_a_float32_stream(params, inputs):
    model = dit.WanDiT(dataclasses.replace(CFG, dtype="bfloat16"), DT)
    velocity, kv = jax.jit(lambda p: model.apply({"params": p}, *inputs, return_kv=True))(params)
    want, _ = forward(params, inputs)
    assert velocity.dtype == jnp.float32 and kv.keys.dtype == jnp.bfloat16
    error = jnp.sqrt(jnp.mean((velocity - want) ** 2) / jnp.mean(want**2))
    assert 1e-5 < error < 0.05


@pytest.mark.parametrize("std", [(), (1.0, 0.5, 0.1, 2.0)])
@pytest.mark.slow
def test_the_linear_guess_is_least_squares_and_the_rest_gives_the_velocity(params, inputs, std):
    """Against numpy regression of the velocity on x_sigma, level by level; then inside the network."""
    rng = np.random.default_rng(5)
    start, noise = rng.standard_normal((2, 1, 5, 16, 16, 16, 4))
    v = np.square(std or 1.0)
    start = start * np.sqrt(v)
    sigma = np.array([[0.0, 0.1, 0.5, 0.9, 1.0]])
    level = sigma[..., None, None, None, None]
    noisy, velocity = (1 - level) * start + level * noise, noise - start
    s = level**2 + (1 - level) ** 2 * v
    rest = (level * start - (1 - level) * v * noise) / np.sqrt(v * s)
    guess, whole = (
        dit.add_linear_guess(
            jnp.float32(out), jnp.float32(noisy), jnp.float32(sigma)[..., None], std
        )
        for out in (0 * rest, rest)
    )
    over = (0, 2, 3, 4)
    slope = (velocity * noisy).sum(over[1:]) / (noisy**2).sum(over[1:])  # per level and channel
    wanted = slope[:, :, None, None, None] * noisy
    np.testing.assert_allclose(guess, wanted, atol=0.2 * max(std, default=1.0))
    np.testing.assert_allclose(whole, velocity, atol=1e-5)
    np.testing.assert_allclose(rest.std(axis=over), 1.0, atol=0.1)

    model = dit.WanDiT(dataclasses.replace(CFG, preconditioning="linear", latent_std=std), DT)
    raw = MODEL.apply({"params": params}, *inputs)[0]
    got = model.apply({"params": params}, *inputs)[0]
    latents, levels = inputs[:2]
    levels = levels if levels.ndim == 3 else levels[..., None]
    np.testing.assert_array_equal(got, dit.add_linear_guess(raw, latents, levels, std))


def test_wrong_inputs_are_refused_with_a_sentence(unchecked_types, inputs):
    latents, sigma, text, positions = inputs
    context = random_context(2)
    cases = [
        (dict(remat="half"), inputs, None, "dit.remat is 'half'; it can be none, full, dots"),
        (
            dict(preconditioning="noise"),
            inputs,
            None,
            "dit.preconditioning is 'noise'; it can be none, linear",
        ),
        ({}, (latents[..., :3, :], *inputs[1:]), None, "do not divide by the patch"),
        ({}, (latents[..., :3], *inputs[1:]), None, "3 channels; this model takes 4"),
        ({}, (latents, sigma, text[..., :2], positions), None, "width 2; this model takes 6"),
        ({}, (latents, sigma, text, positions[:, :, 1:]), None, "7 positions for 8 tokens"),
        ({}, (latents, jnp.zeros((B, C, 5)), text, positions), None, "got 5 sigmas a chunk"),
        ({}, inputs, context, "exactly one of length and mask"),
    ]
    for change, given, context, sentence in cases:
        model = dit.WanDiT(dataclasses.replace(CFG, **change), DT)
        with pytest.raises(ValueError, match=sentence):
            jax.eval_shape(model.init, jax.random.key(0), *given, context)
