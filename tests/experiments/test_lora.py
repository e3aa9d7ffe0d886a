"""A LoRA from a config: what is refused, and a run on a folder of clips that is cut and goes on to the same files."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
from safetensors.numpy import load_file

from bvjax.errors import UserError
from bvjax.loading.loras import open_loras
from bvjax.train.lora import LoraConfig
from bvjax.train.lora_task import LoraTask
from experiments import stages, wiring
from experiments.configs import mini_consistency, mini_lora
from experiments.experiment import as_config, check_words, experiment_of
from tests.support.random_clips import random_clips

CHUNKS = 3


def test_keys_of_the_command_line():
    experiment = mini_lora.experiment()
    assert experiment_of(as_config(experiment)) == experiment and experiment.lora.rank == 16
    check_words(["--config.lora.rank=8", "--config.lora.alpha=4.0", "--config.lora.targets=.*"])
    before = as_config(experiment).to_dict()
    del before["lora"]  # as configs were before there was a LoRA
    assert experiment_of(before).lora == LoraConfig()


def test_tasks_of_whole_networks_refuse_one(tmp_path):
    experiment = dataclasses.replace(mini_consistency.experiment(), lora=LoraConfig(rank=4))
    with pytest.raises(UserError, match="lora.rank is 4; task consistency trains whole networks"):
        stages.make_stage(experiment, tmp_path)


@pytest.mark.slow
def test_a_run_that_is_cut_goes_on_to_the_same_files(tiny, tmp_path, monkeypatch):
    root = tmp_path / "clips"
    random_clips(tiny, root, CHUNKS, "test")
    config = as_config(dataclasses.replace(mini_lora.experiment(), model=tiny.model))
    config.update_from_flattened_dict(
        {
            "train.steps": 2, "train.log_every": 1, "train.checkpoint_every": 1,
            "train.global_batch_size": 2, "train.device_batch_size": 1, "lora.rank": 2,
            "data.name": "folder", "data.weights": str(tiny.weights), "data.latents": str(root),
        }
    )  # fmt: skip
    experiment = experiment_of(config)
    monkeypatch.setattr(LoraTask, "sample", lambda *args: {})  # a minute to compile
    with pytest.raises(UserError, match="a LoRA changes trained weights .* with `init_from`"):
        wiring.train(experiment, tmp_path / "none")
    run = tmp_path / "run"
    assert wiring.train(experiment, run, str(tiny.weights)) is None
    tensors = lambda: {
        path.name: {name: x.tobytes() for name, x in load_file(path).items()}
        for path in (run / "weights" / "lora").glob("*.safetensors")  # metadata has times of steps
    }
    files = tensors()
    assert len(files) == 3
    loras = open_loras(run / "weights" / "lora" / "comfyui.safetensors", tiny.model)
    assert len(loras.files[0].changes) == 2 * 10
    shutil.rmtree(run / "checkpoints" / "2")
    shutil.rmtree(run / "weights")
    assert wiring.train(experiment, run, str(tiny.weights)) is None
    assert tensors() == files
    # The DiT that it began with is in the checkpoint: what is exported needs no other.
    assert wiring.export(run, tmp_path / "exported") == 2
    assert (tmp_path / "exported" / "lora" / "comfyui.safetensors").exists()
    assert not (tmp_path / "exported" / "dit.safetensors").exists()
