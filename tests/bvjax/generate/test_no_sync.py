"""Between the beginning of a chunk and its latents nothing waits for the host."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from bvjax.denoiser.types import init_state
from bvjax.generate import rollout, steps
from bvjax.generate.conditions import Conditions

pytestmark = pytest.mark.slow


def conditions(model, count):
    rng = np.random.default_rng(0)
    text = rng.standard_normal((count + 1, model.text.max_length, model.text.dim), np.float32)
    return Conditions(text=text[:-1], embedding=text[:-1].mean(1), null_text=text[-1:])


@pytest.mark.parametrize("layout", ["model", "joined"])
def test_no_hidden_transfers(tiny, layout, monkeypatch):
    """What a chunk is given is handed over once; the steps and what is between them move nothing.

    A scalar that the host computes from a result, or sends into a program, is such a transfer; a
    Python number put into an eager operation as well.
    """
    model, params = getattr(tiny, layout), jax.device_put(tiny.params["dit"])
    key, count = jax.random.key(0), 3
    given, written = steps.chunk_input, steps.entry_inputs
    monkeypatch.setattr(steps, "chunk_input", lambda *args: jax.device_put(given(*args)))
    monkeypatch.setattr(steps, "entry_inputs", lambda *args: jax.device_put(written(*args)))
    want = [p.latents for p in rollout.stream(params, model, conditions(model, count), key)]
    with jax.transfer_guard("disallow"):
        with pytest.raises(Exception, match="Disallowed"):
            jax.jit(lambda x: x + 1)(np.ones(3))
        made = [p.latents for p in rollout.stream(params, model, conditions(model, count), key)]
    assert len(made) == len(want)
    for a, b in zip(made, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_calls_of_the_host(tiny):
    """The programs of a chunk have no callbacks in them."""
    model, key = tiny.model, jax.random.key(0)
    given = steps.chunk_input(conditions(model, 1), key, None, 0, 1)
    state = init_state(model)
    step = jax.make_jaxpr(lambda p, s, g: steps.chunk_step(p, model, s, g))
    assert "callback" not in str(step(tiny.params["dit"], state, given))
