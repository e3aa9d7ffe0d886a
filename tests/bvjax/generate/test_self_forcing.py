"""Self-Forcing inference through the bank == one dense block-causal forward, for every preset."""

import dataclasses
import importlib.util
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.chunking import ChunkGrid
from bvjax.config import DiTConfig, TextConfig, VAEConfig
from bvjax.denoiser.context import prepare_context
from bvjax.denoiser.types import init_state
from bvjax.diffusion.noise import gaussian, initial_noise
from bvjax.diffusion.solvers import sigmas, timesteps
from bvjax.generate import steps
from bvjax.generate.checks import check_model
from bvjax.generate.conditions import Conditions
from bvjax.generate.rollout import stream
from bvjax.nets import dit
from bvjax.overrides import apply_overrides
from bvjax.presets import get_preset
from bvjax.random import normal, purpose_key

_spec = importlib.util.spec_from_file_location(
    "dense_wan", pathlib.Path(__file__).with_name("dense_wan.py")
)
dense_wan = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(dense_wan)

KEY = jax.random.key(11)
CHUNKS, L, ROWS, WIDTH = 9, 3, 5, 8
DIT = DiTConfig(
    dim=24, num_heads=2, num_layers=2, ffn_dim=32, freq_dim=8, in_channels=4, out_channels=4
)


def small(name, *overrides):
    """A preset as it is, but for the network and the size of a frame."""
    preset = get_preset(name)
    model = dataclasses.replace(
        preset,
        chunk=dataclasses.replace(preset.chunk, height=32, width=32),
        text=TextConfig(dim=WIDTH, max_length=ROWS),
        vae=VAEConfig(z_dim=4, latent_mean=(0.0,) * 4, latent_std=(1.0,) * 4),
        dit=DIT,
        memory=dataclasses.replace(preset.memory, capacity=12),
    )
    model = apply_overrides(model, overrides)
    check_model(model, CHUNKS)
    return model


@pytest.fixture(scope="module")
def params():
    """Random in all parts: zero heads or an empty text would hide every mistake."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        stacked = path[0].key == "blocks"
        fan_in = math.prod(leaf.shape[stacked:-1]) if leaf.ndim - stacked > 1 else 4
        centre = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(centre + rng.normal(size=leaf.shape) / math.sqrt(fan_in), jnp.float32)

    shapes = jax.eval_shape(lambda k: dit.init_params(DIT, WIDTH, k), KEY)
    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def clip():
    rng = np.random.default_rng(2)
    size = (CHUNKS, L, 4, 4, 4)
    text = rng.normal(size=(CHUNKS + 1, ROWS, WIDTH)).astype(np.float32)
    text[:, 4:] = 0
    return {
        "clean": rng.normal(size=size).astype(np.float32),
        "noisy": rng.normal(size=size).astype(np.float32),
        "sigma": np.linspace(0.2, 1.0, CHUNKS)[::-1].astype(np.float32),
        "conditions": Conditions(text=text[:-1], embedding=text[:-1].mean(1), null_text=text[-1:]),
    }


# ---- what a chunk sees and when, by hand -----------------------------------------------------
def view(model, c):
    """Chunks before `c` that it sees: the last ones, and the first if it is a sink."""
    last = range(max(0, c - model.retrieval.num_recent), c)
    return sorted({0, *last} if model.memory.anchor and c else last)


def times(model, c):
    """Latent frame at which `c` sees each chunk begin."""
    seen = [*view(model, c), c]
    if model.rope.mode == "absolute" or c == 0:
        return {j: L * j for j in seen}
    rest = [j for j in seen if j or not model.memory.anchor]
    before = model.retrieval.num_recent if model.rope.mode == "window" else len(rest) - 1
    begins = {j: L * (1 + before - back) for back, j in enumerate(reversed(rest))}
    return {0: 0} | begins if model.memory.anchor else begins


def dense(params, model, chunk_of, clean, latents, sigma, text, shift=0):
    """The oracle over segments: `chunk_of` and `clean` say which chunk, and whether it is history.

    A clean segment sees clean ones, itself too; a noisy one sees itself and clean ones before it.
    `shift` moves history in time, to show that it matters where it is.
    """
    s = len(chunk_of)
    see, time = np.zeros((s, s), bool), np.zeros((s, s), int)
    for i, c in enumerate(chunk_of):
        at = times(model, c)
        for j, other in enumerate(chunk_of):
            see[i, j] = i == j or (clean[j] and other in view(model, c))
            time[i, j] = at.get(other, 0) + (shift if other != c else 0)
    return dense_wan.dense_wan(params, model.dit, latents, sigma, text, see, time)


def block_causal(params, model, clip, **changes):
    """Clean and noisy copies of all chunks in one forward (the mask of teacher forcing)."""
    label = changes.pop("label", model.build.label)
    clean = clip["clean"]
    if model.build.context_noise:
        fresh = [
            normal(purpose_key(KEY, "context noise", c), clean.shape[1:]) for c in range(CHUNKS)
        ]
        sigma = model.build.context_noise
        clean = (1 - sigma) * clean + sigma * np.stack(fresh)
    text = clip["conditions"].text
    velocity, keys = dense(
        params,
        dataclasses.replace(model, **changes.pop("config", {})),
        [*range(CHUNKS), *range(CHUNKS)],
        [True] * CHUNKS + [False] * CHUNKS,
        np.concatenate([clean, clip["noisy"]]),
        np.concatenate([np.full(CHUNKS, label), clip["sigma"]]),
        np.concatenate([text, text]),
        **changes,
    )
    return velocity[CHUNKS:], keys[:, :CHUNKS]


def chunk_by_chunk(params, model, clip):
    """The same velocities, one chunk at a time through the bank, and the last state."""

    @jax.jit
    def velocity(state, inputs, noisy, sigma):
        seen = prepare_context(model, state, inputs)
        positions = jnp.asarray(ChunkGrid.of(model).positions(L)).at[:, 0].add(seen.start)
        out, _ = dit.WanDiT(model.dit, WIDTH).apply(
            {"params": params},
            noisy[None, None],
            sigma[None, None],
            inputs.text[None, None],
            positions[None, None],
            seen.context,
        )
        return out[0, 0]

    state, out, reports = init_state(model), [], []
    for c in range(CHUNKS):
        given = steps.chunk_input(clip["conditions"], KEY, None, c, c)
        out.append(velocity(state, given, clip["noisy"][c], clip["sigma"][c]))
        state, report = steps.write_program(params, model, state, given, clip["clean"][c])
        reports.append(report)
    return np.stack(out), state, reports


def error(a, b):
    """Largest difference relative to the largest value."""
    return np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max()


CASES = {
    "self-forcing": ("self-forcing",),
    "all chunks": ("self-forcing", "retrieval.num_recent=8", "memory.slots=9"),
    "with its sink": ("self-forcing", "memory.anchor=true", "retrieval.num_recent=5"),
    "longlive": ("longlive",),
    "longlive, unbounded": ("longlive", "rope.mode=packed"),
    "longlive, window": ("longlive", "rope.mode=window"),
    "noisy context": ("longlive", "build.label=0.1", "build.context_noise=0.2"),
}


@pytest.mark.parametrize("case", CASES)
def test_cached_equals_block_causal(params, clip, case):
    model = small(*CASES[case])
    want, keys = block_causal(params, model, clip)
    got, state, reports = chunk_by_chunk(params, model, clip)
    assert error(got, want) < 1e-5
    # the bank holds the clean pass of what is left in it, layer by layer, and nothing else
    bank = jax.device_get(state.bank)
    kept = sorted(bank.chunk_id[0][bank.valid[0]].tolist())
    sink = [0] if model.memory.anchor else []
    assert kept == sorted({*sink, *range(CHUNKS - model.memory.slots + len(sink), CHUNKS)})
    for slot, c in enumerate(bank.chunk_id[0]):
        assert error(bank.keys[:, 0, slot], keys[:, c]) < 1e-5
    for c, report in enumerate(reports):  # every token is kept, and the window is what was seen
        assert (report.kept == 12).all()
        assert sorted(report.chunk_id[report.valid].tolist()) == view(model, c)


@pytest.mark.parametrize("case", ["self-forcing", "longlive"])
@pytest.mark.parametrize("wrong", ["mask", "position", "label"])
def test_the_oracle_notices(params, clip, case, wrong):
    """What the tolerance of 1e-5 above would let through is a hundred times smaller than these."""
    model = small(*CASES[case])
    want, _ = block_causal(params, model, clip)
    wider = dataclasses.replace(model.retrieval, num_recent=model.retrieval.num_recent + 1)
    changes = {
        "mask": {"config": {"retrieval": wider}},
        "position": {"shift": 1},
        "label": {"label": 0.05},
    }
    broken, _ = block_causal(params, model, clip, **changes[wrong])
    assert error(broken[0], want[0]) == 0  # nothing to see yet
    assert error(broken[-1], want[-1]) > 1e-3


def test_a_noisy_context_is_drawn_by_chunk_and_not_by_default(params, clip):
    """The same noise however often a chunk is committed; another for another chunk or seed."""
    plain, model = small(*CASES["longlive"]), small(*CASES["noisy context"])

    def keys(model, c, key=KEY):
        given = steps.chunk_input(clip["conditions"], key, None, 0, c)
        state, _ = steps.write_program(params, model, init_state(model), given, clip["clean"][0])
        return np.asarray(state.bank.keys[0, 0, 0])  # of the first layer: no context, no text

    np.testing.assert_array_equal(keys(model, 0), keys(model, 0))
    for other in (keys(model, 1), keys(model, 0, jax.random.key(1)), keys(plain, 0)):
        assert error(other, keys(model, 0)) > 0.01


# ---- whole videos ------------------------------------------------------------------------------
def recomputed(params, model, conditions, chunks, null_history=True):
    """Latents with the whole history computed anew at every step, in each branch by its captions."""
    made = []
    levels = sigmas(model.sampler).astype(np.float64)
    null = np.repeat(conditions.null_text, chunks, 0)
    for c in range(chunks):
        x = np.asarray(initial_noise(model.noise, KEY, c + 1, (L, 4, 4, 4))[0], np.float64)

        def velocity(x, sigma, text, c=c):
            history = text if null_history else conditions.text
            out, _ = dense(
                params,
                model,
                range(c + 1),
                [True] * c + [False],
                np.stack([*made, x]),
                [0.0] * c + [sigma],
                [*history[:c], text[c]],
            )
            return out[-1]

        for i, (sigma, lower) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
            v = velocity(x, sigma, conditions.text)
            if model.guidance.scale != 1:
                v_null = velocity(x, sigma, null)
                v = v_null + model.guidance.scale * (v - v_null)
            if model.sampler.kind == "few_step":
                fresh = purpose_key(purpose_key(KEY, "solver", c), "fresh noise", i)
                fresh = np.asarray(gaussian(fresh, 1, x.shape)[0])
                x = (1 - lower) * (x - sigma * v) + lower * fresh
            else:
                x = x + (lower - sigma) * v
        made.append(x)
    return np.stack(made)


@pytest.mark.slow
def test_two_banks_are_two_caches(params, clip):
    """Many guided steps as Self-Forcing's diffusion models take them: the null branch of all time."""
    window = ("retrieval.num_recent=2", "memory.slots=3", "sampler.kind=euler", "sampler.steps=3")
    model = small("self-forcing", *window, "guidance.scale=3", "guidance.bank=two")
    conditions = jax.tree.map(lambda x: x[:5], clip["conditions"])
    want = recomputed(params, model, conditions, 5)
    pieces = [p.latents for p in stream(params, model, conditions, KEY)]
    assert error(pieces, want) < 1e-4
    shared = recomputed(params, model, conditions, 5, null_history=False)
    assert error(shared[0], want[0]) == 0 and error(shared, want) > 1e-3


@pytest.mark.parametrize("name", ["self-forcing", "longlive"])
@pytest.mark.slow
def test_videos_longer_than_the_window(params, clip, name):
    """As the preset says it, to the last step; resumed anywhere it is the same video."""
    model, conditions = small(name), clip["conditions"]
    pieces = list(stream(params, model, conditions, KEY))
    assert [p.chunk_id for p in pieces] == list(range(CHUNKS))
    made = np.stack([p.latents for p in pieces])
    assert error(made, recomputed(params, model, conditions, CHUNKS)) < 1e-4
    for stop in (1, 4, CHUNKS - 1):
        done = {p.chunk_id: p.latents for p in pieces[:stop]}
        again = stream(params, model, conditions, KEY, done=done)
        np.testing.assert_array_equal(np.stack([p.latents for p in again]), made)


def test_presets_are_what_was_released():
    names = ("self-forcing", "longlive", "causvid")
    warped, *_ = lists = [timesteps(get_preset(name).sampler) for name in names]
    np.testing.assert_allclose(warped, [1000, 937.5, 833.3333, 625], rtol=1e-6)
    np.testing.assert_array_equal(lists[1], warped)
    np.testing.assert_allclose(lists[2], [1000, 757, 522], rtol=1e-6)
    for name, latents, sink in (("self-forcing", 21, 0), ("longlive", 12, 3), ("causvid", 21, 0)):
        preset = get_preset(name)
        grid = ChunkGrid.of(preset)
        assert (grid.latents_per_chunk, preset.chunk.fps) == (3, 16)
        assert preset.memory.capacity == grid.tokens_per_chunk == 3 * 1560
        assert preset.memory.anchor * grid.first_entry_latents == sink
        assert L * (1 + preset.retrieval.num_recent) + sink == latents
        assert preset.memory.slots * L == latents
        assert not preset.guidance.guided and preset.rope.mode == "absolute"
