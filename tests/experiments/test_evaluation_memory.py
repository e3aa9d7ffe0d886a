"""Protocol (a) for real, on the tiny model with random weights, and the judge's first steps."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from bvjax.chunking import ChunkGrid
from bvjax.denoiser.denoise import denoise_chunk
from bvjax.generate import rollout as rollouts
from bvjax.generate import steps
from bvjax.generate.conditions import Conditions
from bvjax.overrides import apply_overrides
from data_pipelines.storyworld import make_story
from data_pipelines.storyworld.latents import chunk_truth, relevance_matrix
from experiments.evaluation import memory
from experiments.evaluation.cases import find_cases, shows
from experiments.evaluation.judge import (
    HEADS,
    Judge,
    init_params,
    load_judge,
    save_judge,
    to_float,
)
from experiments.evaluation.judge_data import recast
from experiments.evaluation.judge_training import judge_loss
from experiments.evaluation.memory import ARMS
from experiments.evaluation.results import Results
from experiments.evaluation.sightings import EMPTY, UNSURE
from experiments.evaluation.under_test import SPLIT, UnderTest

# Full probing makes the kept tokens deterministic; capacity and tau still drop some.
OVERRIDES = (
    "chunk.fps=2",
    "text.max_length=12",
    "memory.slots=16",
    "build.probe=full",
    "sampler.steps=2",
)
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
        self.grid = ChunkGrid.of(tested.model, 15)

    def __missing__(self, seed):
        model, rng = self.tested.model, np.random.default_rng(seed)
        seen, place = chunk_truth(make_story(seed, SPLIT), self.grid)
        text = rng.normal(size=(15, model.text.max_length, model.text.dim))
        shape = (1 + 15 * self.grid.latents_per_chunk, 4, 4, 16)
        item = {
            "latents": rng.normal(size=shape),
            "text": text,
            "embedding": text.mean(1),
            "relevance": relevance_matrix(seen, place),
            "seen": seen,
            "place": place,
        }
        self[seed] = {name: np.asarray(value, np.float32) for name, value in item.items()}
        return self[seed]


@pytest.fixture(scope="module")
def world(tiny, tmp_path_factory):
    """Two cases under some arms; decoding, tested elsewhere, is left out."""
    tested = UnderTest.load(tiny.weights, OVERRIDES)
    text = tested.model.text
    null = np.random.default_rng(9).normal(size=(text.max_length, text.dim)).astype(np.float32)
    program = memory.ReturnChunks(tested.model, null)
    stories, cases = Stories(tested), list(find_cases(1000, 2, tested.model))[:2]
    results = Results(tmp_path_factory.mktemp("evaluation") / "out.json")
    records = results.records("memory", {})
    world = program, tested, stories, cases, records, results
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "warm_up", lambda params, config, latents: latents.shape)
        patch.setattr(memory, "decode_after", decode_nothing)
        measure(world, NAMES)
    return world


def decode_nothing(params, config, warm, latents):
    assert warm == (2, 8, 4, 4, 16)
    return np.zeros((2, 8, 8, 8, 3), np.uint8)


def measure(world, names):
    program, tested, stories, cases, records, results = world
    arms = [ARMS[name] for name in names]
    judge = Shrug(None, {})
    memory.measure(program, tested, stories, judge, cases, arms, records, results, batch=2, seed=5)


def test_decoding_gives_the_frames_of_the_return_chunk(world):
    _, tested, *_ = world
    params, config = tested.params["vae"], tested.model.vae
    warm, latents = (jax.ShapeDtypeStruct((2, n, 4, 4, 16), np.float32) for n in (8, 2))
    state = jax.eval_shape(lambda p, x: memory.warm_up(p, config, x), params, warm)
    decode = memory.decode_after
    frames = jax.eval_shape(lambda p, s, x: decode(p, config, s, x), params, state, latents)
    assert frames.shape == (2, 8, 32, 32, 3) and frames.dtype == np.uint8


def test_arms_see_as_much_and_only_choose_otherwise(world):
    _, tested, stories, cases, records, _ = world
    l = tested.model.retrieval.num_retrieved
    assert set(records) == {case.key for case in cases}
    for case in cases:
        found = records[case.key]
        assert list(found) == [memory.TRUE_CHUNK, *NAMES]
        assert found[memory.TRUE_CHUNK]["hit"] is None
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
    *_, records, results = world
    assert Results(results.path).records("memory", {}) == records  # saved as they came
    ran = []
    monkeypatch.setattr(memory, "_run", lambda *args: ran.append(list(args[5])) or [])
    for names in (NAMES, (*NAMES, "random")):
        measure(world, names)
    assert [[arm.name for arm in arms] for arms in ran] == [["random"]]


@pytest.mark.slow
@pytest.mark.parametrize(("memory_scale", "dense"), [(0.0, False), (3.0, False), (3.0, True)])
def test_is_what_generation_does_after_the_same_history(world, memory_scale, dense):
    """Teacher-forced in a batch, and through the bank chunk by chunk: the same return chunk.

    With `dense` the recent chunks are read whole, the retrieved one as the bank keeps it.
    """
    program, tested, stories, cases, *_ = world
    guidance = dataclasses.replace(tested.model.guidance, scale=1.5, memory=memory_scale)
    model, items = (
        dataclasses.replace(tested.model, guidance=guidance),
        [stories[c.seed] for c in cases],
    )
    if dense:
        model = apply_overrides(model, ("retrieval.dense_recent=true", "memory.capacity=8"))
    program = memory.ReturnChunks(model, program.teacher.null_text)
    clip = memory._clip(program, items, cases, [np.zeros(15, np.float32)] * 2)
    target = np.array([case.chunk for case in cases], np.int32)
    seeds = np.array([5 + case.seed for case in cases], np.uint32)
    params, case, item = tested.params["dit"], cases[0], items[0]
    conditions = Conditions(item["text"], item["embedding"], program.teacher.null_text[None])
    history = {0: item["latents"][:1]}
    for chunk in range(1, case.chunk):
        history[chunk] = item["latents"][2 * chunk - 1 : 2 * chunk + 1]
    key, seen = jax.random.key(int(seeds[0])), []
    denoise = jax.jit(denoise_chunk, static_argnames="model")
    for anchor in (True, False):
        given = np.int32(0), np.bool_(anchor), seeds  # semantic
        entries = program.entries(params, clip, *given)
        latents, _ = program.generate(params, entries, clip, target, *given)
        if not anchor:
            del history[0]
        state = rollouts.rebuild_bank(params, model, conditions, key, history)
        chunk = steps.chunk_input(conditions, key, None, case.chunk - 1, case.chunk)
        want = denoise(params, model, state, chunk)
        np.testing.assert_allclose(latents[0], want, rtol=2e-3, atol=2e-4)
        seen.append(np.asarray(want))
    assert np.abs(seen[0] - seen[1]).max() > 1e-2  # the anchor says something


def test_the_judge_is_kept_and_counts_only_what_is_known(tmp_path):
    params, path = init_params(jax.random.key(0)), tmp_path / "judge.safetensors"
    save_judge(path, Judge(params, {"seed": 0}))
    assert path.stat().st_size < 1.5e6
    judge = load_judge(path)
    assert judge.metadata == {"seed": 0}
    assert 100_000 < sum(leaf.size for leaf in jax.tree.leaves(params)) < 300_000
    frames = np.random.default_rng(0).integers(0, 256, (130, 16, 16, 3), dtype=np.uint8)
    logits = judge.logits(frames)  # in two pieces
    np.testing.assert_allclose(logits["place"][-2:], judge.logits(frames[-2:])["place"], rtol=1e-5)

    loss = jax.jit(judge_loss)
    known = {head: np.array([1, 2, 3, 4], np.int32) for head in HEADS}
    some = {**known, "species": np.array([1, 2, UNSURE, UNSURE], np.int32)}
    scored = [float(loss(params, to_float(frames[:4]), x)) for x in (known, some)]
    assert scored[0] != scored[1]
    rows = {h: -np.asarray(jax.nn.log_softmax(logits[h][:4])) for h in HEADS}
    pick = {h: 0.95 * rows[h][np.arange(4), known[h]] + 0.05 * rows[h].mean(1) for h in HEADS}
    want = pick["colour"].mean() + pick["place"].mean() + pick["species"][:2].mean()
    np.testing.assert_allclose(scored[1], want, rtol=1e-4)
    empty = {**known, "species": np.full(4, EMPTY, np.int32)}
    want = pick["colour"].mean() + pick["place"].mean() + rows["species"].mean()
    np.testing.assert_allclose(loss(params, to_float(frames[:4]), empty), want, rtol=1e-4)


def test_recasting_shows_every_pair():
    rng = np.random.default_rng(0)
    pairs = set()
    for seed in range(150):
        story = recast(make_story(seed), rng)
        pairs |= {(s.species, s.colour) for s in story.subjects}
        assert story.places == make_story(seed).places
    assert len(pairs) == 64
