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
from bvjax.losses.block_forcing import BlockForcingConfig
from bvjax.losses.clip import make_clip
from bvjax.losses.history import HistoryConfig, draw_history, draw_kinds
from bvjax.losses.teacher_forcing import ForcingConfig, TeacherForcing
from bvjax.memory import rules
from bvjax.memory.rules import RULES, Candidates, Rule, check_generation, number_of, rule_of, score
from bvjax.memory.similarity import cosine
from bvjax.nets import dit
from bvjax.overrides import from_dict
from bvjax.stages import memory_warning
from bvjax.train.one_model import make_train_step
from bvjax.train.state import init_state
from experiments.configs import mini_dit
from experiments.evaluation import memory, minutes
from experiments.stages import check_retrieval

CHUNKS = 6
LEGAL = r"retrieval\.kind is 'best'; it can be semantic, rolling, oracle, random, none"


def unlike(of: Candidates, config: RetrievalConfig) -> jax.Array:
    """The less the caption is like the target's and the brighter the latents, the better."""
    likeness = cosine(of.target_caption[..., None, :], of.captions)
    return 10.0 * of.latents.mean((-4, -3, -2, -1)) - likeness


@pytest.fixture
def new(monkeypatch):
    """The name of a rule that a row has just added."""
    monkeypatch.setitem(RULES, "unlike", Rule(unlike, share=0.3, needs=("caption", "latents")))
    return "unlike"


def with_rule(model, kind: str):
    return dataclasses.replace(model, retrieval=dataclasses.replace(model.retrieval, kind=kind))


@pytest.fixture(scope="module")
def model(tiny):
    """One layer, one step and no guidance, to compile fast."""
    return tiny.variant(
        text={"dim": 8, "max_length": 3},
        dit={"num_layers": 1},
        guidance={"scale": 1.0},
        sampler={"kind": "euler", "steps": 1},
    )


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


def by_hand(story, chunks, recent: int, best=max, bright: float = 10.0) -> list[int]:
    """By a loop: for chunk 1, 2, ... the earlier one that `unlike` scores best, -1: none."""
    captions = np.asarray(story["embedding"][0], np.float64)
    captions /= np.linalg.norm(captions, axis=-1, keepdims=True)
    bright = bright * np.asarray(chunks, np.float64).mean((1, 2, 3, 4))
    found = []
    for target in range(1, CHUNKS + 1):
        old = range(1, target - recent)
        scores = {c: bright[c - 1] - captions[c - 1] @ captions[target - 1] for c in old}
        found.append(best(old, key=scores.get) if scores else -1)
    return found


ROLLING = [-1, -1, -1, 1, 2, 3]


@pytest.fixture(scope="module")
def params(model):
    return dit.init_params(model.dit, model.text.dim, jax.random.key(0))


def test_a_row_is_all_that_generation_needs(new, model, params, story):
    model, recent = with_rule(model, new), model.retrieval.num_recent
    check_model(model)
    conditions = Conditions(
        text=story["text"][0],
        embedding=story["embedding"][0],
        null_text=jnp.zeros_like(story["text"][0, :1]),
    )
    made = rollout(params, model, conditions, jax.random.key(0))
    want = by_hand(story, made.latents, recent)
    others = [by_hand(story, made.latents, recent, min, bright) for bright in (0.0, 10.0)]
    assert want not in (*others, ROLLING)  # what other rules would choose
    assert np.where(made.report.valid, made.report.chunk_id, -1)[:, 1].tolist() == want


def training_loss(model, kind):
    """The loss whose targets all have that rule, as a step of training takes it."""
    shown = BlockForcingConfig(cond_source="shown")  # x_cond draws no history of its own
    forcing = ForcingConfig(history=HistoryConfig({kind: 1}), targets_per_chunk=1, block=shown)
    null = np.zeros((model.text.max_length, model.text.dim), np.float32)
    teacher = TeacherForcing(with_rule(model, kind), forcing, null)
    return lambda params, batch, key: teacher.loss(params, make_clip(batch, teacher.grid), key)


def test_a_row_is_all_that_training_needs(new, model, params, story, monkeypatch):
    drawn = []

    def noted(*args, **options):
        history = draw_history(*args, **options)
        jax.debug.callback(lambda *h: drawn.append(h), history.index, history.valid)
        return history

    monkeypatch.setattr(teacher_forcing, "draw_history", noted)
    loss, metrics = jax.jit(training_loss(model, new))(params, story, jax.random.key(1))
    jax.effects_barrier()
    ((index, valid),) = drawn
    chunks, recent = (
        story["latents"][0, 1:].reshape(CHUNKS, 2, 4, 4, 16),
        model.retrieval.num_recent,
    )
    want = by_hand(story, chunks, recent)
    assert want not in (by_hand(story, chunks, recent, bright=0.0), ROLLING)
    assert np.where(valid, index + 1, -1)[0, :, 0].tolist() == want
    assert np.isfinite(float(loss))
    np.testing.assert_allclose(metrics[f"flow_{new}"], metrics["flow"], rtol=1e-5)


@pytest.mark.slow
def test_a_new_rule_trains(new, model, params, story):
    optimizer = optax.sgd(0.1)
    step = jax.jit(make_train_step(training_loss(model, new), optimizer, lambda step: 0.1))
    state = init_state(lambda key: params, optimizer, seed=1)
    after, metrics = step(state, story)
    assert np.isfinite(float(metrics["loss"])) and float(metrics["grad_norm"]) > 0
    changed = jax.tree.map(lambda a, b: (np.asarray(a) != b).any(), after.params, params)
    assert any(jax.tree.leaves(changed))


def test_a_new_rule_is_drawn_and_measured_without_being_asked_for(new, tiny):
    for history in (
        HistoryConfig(),
        ForcingConfig().history,
        from_dict(HistoryConfig, {"semantic": 0.2}),
        mini_dit.experiment().history,
    ):
        assert history.weights[new] == 0.3
        kinds = np.asarray(draw_kinds(jax.random.key(0), history, (2000,)))
        share = (kinds == number_of(new)).mean()
        assert abs(share - 0.3 / sum(history.weights.values())) < 0.03
    assert from_dict(HistoryConfig, {new: 0}).weights[new] == 0
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
        from_dict(HistoryConfig, {"randon": 1.0}, "history.")
    with pytest.raises(UserError, match="history.random must be a number, not 'often'"):
        from_dict(HistoryConfig, {"random": "often"}, "history.")


def test_rules_are_given_what_their_row_says_and_nothing_else(monkeypatch):
    seen = []

    def notes(of, config):
        seen.append(of)
        return of.chunk_id

    everything = Candidates(
        target=jnp.ones(1, int),
        chunk_id=jnp.ones((1, 3), int),
        valid=jnp.ones((1, 3), bool),
        target_caption=jnp.ones((1, 4)),
        captions=jnp.ones((1, 3, 4)),
        key=jax.random.key(0),
        oracle=jnp.zeros((1, 3)),
        latents=jnp.zeros((1, 3, 2, 1, 1, 1)),
    )
    for need, (fields, words) in rules.NEEDS.items():
        monkeypatch.setitem(RULES, "notes", Rule(notes, share=0.0, needs=(need,)))
        score("notes", everything, RetrievalConfig())
        given = {name for name, value in vars(seen.pop()).items() if value is not None}
        assert given == {"target", "chunk_id", "valid", *fields}
        with pytest.raises(ValueError, match=f"retrieval.kind='notes' needs {words}"):
            score("notes", everything.replace(**{fields[-1]: None}), RetrievalConfig())


def test_a_rule_that_looks_at_latents_is_not_of_a_memory_that_is_planned(new, model):
    host = dataclasses.replace(model, memory=dataclasses.replace(model.memory, offload="host"))
    check_model(host)
    with pytest.raises(
        UserError, match="retrieval.kind 'unlike' looks at latents, and memory.offload"
    ):
        check_model(with_rule(host, new))


def test_rules_that_look_at_the_truth_are_of_evaluations_only():
    check_generation("semantic")
    with pytest.raises(UserError, match="'oracle' needs scores that only an evaluation has"):
        check_generation("oracle")


def test_training_says_when_it_never_draws_what_generation_will_use(caplog):
    check_retrieval("rolling", HistoryConfig(), 2)
    check_retrieval("rolling", HistoryConfig({"semantic": 1}), 0)  # single latents only
    check_retrieval("rolling", HistoryConfig({"none": 1}), 2)
    assert not caplog.records
    check_retrieval("rolling", HistoryConfig({"semantic": 1, "none": 1}), 2)
    assert caplog.messages[0].startswith("history.rolling is 0, but it is the retrieval.kind")
    with pytest.raises(UserError, match="'oracle' needs scores"):
        check_retrieval("oracle", HistoryConfig(), 2)
