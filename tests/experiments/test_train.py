"""`python -m experiments.train` end to end on the smallest VAE: finish, refuse, resume."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import ml_collections
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import SMALL

from bvjax import console, presets
from bvjax.config import DiTConfig, ModelConfig
from bvjax.distributed.start import RESTART
from bvjax.errors import UserError
from bvjax.nets import dit
from bvjax.overrides import to_dict
from bvjax.stores import as_path
from bvjax.train.vae_objective import VAEObjective
from bvjax.weights import load_tensors, load_weights, save_tensors
from data_pipelines.storyworld import grain_clips
from experiments import stages, wiring
from experiments.configs import mini_vae
from experiments.experiment import Experiment, as_config, experiment_of
from experiments.run_folder import check_same, claim, make_writable
from tests.support import bucket

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "experiments" / "configs"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
SMOKE = {
    "train.steps": 3, "train.global_batch_size": 2, "train.device_batch_size": 2,
    "train.log_every": 1, "train.checkpoint_every": 2,
    "optimizer.warmup_steps": 1, "optimizer.lr": 0.002, "optimizer.kind": "adamw",
    "data.cache_dir": "", "data.stories": 2, "data.heldout_stories": 1, "data.frames": 3,
    "data.crop": 0, "vae.heldout_clips": 2, "vae.stat_batches": 1, "vae.start": "random",
}  # fmt: skip


def load(name: str) -> ml_collections.ConfigDict:
    """The config, locked as the command line locks it."""
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]().lock()


def smoke(model: ModelConfig = SMALL, **changes) -> Experiment:
    config = as_config(dataclasses.replace(mini_vae.experiment(), model=model)).lock()
    config.update_from_flattened_dict(SMOKE | changes)
    return experiment_of(config)


def run(*args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "experiments.train", *args]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


@contextlib.contextmanager
def noted_reads(experiment: Experiment) -> Iterator[set[str]]:
    """The fields of the experiment and of its sections that are read meanwhile, like "data.split"; not the model's."""
    read: set[str] = set()
    with pytest.MonkeyPatch.context() as patch:
        for where, section in (("", experiment), *sections(experiment)):
            cls = type(section)

            def spy(self, name, where=where, original=cls.__getattribute__):
                read.add(f"{where}{name}")
                return original(self, name)

            patch.setattr(cls, "__getattribute__", spy)
        yield read


def sections(experiment: Experiment) -> list[tuple[str, Any]]:
    values = [(f"{f.name}.", getattr(experiment, f.name)) for f in dataclasses.fields(experiment)]
    return [(name, value) for name, value in values if dataclasses.is_dataclass(value)][1:]


def fields(experiment: Experiment, *names: str) -> set[str]:
    """All keys of the sections with these names, and the names of all sections."""
    own = {f.name for f in dataclasses.fields(experiment)}
    return own | {
        f"{where}{field.name}"
        for where, section in sections(experiment)
        for field in dataclasses.fields(section)
        if where[:-1] in names
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One finished smoke run, and which keys it read."""
    workdir, experiment = tmp_path_factory.mktemp("run"), smoke()
    content = to_dict(experiment)
    with noted_reads(experiment) as read, pytest.MonkeyPatch.context() as patch:
        patch.setattr(wiring, "to_dict", lambda experiment: content)  # it reads all
        wiring.train(experiment, workdir)
    return workdir, set(read)


def test_a_run_leaves_metrics_samples_checkpoints_and_weights(trained):
    workdir, _ = trained
    with open(workdir / "metrics.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["heldout_psnr"]) > 0
    assert (workdir / "samples" / "0000003.png").exists()
    assert {p.name for p in (workdir / "checkpoints").iterdir()} == {"2", "3"}
    model, params = load_weights(workdir / "weights", ["vae"])
    assert model.vae.latent_std != SMALL.vae.latent_std
    assert np.abs(params["vae"]["decoder"]["conv1"]["kernel"]).max() > 0
    made = json.loads((workdir / "weights" / "config.json").read_text())["made"]["vae"]
    assert made["config"]["train"]["steps"] == 3 and made["metrics"]["loss"] > 0


@pytest.mark.slow
def test_training_the_decoder_keeps_the_latents(trained, tmp_path):
    """Encoder and latent statistics stay to the bit; the decoder learns; a start is needed."""
    workdir, _ = trained
    config = smoke(**{"vae.trains": "decoder", "optimizer.kind": "muon"})
    wiring.train(config, tmp_path / "run", init_from=str(workdir / "weights"))
    before, after = (
        load_weights(path / "weights", ["vae"]) for path in (workdir, tmp_path / "run")
    )
    assert after[0].vae == before[0].vae
    for part, same in (("encoder", True), ("conv1", True), ("decoder", False), ("conv2", False)):
        pairs = zip(
            *(jax.tree.leaves(model[1]["vae"][part]) for model in (before, after)), strict=True
        )
        assert all(np.array_equal(a, b) == same for a, b in pairs), part
    with pytest.raises(UserError, match="needs `init_from`, a weights folder"):
        wiring.train(config, tmp_path / "other")


def test_every_key_is_read(trained, monkeypatch):
    monkeypatch.setattr(grain_clips, "GrainClips", lambda *a, **k: SimpleNamespace(batch=print))
    experiment = smoke(**{"data.source": "tfds"})
    with noted_reads(experiment) as read:
        stages.make_stage(experiment)
    unread = fields(experiment, "train", "optimizer", "data", "vae") - trained[1] - read
    # Of "stepwise", and of an update that is not finite.
    assert unread == {"optimizer.milestones", "optimizer.factors", "train.max_skipped"}


def test_every_key_of_the_text_config_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "train_tokenizer", lambda *a: None)
    monkeypatch.setattr(stages, "write_vocabulary", lambda *a: None)
    monkeypatch.setattr(stages, "Tokenizer", lambda path: SimpleNamespace(mask_id=3))
    config = load("mini_text")
    config.data.tokenizer_dir, config.data.tokenizer_stories = str(tmp_path / "text"), 1
    assert unread_by_stage(experiment_of(config)) == set()


def test_every_key_of_the_dit_config_is_read(monkeypatch):
    monkeypatch.setattr(stages, "load_weights", lambda *a, **k: (presets.MINI, {"vae": {}}))
    opened = SimpleNamespace(heldout={}, null_text=np.zeros((1, 1)), make=lambda: iter([{}]))
    monkeypatch.setattr(stages, "open_data", lambda *a: opened)
    # What `open_data` reads is tested where it is.
    names = ("latents", "name", "split", "stories", "heldout_split", "seed", "max_damaged")
    kept = ("pictures", "first", "fresh", "most", "loader", "workers")
    of_data = {f"data.{name}" for name in (*names, *kept)}
    assert unread_by_stage(experiment_of(load("mini_dit"))) == of_data


def unread_by_stage(experiment: Experiment) -> set[str]:
    """Keys that the stage does not read, but those that are handed on whole."""
    with noted_reads(experiment) as read:
        stages.make_stage(experiment).make_data()
    return fields(experiment, "data") - read - {"task"}


@pytest.mark.parametrize("name", sorted(p.stem for p in CONFIGS.glob("*.py")))
def test_configs_are_complete_and_locked(name):
    config = load(name)
    assert json.loads(json.dumps(config.to_dict()))
    with pytest.raises(AttributeError):
        config.no_such_key = 1
    experiment = runpy.run_path(str(CONFIGS / f"{name}.py"))["experiment"]()
    assert experiment_of(config) == experiment
    assert experiment_of(json.loads(json.dumps(to_dict(experiment)))) == experiment


def test_the_command_refuses_other_object_stores(tmp_path):
    config = f"--config={CONFIGS / 'mini_vae.py'}"
    done = run(config, "--workdir=s3://bucket/run")
    assert done.returncode == 2 and done.stderr == (
        "error: --workdir is 's3://bucket/run'; it must be a folder of a disk, or gs://BUCKET/FOLDER: "
        "mount other stores as a disk\n"
    )
    done = run(config, f"--workdir={tmp_path / 'run'}", "--init-from=s3://bucket/weights")
    assert done.returncode == 2 and done.stderr.startswith("error: --init-from is 's3://bucket")
    assert not (ROOT / "s3:").exists() and not (tmp_path / "run").exists()


def test_a_run_in_a_bucket_is_that_of_a_disk(trained, tmp_path, monkeypatch):
    bucket.install(tmp_path / "store", monkeypatch)
    there, workdir = tmp_path / "store" / "bucket" / "run", as_path("gs://bucket/run")
    with pytest.raises(UserError, match="data.cache_dir is 'gs://b/c'; it must be on a disk"):
        wiring.train(smoke(**{"data.cache_dir": "gs://b/c"}), workdir)
    assert wiring.train(smoke(), workdir) is None
    assert {p.name for p in (there / "checkpoints").iterdir()} == {"2", "3"}
    assert (there / "samples" / "0000003.png").exists() and (there / "metrics.csv").exists()
    model, params = load_weights(there / "weights", ["vae"])
    expected = load_weights(trained[0] / "weights", ["vae"])
    assert model == expected[0]
    jax.tree.map(np.testing.assert_array_equal, params, expected[1])

    with pytest.raises(UserError, match="^gs://bucket/run holds a run with another config: optim"):
        wiring.train(smoke(**{"optimizer.lr": 0.5}), workdir)
    assert wiring.export(workdir, as_path("gs://bucket/out")) == 3
    exported = load_weights(there.parent / "out", ["vae"])[1]
    jax.tree.map(np.testing.assert_array_equal, exported, params)


def test_weights_to_start_from_are_fetched(trained, tmp_path, monkeypatch):
    bucket.install(tmp_path, monkeypatch)
    shutil.copytree(trained[0] / "weights", tmp_path / "bucket" / "weights")
    expected = load_weights(trained[0] / "weights", ["vae"])[1]["vae"]
    objective = stages.make_stage(smoke()).task.objective
    with contextlib.ExitStack() as stack:
        for name in ("gs://bucket/weights", "gs://bucket/weights/vae.safetensors"):
            found = stages.initial_params(objective, wiring.fetched(name, stack))
            jax.tree.map(np.testing.assert_array_equal, found, expected)
        for name in ("gs://bucket/none", "gs://bucket/weights/dit.safetensors"):
            with pytest.raises(UserError, match=f"there are no weights in {name}"):
                wiring.fetched(name, stack)


def test_a_bucket_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError("403: no storage.objects.create")

    bucket.install(tmp_path, monkeypatch)
    make_writable(as_path("gs://bucket/run"))
    assert not list((tmp_path / "bucket" / "run").iterdir())
    monkeypatch.setattr(bucket.Buckets, "open", refuse)
    with pytest.raises(UserError, match="^cannot write to gs://bucket/run: 403: no storage"):
        make_writable(as_path("gs://bucket/run"))


def test_the_command_refuses_unknown_keys_and_bad_values(tmp_path):
    config, workdir = f"--config={CONFIGS / 'mini_vae.py'}", f"--workdir={tmp_path / 'run'}"
    done = run(config, workdir, "--config.train.stepz=3")
    expected = "there is no configuration key 'train.stepz'; the nearest is 'train.steps'"
    assert done.returncode == 2 and done.stderr == f"error: {expected}\n"
    done = run(config, workdir, "--config.train.steps=many")
    assert done.returncode == 2 and "config.train.steps" in done.stderr and "many" in done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
    done = run("--config=/no/such.py", workdir)
    assert done.returncode == 2
    assert done.stderr == (
        "error: cannot read the config: No such file or directory: '/no/such.py'\n"
    )
    done = run(config, workdir, "--config.overrides=('vae.dimm=4',)")
    assert done.returncode == 2
    hint, error = done.stderr.strip().splitlines()
    assert hint.startswith("warning: preset and overrides are now the section model")
    expected = "there is no configuration key 'model.vae.dimm'; the nearest is 'model.vae.dim'"
    assert error == f"error: {expected}"
    assert not (tmp_path / "run").exists()


def test_exit_codes(monkeypatch, capsys, tmp_path):
    from experiments import train

    def command(*words: str) -> int:
        return console.run(lambda: train.main(["", *words]), "error")

    for flag in ("_CONFIG", "_WORKDIR", "_INIT_FROM", "_WEIGHTS", "_EXTEND"):
        monkeypatch.setattr(train, flag, SimpleNamespace(value=str(tmp_path)))
    for flag in ("_COORDINATOR", "_NUM_PROCESSES", "_PROCESS_ID", "_PROFILE"):
        monkeypatch.setattr(train, flag, SimpleNamespace(value=None))
    monkeypatch.setattr(train, "_experiment", smoke)
    for outcome, code in ((None, 0), (signal.SIGTERM, RESTART), (signal.SIGINT, 130)):
        monkeypatch.setattr(train.wiring, "train", lambda *a, outcome=outcome, **k: outcome)
        assert command() == code

    def diverge(*args, **kwargs):
        raise FloatingPointError("loss not finite at step 7")

    monkeypatch.setattr(train.wiring, "train", diverge)
    assert command() == 1
    assert capsys.readouterr().err == "stopped: loss not finite at step 7\n"
    assert command("stray") == 2
    assert capsys.readouterr().err == "error: unknown argument 'stray'\n"


@pytest.mark.parametrize(
    ("changes", "init_from", "message"),
    [
        ({"train.global_batch_size": 3}, None, "3 is not a multiple of data=1"),
        ({"optimizer.schedule": "linear"}, None, "it can be stepwise or cosine"),
        ({"data.source": "web"}, None, "data.source is 'web'; it can be render or tfds"),
        (
            {"data.source": "tfds", "data.data_dir": "nowhere"},
            None,
            "nowhere holds no storyworld dataset of version",
        ),
        ({"data.frames": 63}, None, "data.frames is 63; a story has 61 at 1 fps"),
        ({"train.seed": 2**40}, None, "train.seed is 1099511627776; it must be -2147483647 to"),
        (
            {"train.ema_decay": 1.0},
            None,
            "train.ema_decay is 1.0; it must be 0 or more and below 1",
        ),
        ({"train.steps": 2**31}, None, "train.steps is 2147483648; it must be 1 to 2147483647"),
        ({"data.stories": 10**20}, None, "data.stories is 100000000000000000000; it must be 0 to"),
        ({"model": presets.MINI}, None, r"data.frames is 3; it must be 1 \+ a multiple of 4"),
        (
            {"model": presets.MINI, "data.frames": 5, "data.crop": 9},
            None,
            "data.crop is 9; .* of 8",
        ),
        ({"task": "audio"}, None, "there is no task 'audio'"),
        ({}, "nowhere.safetensors", "there is no weights file nowhere.safetensors"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(tmp_path, changes, init_from, message):
    with pytest.raises(UserError, match=message):
        wiring.train(smoke(**changes), tmp_path / "run", init_from)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_another_config_is_refused(trained):
    workdir, _ = trained
    other = smoke(**{"optimizer.lr": 0.5, "data.frames": 5, "train.steps": 9})
    before = (workdir / "config.json").read_text()
    with pytest.raises(UserError) as error:
        claim(workdir, to_dict(other))
    assert str(error.value).endswith(
        "another config: data.frames was 3, now 5; optimizer.lr was 0.002, now 0.5"
    )
    assert (workdir / "config.json").read_text() == before


def test_config_json_stays_what_the_run_was_begun_with(tmp_path):
    claim(tmp_path, to_dict(smoke()))
    claim(tmp_path, to_dict(smoke(**{"train.steps": 9})))
    assert check_same(tmp_path, to_dict(smoke()))["train.steps"] == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"train": {"steps": "many"}}', "another config: .*"),
        ("[1]", "config.json is not a JSON object"),
        ("{", "config.json is not valid JSON"),
    ],
)
def test_a_damaged_config_json_is_refused(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        claim(tmp_path, to_dict(smoke()))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_config_json_is_of_this_run_or_refused_in_one_sentence(data):
    content = json.loads(json.dumps(to_dict(smoke())))
    section = data.draw(st.sampled_from(sorted(content)))
    inner = content if data.draw(st.booleans()) else content[section]
    value = data.draw(VALUES)
    if isinstance(inner, dict):
        inner[data.draw(st.sampled_from(["train", "steps", "new\n", section]))] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        text = json.dumps(content).encode()
        cut = data.draw(st.integers(0, len(text)))
        path.write_bytes(data.draw(st.sampled_from([text, text[:cut], text[:cut] + b"\xff"])))
        before = path.read_bytes()
        try:
            assert type(check_same(Path(folder), to_dict(smoke()))["train.steps"]) is int
        except UserError as error:
            assert folder in str(error) and "\n" not in str(error)
        assert path.read_bytes() == before


def test_weights_that_cannot_be_written_are_told_before_and_kept_after(
    trained, tmp_path, monkeypatch, caplog
):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to .*/file: File exists"):
        wiring.train(smoke(), tmp_path / "run", weights=str(tmp_path / "file"))
    assert not (tmp_path / "run" / "checkpoints").exists()

    run = Path(shutil.copytree(trained[0], tmp_path / "again"))
    shutil.rmtree(run / "weights")

    def fail(*args):
        raise IndexError("5 is out of bounds")

    with monkeypatch.context() as patch, pytest.raises(IndexError):
        patch.setattr(VAEObjective, "export", fail)
        wiring.train(smoke(), run)
    assert "saved; the same command writes its weights again" in caplog.text
    assert wiring.train(smoke(), run) is None
    before, after = (load_weights(d / "weights", ["vae"])[1] for d in (trained[0], run))
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def get_config(:", "cannot read the config: invalid syntax (config.py, line 1)"),
        ("get_config = lambda: 5", "the config is int; get_config must return a ConfigDict"),
    ],
)
def test_a_config_file_that_is_none_is_refused(tmp_path, content, message):
    (tmp_path / "config.py").write_text(content)
    done = run(f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2 and f"error: {message}\n" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": None}, "the config has no task"),
        ({"train": 5}, "the config has no section train"),
        ({"model": None}, "the config has no section model"),
        ({"model": None, "preset": "mini", "overrides": 5}, "overrides is 5; it must be a list"),
    ],
)
def test_configs_without_their_parts_are_refused(changes, message):
    content = {**to_dict(smoke()), **changes}
    content = {name: value for name, value in content.items() if value is not None}
    with pytest.raises(UserError, match=message):
        experiment_of(ml_collections.ConfigDict(content))


def test_init_from_a_folder_or_a_file(trained, tmp_path):
    workdir, _ = trained
    objective = stages.make_stage(smoke()).task.objective
    from_folder = stages.initial_params(objective, workdir / "weights")
    path = workdir / "weights" / "vae.safetensors"
    from_file = stages.initial_params(objective, path)
    like = from_file["decoder"]["head_2"]["kernel"]
    np.testing.assert_array_equal(from_folder["decoder"]["head_2"]["kernel"], like)
    save_tensors(tmp_path / "w.safetensors", from_file["encoder"])
    with pytest.raises(
        UserError, match="does not fit the model: missing conv2/bias, .* more; extra"
    ):
        stages.initial_params(objective, tmp_path / "w.safetensors")
    assert load_tensors(path, from_file)["conv1"]["bias"].dtype == np.float32


def test_init_from_weights_that_lack_what_begins_at_zero(tmp_path):
    """`mini_returns` begins from weights that were trained without `dit.previous_latent`."""
    config = DiTConfig(dim=12, num_heads=2, num_layers=1, ffn_dim=8, freq_dim=4)
    told = dataclasses.replace(config, previous_latent=True)
    start = lambda config: lambda key: dit.init_params(config, 6, key)
    params = start(config)(jax.random.key(1))
    save_tensors(tmp_path / "dit.safetensors", params)
    objective = SimpleNamespace(part="dit", init=start(told))
    found = stages.initial_params(objective, tmp_path)
    assert found.keys() - params.keys() == {"previous_embedding"}
    assert not found.pop("previous_embedding")["kernel"].any()
    jax.tree.map(np.testing.assert_array_equal, found, params)
    params.pop("head")
    save_tensors(tmp_path / "dit.safetensors", params)
    with pytest.raises(UserError, match="does not fit the model: missing head/head/bias"):
        stages.initial_params(objective, tmp_path)


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to .*/file: File exists"):
        make_writable(tmp_path / "file")
    make_writable(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
