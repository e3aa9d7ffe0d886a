"""Queries that choose the entries they look at, against the equation in NumPy, and in generation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax import policies
from bvjax.errors import UserError
from bvjax.generate.checks import check_model
from bvjax.generate.rollout import stream
from bvjax.losses.forward import TeacherForward
from bvjax.nets.attend import AttendedRows
from bvjax.nets.routing import Route, chosen_entries, routed_attention
from bvjax.policies import configure
from tests.bvjax.policies.test_policies import stories
from tests.support import few_step
from tests.support.random_params import random_dit

RNG = np.random.default_rng(0)
ROUTE = Route(top=2, entries=4, block=3)
OWNER = np.array([0, 0, 1, 1, 1, 3, 3, 4, 4])  # entry 2 has no rows, two rows are of no entry


def arrays(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def expected(q, own, context, top):
    """Block by block and head by head, in float64."""
    tokens, heads, width = q.shape
    out = np.zeros((tokens, heads, width))
    for head in range(heads):
        for first in range(0, tokens, ROUTE.block):
            block = slice(first, first + ROUTE.block)
            queries = np.asarray(q[block, head], np.float64)
            keys, values = (np.asarray(x[:, head], np.float64) for x in context)
            scores = {e: queries.mean(0) @ keys[OWNER == e].mean(0) for e in (0, 1, 3)}
            chosen = sorted(scores, key=scores.get)[-top:]
            rows = np.isin(OWNER, chosen)
            keys = np.concatenate([own[0][:, head], keys[rows]])
            values = np.concatenate([own[1][:, head], values[rows]])
            logits = queries @ keys.T / np.sqrt(width)
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            out[block, head] = weights / weights.sum(-1, keepdims=True) @ values
    return out


@pytest.mark.parametrize("top", [1, 2])
def test_each_block_and_head_chooses(top):
    q, keys, values, own_keys, own_values = (arrays(1, 1, n, 2, 4) for n in (6, 9, 9, 6, 6))
    route = dataclasses.replace(ROUTE, top=top)
    owner = jnp.asarray(OWNER)[None, None]
    chosen = chosen_entries(route, q, keys, owner)
    assert chosen.shape == (1, 1, 2, 2, 4) and (chosen.sum(-1) == top).all()
    assert (
        not chosen[..., 2].any()
        and len({tuple(row) for row in np.asarray(chosen).reshape(4, 4)}) > 1
    )
    own, context = AttendedRows(own_keys, own_values), AttendedRows(keys, values)
    got = routed_attention(route, q, own, context, owner)
    want = expected(q[0, 0], (own_keys[0, 0], own_values[0, 0]), (keys[0, 0], values[0, 0]), top)
    np.testing.assert_allclose(got[0, 0], want, atol=1e-5)


def test_moc_is_full_history_when_all_are_chosen():
    dit = dataclasses.replace(few_step.MODEL.dit, num_layers=2)
    base = dataclasses.replace(few_step.MODEL, dit=dit)
    params, conditions, key = random_dit(base, 1), stories(base, 4), jax.random.key(1)
    full = configure(base, ["policy.name=full", "policy.window=3"])
    past = {i: RNG.normal(size=(1, 4, 4, 16)).astype(np.float32) for i in range(4)}
    made = {}
    for top in (1, 9):
        model = configure(base, ["policy.name=moc", "policy.window=3", f"policy.top={top}"])
        check_model(model, 4)
        made[top] = list(stream(params, model, conditions, key, done=past))[-1].latents
    plain = list(stream(params, full, conditions, key, done=past))[-1].latents
    np.testing.assert_allclose(made[9], plain, atol=1e-5)
    assert np.abs(made[1] - plain).max() > 1e-4
    assert policies.without(full).retrieval.route == 0


def test_refusals():
    with pytest.raises(UserError, match="retrieval.route is 2; it is of generation"):
        TeacherForward(
            dataclasses.replace(
                few_step.MODEL, retrieval=dataclasses.replace(few_step.MODEL.retrieval, route=2)
            )
        )
    model = configure(few_step.MODEL, ["policy.name=moc", "retrieval.route=7"])
    with pytest.raises(UserError, match="policy.top is 3 and retrieval.route 7"):
        check_model(model)
    with pytest.raises(UserError, match="policy moc is made on one device, and the mesh has 2"):
        policies.check_layout(configure(few_step.MODEL, ["policy.name=moc"]), 2)
