"""A chunk made on the accelerator is the one made on the CPU, within the rounding of its dtype."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.generate import steps
from experiments.benchmarks import inputs
from experiments.benchmarks.models import random_params, sized

# Head width 128 and lengths that are no multiples of blocks; guided, with retrieval.
OVERRIDES = (
    "dit.dim=256", "dit.num_heads=2", "dit.num_layers=2", "dit.ffn_dim=512", "text.dim=64",
    "text.max_length=40", "chunk.height=96", "chunk.width=160", "chunk.frames=8", "memory.slots=6",
    "memory.capacity=90", "sampler.steps=2", "sampler.kind=euler",
)  # fmt: skip


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-3), ("bfloat16", 6e-2)])
def test_as_on_the_cpu(cpu, dtype, tolerance):
    model = sized("wan-1.3b", (*OVERRIDES, f"dit.dtype={dtype}"))
    exact = dataclasses.replace(model, dit=dataclasses.replace(model.dit, dtype="float32"))
    params = random_params(exact, "dit")
    given, state = inputs.chunk_input(model, 7), inputs.full_state(model, 7)

    def make(model, device):
        with jax.default_device(device):
            put = lambda tree: jax.device_put(tree, device)
            empty = put(jax.tree.map(lambda x: x.astype(_stored(x, model)), state))
            step = jax.jit(lambda p, s, g: steps.chunk_step(p, model, s, g)[:2])
            after, latents = step(put(params), empty, put(given))
        return np.asarray(latents), np.asarray(after.bank.lengths)

    accelerator = jax.devices()[0]
    with jax.default_matmul_precision("highest"):
        ours, kept = make(model, accelerator)
        theirs, kept_there = make(exact, cpu)
    assert np.isfinite(ours).all()
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()
    assert np.abs(kept - kept_there).max() <= (0 if dtype == "float32" else 3)


def _stored(x, model):
    floating = jnp.issubdtype(x.dtype, jnp.floating) and x.ndim > 4
    return model.dit.dtype if floating else x.dtype
