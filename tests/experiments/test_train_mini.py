"""The chain that makes `mini`: what it runs, in which order, and how it goes on."""

from __future__ import annotations

import json

import pytest

from bvjax.errors import WorkError
from experiments import train_mini
from experiments.experiment import check_words
from experiments.train_mini import Milestone, Step


def test_every_command_of_the_chain_is_one(tmp_path):
    chain = train_mini.steps(tmp_path)
    assert len({step.name for step in chain}) == len(chain)
    for step in chain:
        module, *words = step.words
        if module == "experiments.train":
            check_words([word for word in words if word.startswith("--config.")])
        assert module in {
            "experiments.train",
            "experiments.evaluate",
            "experiments.evaluation.train_judge",
        }
        assert all(word.startswith("--") for word in words)
    names = [step.name for step in chain]
    assert (
        names.index("VAE") < names.index("judge") < names.index("pictures") < names.index("memory")
    )


def test_what_is_done_is_not_run_again_and_a_milestone_is_told(tmp_path, capfd):
    results = tmp_path / "evaluation.json"
    results.write_text(json.dumps({"pictures": {"result": {"species": {"rate": 0.75}}}}))
    aim = lambda least: Milestone(results, "pictures", ("species", "rate"), least)
    chain = [
        Step("first", 0.0, ("platform",), aim(0.8)),
        Step("second", 0.0, ("no_such_module",)),
        Step("third", 0.0, ("platform",), aim(0.7)),
    ]
    with pytest.raises(WorkError, match="second ended with exit code 1"):
        train_mini.run(tmp_path, chain)
    told = capfd.readouterr().out
    assert "3 of 3 steps" in told
    assert "milestone MISSED: pictures species rate is 0.750, aim 0.8" in told
    chain[1] = Step("second", 0.0, ("platform",))
    train_mini.run(tmp_path, chain)
    told = capfd.readouterr().out
    assert "2 of 3 steps" in told and "== first" not in told
    assert "milestone reached" in told and "done: " in told
    assert (tmp_path / "done" / "third").read_text().startswith("third: 0.0 minutes")
