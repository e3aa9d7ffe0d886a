"""The table of retrieval rules: what each may read, what is refused, and what a new row takes."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bvjax.config import RetrievalConfig
from bvjax.errors import UserError
from bvjax.generate.checks import check_model
from bvjax.generate.conditions import Conditions
from bvjax.generate.rollout import rollout
from bvjax.losses import teacher_forcing
from bvjax.losses.history import HistoryConfig, draw_history, draw_kinds, read_history
from bvjax.losses.teacher_forcing import ForcingConfig, TeacherForcing, make_clip
from bvjax.memory import rules
from bvjax.memory.rules import RULES, Candidates, Rule, check_generation, number_of, rule_of, score
from bvjax.memory.similarity import cosine
from bvjax.nets import dit
from bvjax.stages import memory_warning
from bvjax.train.state import init_state
from bvjax.train.step import make_train_step
from experiments.configs import mini_dit
from experiments.evaluation import memory, minutes

CHUNKS = 6
LEGAL = r"retrieval\.kind is 'best'; it can be semantic, rolling, oracle, random, none"


def unlike(of: Candidates, config: RetrievalConfig) -> jax.Array:
    """The less the caption is like the target's, the better."""
    return -cosine(of.target_caption[..., None, :], of.captions)


@pytest.fixture
def new(monkeypatch):
    """The name of a rule that a row has just added."""
    monkeypatch.setitem(RULES, "unlike", Rule(unlike, share=0.3, needs=("caption",)))
    return "unlike"


def with_rule(model, kind: str):
    return dataclasses.replace(model, retrieval=dataclasses.replace(model.retrieval, kind=kind))


@pytest.fixture(scope="module")
def model(tiny):
    """One layer, one step and no guidance, to compile fast."""
    return tiny.variant(
        text={"dim": 8, "max_length": 3}, dit={"num_layers": 1}, cfg={"scale": 1.0},
        sampler={"kind": "euler", "steps": 1},
    )  # fmt: skip


@pytest.fixture(scope="module")
def story(model):
    """One encoded video as training reads it."""
    text, rng = model.text, np.random.default_rng(3)
    arrays = {
        "latents": rng.normal(size=(1, 1 + 2 * CHUNKS, 4, 4, 16)),
        "text": rng.normal(size=(1, CHUNKS, text.max_length, text.dim)),
        "embedding": rng.normal(size=(1, CHUNKS, text.dim)),
        "relevance": rng.uniform(size=(1, CHUNKS, CHUNKS)),
    }
    return {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}


def by_likeness(story, recent: int, best) -> list[int]:
    """By a loop: for chunk 1, 2, ... the earlier one with the `best` likeness of captions, -1: none."""
    captions = np.asarray(story["embedding"][0], np.float64)
    captions /= np.linalg.norm(captions, axis=-1, keepdims=True)
    found = []
    for target in range(1, CHUNKS + 1):
        old = range(1, target - recent)
        like = {c: captions[c - 1] @ captions[target - 1] for c in old}
        found.append(best(old, key=like.get) if like else -1)
    return found


def test_a_row_is_all_that_generation_and_training_need(new, model, story, monkeypatch):
    model = with_rule(model, new)
    params = dit.init_params(model.dit, model.text.dim, jax.random.key(0))
    want, alike = (by_likeness(story, model.retrieval.recent, best) for best in (min, max))
    assert want not in (alike, [-1, -1, -1, 1, 2, 3])  # what other rules would choose
    check_model(model)

    # ---- a video
    conditions = Conditions(
        text=story["text"][0], embedding=story["embedding"][0],
        null_text=jnp.zeros_like(story["text"][0, :1]),
    )  # fmt: skip
    report = rollout(params, model, conditions, jax.random.key(0)).report
    assert np.where(report.valid, report.chunk_id, -1)[:, 1].tolist() == want

    # ---- a step of training
    drawn = []

    def noted(*args):
        history = draw_history(*args)
        jax.debug.callback(lambda *h: drawn.append(h), history.index, history.valid)
        return history

    monkeypatch.setattr(teacher_forcing, "draw_history", noted)
    forcing = ForcingConfig(history=HistoryConfig({new: 1}), rounds=1)
    teacher = TeacherForcing(model, forcing, np.zeros(story["text"].shape[2:], np.float32))
    optimizer = optax.sgd(0.1)
    loss = lambda params, batch, key: teacher.loss(params, make_clip(batch, teacher.grid), key)
    step = make_train_step(loss, optimizer, lambda step: 0.1, donate=False)
    state = init_state(lambda key: params, optimizer, seed=1)
    after, metrics = step(state, story)
    jax.effects_barrier()
    ((index, valid),) = drawn
    assert np.where(valid, index + 1, -1)[0, :, 0].tolist() == want
    assert np.isfinite(float(metrics["loss"]))
    np.testing.assert_allclose(metrics[f"flow_{new}"], metrics["flow"], rtol=1e-5)
    assert any(
        (np.asarray(a) != np.asarray(b)).any()
        for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(params), strict=True)
    )


def test_a_new_rule_is_drawn_and_measured_without_being_asked_for(new, tiny):
    for history in (
        HistoryConfig(), ForcingConfig().history, read_history({"semantic": 0.2}),
        read_history(mini_dit.get_config().history.to_dict()),
    ):  # fmt: skip
        assert history.weights[new] == 0.3
        kinds = np.asarray(draw_kinds(jax.random.key(0), history, (2000,)))
        share = (kinds == number_of(new)).mean()
        assert abs(share - 0.3 / sum(history.weights.values())) < 0.03
    assert read_history({new: 0}).weights[new] == 0
    assert memory.arms_of(RULES)[f"{new}, no anchor"] == memory.Arm(new, False)
    assert minutes.arms_of(RULES)[new](tiny.model) == with_rule(tiny.model, new)


def test_unknown_rules_are_refused_everywhere_with_one_sentence(tiny):
    model = with_rule(tiny.model, "best")
    null = np.zeros((model.text.max_length, model.text.dim), np.float32)
    candidates = Candidates(jnp.ones(1, int), jnp.ones((1, 2), int), jnp.ones((1, 2), bool))
    for refuse in (
        lambda: rule_of("best"),
        lambda: number_of("best"),
        lambda: check_generation("best"),
        lambda: score("best", candidates, model.retrieval),
        lambda: check_model(model),
        lambda: memory_warning("pretrained", model),
        lambda: HistoryConfig({"semantic": 1, "best": 1}),
        lambda: TeacherForcing(model, ForcingConfig(), null),
    ):
        with pytest.raises(UserError, match=LEGAL):
            refuse()
    with pytest.raises(UserError, match="no configuration key 'history.randon'.*history.random"):
        read_history({"randon": 1.0})
    with pytest.raises(UserError, match="history.random must be a number, not 'often'"):
        read_history({"random": "often"})


def test_rules_are_given_what_their_row_says_and_nothing_else(monkeypatch):
    seen = []

    def notes(of, config):
        seen.append(of)
        return of.chunk_id

    everything = Candidates(
        target=jnp.ones(1, int), chunk_id=jnp.ones((1, 3), int), valid=jnp.ones((1, 3), bool),
        target_caption=jnp.ones((1, 4)), captions=jnp.ones((1, 3, 4)), key=jax.random.key(0),
        oracle=jnp.zeros((1, 3)),
    )  # fmt: skip
    for need, (fields, words) in rules.NEEDS.items():
        monkeypatch.setitem(RULES, "notes", Rule(notes, share=0.0, needs=(need,)))
        score("notes", everything, RetrievalConfig())
        given = {name for name, value in vars(seen.pop()).items() if value is not None}
        assert given == {"target", "chunk_id", "valid", *fields}
        with pytest.raises(ValueError, match=f"retrieval.kind='notes' needs {words}"):
            score("notes", everything.replace(**{fields[-1]: None}), RetrievalConfig())


def test_rules_that_look_at_the_truth_are_of_evaluations_only():
    check_generation("semantic")
    with pytest.raises(UserError, match="'oracle' needs scores that only an evaluation has"):
        check_generation("oracle")
