"""The PyTorch side of the benchmarks does the same work: equal latents, equal memory."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import torch

from bvjax.chunking import ChunkGrid
from bvjax.config import (
    BuildConfig,
    ChunkConfig,
    DiTConfig,
    GuidanceConfig,
    MemoryConfig,
    ModelConfig,
    RetrievalConfig,
    SamplerConfig,
    TextConfig,
)
from bvjax.generate import steps
from experiments.benchmarks import inputs
from experiments.benchmarks.chunk_work import chunk_work
from experiments.benchmarks.models import random_params
from experiments.benchmarks.torch_chunk import ChunkStep, network
from tests.golden import recipe
from tests.torch import builders
from tests.torch.builders import difference, size

PLAIN = ModelConfig(
    "plain",
    chunk=ChunkConfig(height=32, width=48, fps=8, frames=8),
    text=TextConfig(dim=16, max_length=9),
    dit=DiTConfig(dim=48, num_heads=4, num_layers=3, ffn_dim=80, freq_dim=16),
    memory=MemoryConfig(slots=6, capacity=9),
    build=BuildConfig(n_recent=2, n_random=2),
    retrieval=RetrievalConfig(num_recent=2, num_retrieved=1),
    sampler=SamplerConfig(kind="euler", steps=3, shift=3.0),
    guidance=GuidanceConfig(scale=2.0),
)
MODELS = {
    "as Wan": PLAIN,
    "as mini": dataclasses.replace(
        PLAIN,
        dit=dataclasses.replace(
            PLAIN.dit,
            preconditioning="linear",
            latent_std=(0.5,) * 16,
            similarity_keys=True,
            spatial_position_embedding=True,
        ),
        guidance=GuidanceConfig(scale=2.0, memory=4.0),
    ),
    "as Self-Forcing": dataclasses.replace(
        PLAIN,
        chunk=dataclasses.replace(PLAIN.chunk, first="joined"),
        memory=MemoryConfig(slots=4, capacity=12, anchor=False, evict="oldest", tau=1.0),
        build=BuildConfig(context="with", n_recent=2, n_random=2),
        retrieval=RetrievalConfig(kind="rolling", num_recent=3, num_retrieved=0, dense_recent=True),
        sampler=SamplerConfig(kind="few_step", steps=4),
        guidance=GuidanceConfig(scale=1.0),
    ),
}


@pytest.fixture(params=MODELS)
def case(request):
    """A model, its random parameters, a memory with slots of different lengths, and a chunk."""
    model = MODELS[request.param]
    params = random_params(model, "dit")
    if "similarity_key" in params["blocks"]["self_attn"]:  # the key has values that matter
        shape = params["blocks"]["self_attn"]["similarity_key"].shape
        params["blocks"]["self_attn"]["similarity_key"] = recipe.uniform("keys", shape)
    number = inputs.steady_chunk(model)
    state, given = inputs.full_state(model, number), inputs.chunk_input(model, number)
    if not model.retrieval.dense_recent:
        shorter = np.maximum(np.asarray(state.bank.lengths) - np.arange(3)[:, None, None], 0)
        bank = state.bank.replace(lengths=shorter.astype(np.int32), stored=shorter.astype(np.int32))
        state = state.replace(bank=bank)
    return model, params, state, given


def test_the_same_chunk_step(case):
    model, params, state, given = case
    step = jax.jit(lambda p, s, g: steps.chunk_step(p, model, s, g)[:2])
    after, latents = step(params, state, given)
    work = chunk_work(model, state, given)
    assert work.context.lengths.min() > 0
    theirs, kept = ChunkStep(network(model, params, "cpu", torch.float32), work)()
    assert size(latents) > 0.5
    assert difference(theirs.numpy(), latents) < 2e-4 * size(latents)
    slot = int(np.argmax(np.asarray(after.bank.chunk_id[0]) == int(given.chunk_id)))
    for layer, (keys, values) in enumerate(kept):
        stored = int(after.bank.stored[layer, 0, slot])
        rows = after.bank.positions[layer, 0, slot, :stored]
        grid = ChunkGrid.of(model)
        all_rows = {tuple(p): i for i, p in enumerate(grid.positions(grid.latents_per_chunk))}
        index = [all_rows[tuple(p)] for p in np.asarray(rows)]
        for ours, made in ((after.bank.keys, keys), (after.bank.values, values)):
            made = made[0].transpose(0, 1)[index].numpy()
            want = np.asarray(ours[layer, 0, slot, :stored])
            assert difference(made, want) < 2e-4 * size(want)


def test_the_context_is_felt(case):
    model, params, state, given = case
    work = chunk_work(model, state, given)
    net = network(model, params, "cpu", torch.float32)
    latents = ChunkStep(net, work)()[0].numpy()
    other = dataclasses.replace(work.context, values=-work.context.values)
    assert difference(ChunkStep(net, dataclasses.replace(work, context=other))()[0], latents) > 1e-2


def test_the_network_is_that_of_diffusers():
    model = dataclasses.replace(PLAIN, dit=dataclasses.replace(PLAIN.dit, dim=24, num_heads=2))
    theirs = builders.transformer(
        heads=2, head_dim=12, layers=3, ffn_dim=80, freq_dim=16, channels=16, text_dim=16
    )
    net = network(model, random_params(model, "dit"), "cpu", torch.float32)
    net.load_state_dict(_to_wan_names(model, theirs.state_dict()))
    latents = recipe.uniform("latents", (2, 4, 6, 16))
    text = torch.from_numpy(recipe.uniform("text", (1, 9, 16)))
    grid = ChunkGrid.of(model)
    work_angles = _angles(grid.positions(2), model)
    rope = (work_angles.cos(), work_angles.sin())
    ours = net(torch.from_numpy(latents), 0.5, text, rope, None)
    want = theirs(builders.to_torch(latents[None]), torch.tensor([500.0]), text).sample
    assert difference(ours.detach(), builders.to_numpy(want)[0]) < 5e-5


def _angles(positions, model):
    from bvjax.nets.rope import angles

    return torch.from_numpy(
        np.array(angles(np.asarray(positions), model.dit.head_dim, model.dit.rope_theta))
    )


def _to_wan_names(model, state):
    """diffusers' tensors under the original names, by way of both tables."""
    from bvjax.conversion import formats

    there = {s.name: s.external_name for s in formats.specs(model, "dit", "diffusers")}
    return {s.external_name: state[there[s.name]] for s in formats.specs(model, "dit", "wan")}
