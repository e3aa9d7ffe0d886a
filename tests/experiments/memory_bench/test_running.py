"""Both modes on the tiny model: what is generated, what is shared, and going on where a run stopped."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from bvjax import policies, weights
from bvjax.errors import UserError
from bvjax.generate.rollout import stream
from data_pipelines.storyworld.staged import Staging
from experiments.evaluation.judge import load_judge
from experiments.evaluation.results import Results
from experiments.evaluation.under_test import UnderTest
from experiments.memory_bench import running
from experiments.memory_bench.__main__ import main
from experiments.memory_bench.cases import Case
from experiments.memory_bench.given import TruePast, check_given, plain, return_chunk
from experiments.memory_bench.running import TRUE, Bench, Costs, Job

OVERRIDES = ("sampler.steps=1", "guidance.scale=1.0")
CASE = Case(0, Staging(2))  # seven chunks, six slots
JOBS = [
    Job(CASE, ()),
    Job(Case(0, Staging(2), "paraphrase"), ()),
    Job(CASE, ("retrieval.kind=rolling",)),
]


@pytest.fixture(scope="module")
def tested(tiny, tmp_path_factory):
    """The tiny model with chunks of 4 s and room for longer captions."""
    folder = tmp_path_factory.mktemp("staged")
    model = tiny.variant(chunk={"fps": 2}, text={"max_length": 256})
    weights.save_weights(folder, model, tiny.params, tokenizer=tiny.weights / "tokenizer.model")
    return UnderTest.load(folder, OVERRIDES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [(), ("memory.evict=oldest", "memory.slots=4", "levels.start=level")], ids=str
)
def test_the_return_chunk_is_that_of_the_whole_past(tested, settings):
    model, past = policies.configure(tested.model, settings), TruePast(tested, CASE.story)
    latents, lookup = return_chunk(past, CASE, model, 3)
    done = {i: past.latents(i) for i in range(CASE.chunk)}
    *_, piece = stream(
        tested.params["dit"], model, past.conditions(CASE.story), jax.random.key(3), done=done
    )
    assert piece.fresh and piece.chunk_id == CASE.chunk
    seen = piece.report.chunk_id[piece.report.valid].tolist()
    assert list(lookup.seen) == seen and set(seen) <= lookup.kept
    assert len(lookup.kept) == model.memory.slots
    np.testing.assert_array_equal(np.asarray(latents), np.asarray(piece.latents))


@pytest.mark.slow
@pytest.mark.parametrize("mode", running.MODES)
def test_a_run_goes_on_where_it_stopped(mode, tested, tmp_path, monkeypatch):
    monkeypatch.setattr(Bench, "_timed", lambda self, case: Costs(0.0, 0.0, 0.0))
    said: list[str] = []

    def run(jobs):
        results = Results(tmp_path / "results.json")
        records = results.records(mode, {})
        bench = Bench(tested, load_judge(), results, tmp_path, 0, OVERRIDES)
        bench.run(mode, jobs, records, said.append)
        return Results(tmp_path / "results.json").records(mode, {})

    first = run(JOBS[:2])
    assert {name for name in first if not name.endswith(TRUE)} == {job.name for job in JOBS[:2]}
    stored = tmp_path / "results.records.json"
    content = json.loads(stored.read_text())
    content[mode]["records"][JOBS[0].name]["mark"] = True  # not made again
    stored.write_text(json.dumps(content))
    second = run(JOBS)
    assert second[JOBS[0].name]["mark"] and set(second) == {*first, JOBS[2].name}
    assert run(JOBS) == second and "all 3 returns are measured" in said[-1]
    assert "2 of 3 returns are measured" in said[1]
    for name, record in second.items():
        assert set(record["right"]) == {"species", "colour", "place"}
        if not name.endswith(TRUE):
            assert record["hit"] == bool({3, 4} & set(record["seen"]))
    assert not second[JOBS[2].name]["hit"] or 4 in second[JOBS[2].name]["seen"]
    if mode == "self":
        shared, own = (tmp_path / "runs" / "default" / job.case.key for job in JOBS[:2])
        told = [json.loads((run / "story.json").read_text())["captions"] for run in (shared, own)]
        assert told[0][:-1] == told[1][:-1] and told[0][-1] != told[1][-1]
        assert (own / "branch.json").is_file() and (shared / "video.mp4").is_file()


def test_models_whose_entries_depend_on_others_are_refused(tested):
    check_given(tested.model)
    check_given(plain(tested.model))
    for override in ("build.context=with", "prompt.change=recache", "policy.name=rolling"):
        name = override.partition("=")[0]
        with pytest.raises(UserError, match=f"{name} is .*mode 'self' takes any"):
            check_given(policies.configure(tested.model, [override]))
        check_given(plain(policies.configure(tested.model, [override])))
    with pytest.raises(UserError, match="chooses by oracle"):
        check_given(policies.configure(tested.model, ["retrieval.kind=oracle"]))


def test_words_that_there_are_not_are_refused_before_work(tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    for words, message in (
        (["run", "--axis", "gap,foo"], "there is no axis 'foo'"),
        (["run", "--weights", str(tmp_path)], "config.json"),
        (["run", "--judge", str(tmp_path / "no")], "there is no judge"),
        (["run", "--axis", "tau", "--set", "memory.slots=2"], "memory.slots is 2"),
        (["stories", "--axis", "tau"], "axis 'tau' changes the memory"),
    ):
        assert main([*words, *out]) == 2
        assert message in capsys.readouterr().err
