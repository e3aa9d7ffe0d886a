"""The DiT is trained on a data set that is nobody's: ten clips, written by the writer of encoded examples."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json

import numpy as np
import pytest
from PIL import Image

from bvjax.errors import UserError
from bvjax.overrides import from_dict, to_dict
from bvjax.train.dit_objective import DiTObjective
from data_pipelines.encoded.example import REQUIRED, ExampleSpec
from data_pipelines.encoded.folder import example_path, write_example, write_null_text
from data_pipelines.encoded.kept import open_kept
from data_pipelines.encoded.manifest import claim
from data_pipelines.storyworld.latents import EXTRAS
from experiments import data_sets, stages, wiring
from experiments.configs import mini_dit, mini_films
from experiments.data_sets import DataConfig
from experiments.experiment import DiTExperiment, as_config, experiment_of
from experiments.run_folder import check_same

CLIPS, CHUNKS = 10, 4


@pytest.fixture(scope="module", autouse=True)
def third(tiny, tmp_path_factory):
    """A row of the table, and a folder: 8 clips to train on and 2 held out."""
    root, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    claim(root, tiny.weights, tiny.model)
    shapes = ExampleSpec.of(tiny.model, CHUNKS, EXTRAS).shapes()
    for number in range(CLIPS):
        clip = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        clip["relevance"] = np.abs(clip["relevance"])
        clip["text"][:, 20:] = 0
        write_example(example_path(root, "train" if number < 8 else "rest", f"{number}"), clip)
    write_null_text(root, rng.normal(size=shapes["text"][1:]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data_sets.DATA_SETS, "clips", data_sets.folder_of())
        yield root


def config(tiny, root, extras=(), **changes) -> DiTExperiment:
    whole = as_config(dataclasses.replace(mini_dit.experiment(), model=tiny.model))
    whole.update_from_flattened_dict(
        {
            "train.steps": 2, "train.log_every": 1,
            "optimizer.kind": "adamw", "train.checkpoint_every": 0,
            "train.global_batch_size": 2, "train.device_batch_size": 2,
            "data.name": "clips", "data.extras": extras, "data.weights": str(tiny.weights),
            "data.latents": str(root), "data.heldout_split": "rest", "data.heldout_stories": 2,
            "data.sample_stories": 1, "data.sample_chunks": 1, "forcing.frames": 4,
        }
    )  # fmt: skip
    if not extras:
        changes = {
            "history.oracle": 0.0,
            "forcing.revisit_fraction": 0.0,
            "forcing.standalone": 0.0,
        } | changes
    whole.update_from_flattened_dict(changes)
    return experiment_of(whole)


@pytest.mark.slow
@pytest.mark.parametrize("extras", [(), EXTRAS])
def test_the_dit_trains_on_it(tiny, third, tmp_path, monkeypatch, extras):
    """Without the samples, which ask nothing else of the data and take a minute to compile."""
    monkeypatch.setattr(DiTObjective, "sample", lambda *args: {})
    assert wiring.train(config(tiny, third, extras), tmp_path) is None
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert all(np.isfinite(float(row["loss"])) for row in rows)
    assert (tmp_path / "weights" / "dit.safetensors").exists()


@pytest.mark.parametrize("extras", [(), ("relevance",), EXTRAS])
def test_batches_have_the_extras_that_are_asked_for(tiny, third, extras):
    changes = {} if "standalone" in extras else {"forcing.standalone": 0.0}
    stage = stages.make_stage(config(tiny, third, extras, **changes))
    batch, objective = next(stage.make_data()), stage.task.objective
    assert set(batch) - {"example"} == set(objective.heldout) == {*REQUIRED, *extras}
    assert batch["latents"].shape == (2, 1 + 2 * CHUNKS, 4, 4, 16)
    assert objective.heldout["text"].shape == (2, CHUNKS, 64, 16)
    np.testing.assert_array_equal(batch["text"][:, :, 20:], 0)
    assert objective.null_text.shape == (64, 16)


@pytest.mark.parametrize(
    ("extras", "changes", "message"),
    [
        (
            (),
            {"history.oracle": 0.15, "forcing.revisit_fraction": 0.7, "forcing.standalone": 0.5},
            "the examples have no relevance (ground-truth scores between chunks), which "
            "history.oracle=0.15 and forcing.revisit_fraction=0.7 need and no standalone (captions "
            "that stand alone), which forcing.standalone=0.5 needs: set what needs it to 0, or use a "
            "data set that has it",
        ),
        ((), {"history.oracle": 0.15}, "which history.oracle=0.15 needs: set"),
        ((), {"forcing.revisit_fraction": 0.7}, "which forcing.revisit_fraction=0.7 needs: set"),
        (("relevance",), {}, "which forcing.standalone=0.5 needs: set"),
        (
            (),
            {"data.name": "photos"},
            "data.name is 'photos'; it can be storyworld, lvbench, films, folder, clips, returns",
        ),
        (("depth",), {}, "no extra 'depth'; the extras are relevance, standalone"),
        ((), {"data.heldout_stories": 0}, "data.heldout_stories is 0; it must be 1 to 2147483647"),
        ((), {"data.heldout_split": "test"}, "test holds 0 encoded examples, 1 are wanted"),
        (
            (),
            {"data.name": "lvbench", "data.heldout_split": "test"},
            "make them with python -m data_pipelines.lvbench.encode --out ",
        ),
        ((), {"data.latents": "nowhere"}, "nowhere/manifest.json is missing"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_sentence(
    tiny, third, tmp_path, extras, changes, message
):
    with pytest.raises(UserError) as error:
        wiring.train(config(tiny, third, extras, **changes), tmp_path / "run")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def kept(encoders, split: str, index: int):
    """A set of two pictures that says which one it is."""
    rng = np.random.default_rng(index)
    return {
        "pictures": np.full((2, 4, 4, 16), index, np.float16),
        "picture_text": rng.normal(size=(2, 64, 16)).astype(np.float16),
    }


@pytest.fixture
def with_pictures(monkeypatch):
    open_them = functools.partial(open_kept, make=kept, texts=("picture_text",))
    monkeypatch.setattr(data_sets, "open_pictures", open_them)
    return {"forcing.pictures": 1, "data.first": 4, "data.workers": 0}


def test_pictures_come_beside_clips_or_alone(tiny, third, tmp_path, with_pictures):
    changes = with_pictures | {"data.pictures": str(tmp_path / "pictures")}
    stage = stages.make_stage(config(tiny, third, **changes))
    batch, objective = next(data := stage.make_data()), stage.task.objective
    arrays = {*REQUIRED, "pictures", "picture_text"}
    assert set(batch) - {"example:clips", "example:pictures"} == set(objective.heldout) == arrays
    # A message names the clips and the pictures of a batch.
    np.testing.assert_array_equal(batch["pictures"][:, 0, 0, 0, 0], batch["example:pictures"])
    names = [data.name_of(int(batch[f"example:{part}"][0]), part) for part in ("clips", "pictures")]
    assert names[0].endswith(" of the clips") and names[1] == "number 4 of the pictures"
    assert batch["pictures"].shape == (2, 2, 4, 4, 16)
    assert batch["pictures"][:, 0, 0, 0, 0].tolist()[0] == 4  # the new one of the first batch
    state = json.loads(json.dumps(data.get_state()))
    following, resumed = next(data), stage.make_data()
    resumed.set_state(state)
    for name, array in next(resumed).items():
        np.testing.assert_array_equal(array, following[name])
    alone = changes | {"data.latents": "", "forcing.targets_per_chunk": 0, "forcing.frames": 0}
    stage = stages.make_stage(config(tiny, third, **alone))
    assert set(next(stage.make_data())) == {"example", "pictures", "picture_text"}
    with pytest.raises(UserError, match="both empty"):
        config(tiny, third, **alone | {"data.pictures": ""})


@pytest.mark.slow
def test_the_dit_trains_on_pictures_alone(tiny, third, tmp_path, with_pictures):
    changes = with_pictures | {
        "data.pictures": str(tmp_path / "pictures"), "data.latents": "", "train.sample_every": 2,
        "forcing.targets_per_chunk": 0, "forcing.frames": 0,
    }  # fmt: skip
    assert wiring.train(config(tiny, third, **changes), tmp_path / "run") is None
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert np.isfinite([float(row["pictures"]) for row in rows]).all()
    sheet = Image.open(tmp_path / "run" / "samples" / "0000002_pictures.png")
    assert sheet.size == (4 * 32, 2 * 32)  # two examples' two pictures, over what was generated
    assert wiring.export(tmp_path / "run", tmp_path / "exported") == 2
    for name in ("dit.safetensors",):
        written = [tmp_path / folder / name for folder in ("run/weights", "exported")]
        assert written[0].read_bytes() == written[1].read_bytes()


def test_single_latents_need_no_relevance(tiny, third):
    """The chances of histories do not matter where no chunk is denoised."""
    changes = {"forcing.targets_per_chunk": 0, "history.oracle": 0.15}
    stages.make_stage(config(tiny, third, **changes))


def test_an_old_config_is_read_and_its_run_goes_on(tiny, third, tmp_path, caplog):
    """Its keys have other names, and it has no name of a data set: it was storyworld's."""
    experiment = config(tiny, third, EXTRAS, **{"data.name": "storyworld"})
    new = to_dict(experiment)
    old = json.loads(json.dumps(new))
    for key in ("name", "extras"):
        del old["data"][key]
    for before, after in (
        ("rounds", "targets_per_chunk"),
        ("returns", "revisit_fraction"),
        ("described", "standalone"),
    ):
        old["forcing"][before] = old["forcing"].pop(after)
    assert experiment_of(old) == experiment
    objective = stages.make_stage(experiment).task.objective
    assert set(objective.heldout) == {*REQUIRED, *EXTRAS}
    assert "forcing.rounds is now called forcing.targets_per_chunk" in caplog.text
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert check_same(tmp_path, new)["forcing.targets_per_chunk"] == 2
    assert check_same(tmp_path, old)["data.name"] == "storyworld"


def test_the_config_for_films_needs_no_ground_truth(tiny, third):
    """On a folder without extras, where the config of stories is refused."""
    whole = as_config(dataclasses.replace(mini_films.experiment(), model=tiny.model))
    folder = {"data.name": "clips", "data.latents": str(third), "data.weights": str(tiny.weights),
              "data.heldout_split": "rest"}  # fmt: skip
    whole.update_from_flattened_dict(folder)
    assert set(stages.make_stage(experiment_of(whole)).task.objective.heldout) == {*REQUIRED}


def test_the_section_is_strict():
    with pytest.raises(UserError, match="no configuration key 'data.storys'"):
        from_dict(DataConfig, {"weights": "w", "latents": "l", "storys": 3}, "data.")
    assert from_dict(DataConfig, {"weights": "w", "latents": "l"}) == DataConfig("w", "l")
