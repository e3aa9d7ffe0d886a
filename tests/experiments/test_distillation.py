"""Few-step generators from a config: what the mini configs say, what is refused, two steps of each task."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest

from bvjax.config import GuidanceConfig, SamplerConfig
from bvjax.errors import UserError
from bvjax.presets import get_preset
from bvjax.train.distillation import DistillationTask
from experiments import stages, wiring
from experiments.configs import mini_consistency, mini_ode
from experiments.experiment import as_config, experiment_of
from tests.support.random_clips import random_clips

CONFIGS = {"consistency": mini_consistency, "ode": mini_ode}
CHUNKS = 3


@pytest.mark.parametrize("task", CONFIGS)
def test_the_teacher_is_guided_as_mini_is_and_the_student_is_not(task):
    experiment, mini = CONFIGS[task].experiment(), get_preset("mini")
    assert experiment.task == task
    assert not experiment.model.guidance.guided and experiment.history.caption_drop == 0.0
    assert experiment.model.sampler.kind == "few_step" and experiment.model.sampler.steps == 4
    assert experiment.model.sampler.shift == mini.sampler.shift
    teacher = getattr(experiment, task).guided(experiment.model).guidance
    assert (teacher.scale, teacher.memory) == (mini.guidance.scale, mini.guidance.memory)
    assert experiment_of(as_config(experiment)) == experiment


@pytest.mark.parametrize("task", CONFIGS)
def test_what_cannot_be_distilled_is_refused_before_anything_is_read(task, tmp_path):
    experiment = CONFIGS[task].experiment()
    with pytest.raises(
        UserError, match=f"task {task} starts from trained weights: give `init_from`"
    ):
        stages.make_stage(experiment)
    for section, message in (
        ({"guidance": GuidanceConfig(scale=4.0)}, "guidance.scale is 4 .* must have scale 1"),
        ({"sampler": SamplerConfig()}, "sampler.kind is 'unipc'; a few-step generator"),
    ):
        model = dataclasses.replace(experiment.model, **section)
        with pytest.raises(UserError, match=message):
            stages.make_stage(dataclasses.replace(experiment, model=model), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("task", CONFIGS)
def test_two_steps_of_it_on_a_folder_of_clips(tiny, tmp_path, monkeypatch, task):
    root = tmp_path / "clips"
    random_clips(tiny, root, CHUNKS, "rest")
    base = CONFIGS[task].experiment()
    model = dataclasses.replace(
        tiny.model, sampler=base.model.sampler, guidance=base.model.guidance
    )
    config = as_config(dataclasses.replace(base, model=model))
    config.update_from_flattened_dict(
        {
            "train.steps": 2, "train.log_every": 1, "train.checkpoint_every": 0,
            "train.global_batch_size": 2, "train.device_batch_size": 2, "optimizer.kind": "adamw",
            "data.name": "folder", "data.extras": (), "data.weights": str(tiny.weights),
            "data.latents": str(root), "data.heldout_split": "rest", "data.heldout_stories": 2,
            "data.sample_stories": 1, "data.sample_chunks": 1, "forcing.frames": 4,
            "forcing.standalone": 0.0, "history.oracle": 0.0, f"{task}.levels": 4,
        }
    )  # fmt: skip
    monkeypatch.setattr(DistillationTask, "sample", lambda *args: {})  # a minute to compile
    assert wiring.train(experiment_of(config), tmp_path / "run", str(tiny.weights)) is None
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert all(np.isfinite(float(row[name])) for row in rows for name in ("loss", "chunks"))
    made = json.loads((tmp_path / "run" / "weights" / "config.json").read_text())
    assert "few-step" in json.dumps(made)
