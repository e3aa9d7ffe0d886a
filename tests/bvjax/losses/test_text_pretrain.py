"""The three terms and the retrieval metrics of text pre-training."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bvjax.config import TextConfig
from bvjax.losses import text_pretrain as tp
from bvjax.nets import text

TINY = TextConfig(
    vocab_size=40, dim=16, num_layers=1, num_heads=2, head_dim=8, ffn_dim=32, max_length=10
)
CFG = tp.TextPretrainConfig(
    TINY,
    num_labels=7,
    mask_id=3,
    first_piece=4,
    mlm_weight=0.5,
    label_weight=1.0,
    similarity_weight=2.0,
)
STORIES, CAPTIONS, LENGTH, NAMES = 3, 8, 10, 5


@pytest.fixture(scope="module")
def batch():
    """Token 4+n is name n, 10+t is toponym t; labels are the names and the toponyms."""
    rng = np.random.default_rng(0)
    shape = (STORIES, CAPTIONS)
    names = (rng.random((*shape, NAMES)) < 0.35).astype(np.float32)
    toponym = rng.integers(2, size=shape)
    ids = np.zeros((*shape, LENGTH), np.int32)
    mask = np.zeros(ids.shape, bool)
    for i in np.ndindex(*shape):
        said = [4 + n for n in np.flatnonzero(names[i])] + [10 + toponym[i]]
        said = [*rng.permutation([*said, *rng.integers(20, 40, 2)]), 1]
        ids[i][: len(said)], mask[i][: len(said)] = said, True
    toponyms = np.eye(2, dtype=np.float32)[toponym]
    labels = np.concatenate([names, toponyms], axis=-1)
    return dict(ids=ids, mask=mask, labels=labels, name_labels=names, toponym_labels=toponyms)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda key: tp.init_params(CFG, key))(jax.random.key(0))


@pytest.fixture(scope="module")
def grad_fn():
    """(params, batch, key) -> ((loss, metrics), gradients): compiled once for the whole file."""

    def loss_fn(params, batch, key):
        return tp.text_pretrain_loss(params, CFG, batch, key)

    return jax.jit(jax.value_and_grad(loss_fn, has_aux=True))


def test_corrupt_touches_the_stated_share_of_text_only():
    config = dataclasses.replace(CFG, corrupt=0.3, random_share=0.25)
    ids = np.random.default_rng(0).integers(4, 40, (200, 50)).astype(np.int32)
    ids[:, 30:] = [1] + [0] * 19  # end of sentence and pads
    ids[:, 5] = 2
    mask = np.arange(50) < 31
    new, chosen = tp.corrupt(ids, np.broadcast_to(mask, ids.shape), config, jax.random.key(0))
    new, chosen = np.asarray(new), np.asarray(chosen)
    assert not chosen[:, 30:].any() and not chosen[:, 5].any()
    np.testing.assert_array_equal(new[~chosen], ids[~chosen])
    text_share = chosen[:, np.r_[:5, 6:30]].mean()
    assert abs(text_share - 0.3) < 0.03
    masked = new[chosen] == 3
    assert abs(masked.mean() - 0.75) < 0.04
    replaced = new[chosen][~masked]
    assert replaced.min() >= 4 and replaced.max() < 40 and len(set(replaced)) > 25


def test_corrupt_leaves_masked_positions():
    ids, none = np.full((4, 9), 8, np.int32), np.zeros((4, 9), bool)
    new, chosen = tp.corrupt(ids, none, CFG, jax.random.key(0))
    np.testing.assert_array_equal(new, ids)
    assert not np.asarray(chosen).any()


def test_target_similarity_by_hand():
    config = dataclasses.replace(CFG, name_weight=0.8, toponym_weight=0.2)
    names = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0]], np.float32)
    toponyms = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [1, 0], [0, 0]], np.float32)
    target = np.asarray(tp.target_similarity(names, toponyms, config))
    half, alone = 0.5**0.5, 0.2**0.5
    expected = [
        [1.0, 0.8 * half + 0.2, 0.2, 0.8, alone, 0],
        [0, 1.0, 0.2, 0.8 * half, alone, 0],
        [0, 0, 1.0, 0, alone, 0],
        [0, 0, 0, 1.0, 0, 0],
        [0, 0, 0, 0, 1.0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    np.testing.assert_allclose(target, np.triu(expected) + np.triu(expected, 1).T, atol=1e-6)


def rates_by_loop(similarity, story, things, recent=2, top=2):
    """(hit rate, return rate) in the words of the docstring."""
    hits, returns = [], []
    for i in range(len(story)):
        before = [j for j in range(i) if story[j] == story[i]]
        recents = [j for j in before if i - j <= recent]
        candidates = [j for j in before if i - j > recent]
        best = sorted(candidates, key=lambda j: -similarity[i, j])[:top]
        mine = set(np.flatnonzero(things[i]))

        def of(rows):
            return {thing for row in rows for thing in np.flatnonzero(things[row])}

        if mine & of(candidates):
            hits.append(bool(mine & of(best)))
        away = (mine & of(candidates)) - of(recents)
        if away:
            returns.append(away <= of(best))
    return np.mean(hits), np.mean(returns)


@pytest.mark.parametrize("seed", range(4))
def test_hit_rates_equal_the_loop(seed):
    rng = np.random.default_rng(seed)
    story = np.repeat([4, 0, 9], [15, 9, 15])
    things = (rng.random((39, 6)) < 0.25).astype(np.float32)
    similarity = rng.normal(size=(39, 39)).astype(np.float32)
    expected = rates_by_loop(similarity, story, things)
    got = tp.hit_rates(jnp.asarray(similarity), jnp.asarray(story), jnp.asarray(things))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert 0 < expected[1] < expected[0] < 1  # neither trivially right nor wrong


def test_hit_rates_without_cases_are_zero():
    rates = tp.hit_rates(jnp.ones((4, 4)), jnp.zeros(4, jnp.int32), jnp.zeros((4, 3)))
    assert [float(r) for r in rates] == [0, 0]


def test_loss_is_the_weighted_sum_of_its_terms(params, batch, grad_fn):
    key = jax.random.key(1)
    (loss, metrics), _ = grad_fn(params, batch, key)
    encoder = text.UMT5Encoder(TINY)
    encode = jax.jit(lambda *args: encoder.apply({"params": params["encoder"]}, *args))
    flat = {name: x.reshape(-1, x.shape[-1]) for name, x in batch.items()}
    states = encode(flat["ids"], flat["mask"])
    mean = np.asarray(text.mean_embedding(states, flat["mask"]), np.float64)

    heads = jax.tree.map(np.asarray, params["heads"])
    logits = mean @ heads["label_kernel"] + heads["label_bias"]
    truth = flat["labels"]
    bce = np.log1p(np.exp(-np.abs(logits))) + np.maximum(logits, 0) - logits * truth
    assert float(metrics["label"]) == pytest.approx(bce.sum(axis=1).mean(), rel=1e-4)

    unit = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    target = tp.target_similarity(flat["name_labels"], flat["toponym_labels"], CFG)
    error = (unit @ unit.T - np.asarray(target)) ** 2
    inside, across = [], []
    for i, j in np.ndindex(*error.shape):
        if i != j:
            (inside if i // CAPTIONS == j // CAPTIONS else across).append(error[i, j])
    expected = (np.mean(inside) + np.mean(across)) / 2
    assert float(metrics["similarity"]) == pytest.approx(expected, rel=1e-4)

    new, chosen = tp.corrupt(flat["ids"], flat["mask"], CFG, key)
    hidden = encode(new, flat["mask"])
    table = params["encoder"]["token_embedding"]["embedding"]
    logits = np.asarray(hidden @ table.T / 4.0 + heads["token_bias"])
    surprise = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(
        logits, flat["ids"][..., None], axis=-1
    ).squeeze(-1)
    assert float(metrics["mlm"]) == pytest.approx(surprise[np.asarray(chosen)].mean(), rel=1e-4)

    total = 0.5 * metrics["mlm"] + metrics["label"] + 2 * metrics["similarity"]
    assert float(loss) == pytest.approx(float(total), rel=1e-5)


def test_every_parameter_gets_a_gradient(params, batch, grad_fn):
    _, grads = grad_fn(params, batch, jax.random.key(2))
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all() and np.abs(grad).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.slow
def test_training_learns_to_retrieve(params, batch, grad_fn):
    optimizer = optax.adam(1e-2)

    @jax.jit
    def update(params, state, grads):
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    state, history = optimizer.init(params), []
    for i in range(60):
        (_, metrics), grads = grad_fn(params, batch, jax.random.key(i))
        params, state = update(params, state, grads)
        history.append(jax.device_get(metrics))
    assert history[-1]["similarity"] < 0.4 * history[0]["similarity"]
    assert history[-1]["label"] < 0.5 * history[0]["label"]
    assert history[-1]["mlm"] < history[0]["mlm"]
    assert history[-1]["label_f1"] > 0.9
    assert history[-1]["name_return_hit_at_2"] >= max(0.75, history[0]["name_return_hit_at_2"])
