"""Protocol (a) for real, on the tiny model with random weights, and the judge's first steps."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from bvjax.chunking import ChunkGrid
from bvjax.generate import rollout as rollouts
from bvjax.generate import steps
from bvjax.generate.conditions import Conditions
from data_pipelines.storyworld import make_story
from data_pipelines.storyworld.latents import chunk_truth, relevance_matrix
from experiments.evaluation import memory
from experiments.evaluation.cases import find_cases, shows
from experiments.evaluation.judge import HEADS, Judge, init_params, load_judge, save_judge
from experiments.evaluation.judge_data import Pictures, recast
from experiments.evaluation.judge_training import train
from experiments.evaluation.memory import ARMS
from experiments.evaluation.results import Results
from experiments.evaluation.sightings import Labels
from experiments.evaluation.under_test import SPLIT, UnderTest

# Full probing makes the kept tokens deterministic; capacity and tau still drop some.
OVERRIDES = (
    "chunk.fps=2", "text.max_length=12", "memory.slots=16", "build.probe=full", "sampler.steps=2",
)  # fmt: skip
NAMES = ("semantic", "rolling", "oracle", "none", "semantic, no anchor")


class Shrug(Judge):
    """Sees the same everywhere."""

    def logits(self, frames):
        return {head: np.eye(8)[np.full(len(frames), 3)] for head in HEADS}


class Stories(dict):
    """Random latents and text with the ground truth of real held-out stories."""

    def __init__(self, tested):
        super().__init__()
        self.tested = tested
        self.grid = ChunkGrid(tested.model.chunk, 15, tested.model.dit.patch)

    def __missing__(self, seed):
        model, rng = self.tested.model, np.random.default_rng(seed)
        seen, place = chunk_truth(make_story(seed, SPLIT), self.grid)
        text = rng.normal(size=(15, model.text.max_length, model.text.dim))
        shape = (1 + 15 * self.grid.latents_per_chunk, 4, 4, 16)
        item = {
            "latents": rng.normal(size=shape), "text": text, "embedding": text.mean(1),
            "relevance": relevance_matrix(seen, place), "seen": seen, "place": place,
        }  # fmt: skip
        self[seed] = {name: np.asarray(value, np.float32) for name, value in item.items()}
        return self[seed]


@pytest.fixture(scope="module")
def world(tiny, tmp_path_factory):
    tested = UnderTest.load(tiny.weights, OVERRIDES)
    stories, cases = Stories(tested), list(find_cases(1000, 2, tested.model))
    results = Results(tmp_path_factory.mktemp("evaluation") / "out.json")
    records = results.records("memory", {})
    arms = [ARMS[name] for name in NAMES]
    memory.measure(tested, stories, Shrug(None, {}), cases, arms, records, results, batch=2, seed=5)
    return tested, stories, cases, records, results


def test_arms_see_as_much_and_only_choose_otherwise(world):
    tested, stories, cases, records, _ = world
    l = tested.model.retrieval.l
    assert set(records) == {case.key for case in cases}
    for case in cases:
        found = records[case.key]
        assert list(found) == list(NAMES)
        for name in ("semantic", "rolling", "oracle", "semantic, no anchor"):
            entries = found[name]["entries"]
            assert entries[l:] == [case.chunk - 2, case.chunk - 1]
            assert 0 < entries[0] < case.chunk - 2
        assert found["rolling"]["entries"][:l] == [case.chunk - 3] and not found["rolling"]["hit"]
        assert set(found["none"]["entries"]) == {-1} and not found["none"]["hit"]
        item = stories[case.seed]
        wanted = shows(case, item["seen"], item["place"])
        (best,) = found["oracle"]["entries"][:l]
        assert found["oracle"]["hit"] and wanted[best - 1] == wanted[: case.chunk - 3].max()
        assert found["semantic"]["entries"] == found["semantic, no anchor"]["entries"]
        assert found["semantic"]["right"] == {h: v == 3 for h, v in case.truth.items()}


def test_a_second_run_does_nothing_and_a_new_arm_is_added(world, monkeypatch):
    tested, stories, cases, records, results = world
    assert Results(results.path).records("memory", {}) == records  # saved as they came
    ran = []
    monkeypatch.setattr(memory, "_run", lambda *args: ran.append(list(args[5])) or [])
    for names in (NAMES, (*NAMES, "random")):
        arms = [ARMS[name] for name in names]
        memory.measure(tested, stories, None, cases, arms, records, results, batch=8, seed=5)
    assert [[arm.name for arm in arms] for arms in ran] == [["random"]]


@pytest.mark.parametrize("anchor", [True, False])
def test_is_what_generation_does_after_the_same_history(world, anchor):
    """Teacher-forced in a batch, and through the bank chunk by chunk: the same return chunk."""
    tested, stories, cases, _, _ = world
    model = tested.model
    pair, items = cases[:2], [stories[case.seed] for case in cases[:2]]
    program = memory.ReturnChunks(model, tested.null_text)
    clip = memory._clip(program, items, pair, [np.zeros(15, np.float32)] * 2)
    target, seeds = (
        np.array([c.chunk for c in pair]),
        np.array([5 + c.seed for c in pair], np.uint32),
    )
    given = np.int32(0), np.bool_(anchor)  # semantic
    params = tested.params["dit"]
    bank = program.bank(params, clip, *given, seeds)
    latents, _ = program.generate(params, bank, clip, target, *given, seeds)

    case, item = pair[0], items[0]
    conditions = Conditions(item["text"], item["embedding"], tested.null_text[None])
    history = {0: item["latents"][:1]}
    for chunk in range(1, case.chunk):
        start = 1 + (chunk - 1) * 2
        history[chunk] = item["latents"][start : start + 2]
    if not anchor:
        model = dataclasses.replace(model, memory=dataclasses.replace(model.memory, anchor=False))
    key = jax.random.key(int(seeds[0]))
    state = rollouts.rebuild_bank(params, model, conditions, key, history)
    chunk = rollouts._given(conditions, key, None, case.chunk - 1, case.chunk)
    want = jax.jit(steps.denoise, static_argnames="model")(params, model, state, chunk)
    np.testing.assert_allclose(latents[0], want, rtol=2e-3, atol=2e-4)


def test_the_judge_learns_and_is_kept(tmp_path):
    """Plain colours, of which the judge must learn to tell the names."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 8, 256).astype(np.int32)
    palette = rng.integers(0, 256, (8, 1, 1, 3))
    frames = np.broadcast_to(palette[label], (256, 16, 16, 3)).astype(np.uint8)
    labels = Labels(species=np.full(256, -1, np.int32), colour=label, place=label)
    params = train(Pictures(frames, labels), 40, 32, 0, progress=lambda steps, **_: _Quiet(steps))
    path = tmp_path / "judge.safetensors"
    save_judge(path, Judge(params, {"seed": 0}))
    assert path.stat().st_size < 1.5e6
    judge = load_judge(path)
    assert judge.about == {"seed": 0}
    logits = judge.logits(frames[:130])  # more than one piece
    assert (logits["colour"].argmax(-1) == label[:130]).mean() > 0.9
    assert np.ptp(logits["species"], axis=-1).max() < 2.5  # never shown one: undecided
    count = sum(leaf.size for leaf in jax.tree.leaves(init_params(jax.random.key(0))))
    assert 100_000 < count < 300_000


class _Quiet:
    def __init__(self, steps):
        self.steps = steps

    def __iter__(self):
        return iter(self.steps)

    def set_postfix(self, **_):
        pass


def test_recasting_shows_every_pair():
    rng = np.random.default_rng(0)
    pairs = set()
    for seed in range(150):
        story = recast(make_story(seed), rng)
        pairs |= {(s.species, s.colour) for s in story.subjects}
        assert story.places == make_story(seed).places
    assert len(pairs) == 64
