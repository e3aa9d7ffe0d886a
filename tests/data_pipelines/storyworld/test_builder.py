"""The tfds dataset: what is written is what `render` and `truth` give, without TensorFlow."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bvjax.errors import UserError
from data_pipelines.storyworld import builder as builder_lib
from data_pipelines.storyworld.builder import StoryworldConfig, build, main, storyworld_source
from data_pipelines.storyworld.plan import make_story
from data_pipelines.storyworld.renderer import render
from data_pipelines.storyworld.truth import truth
from data_pipelines.storyworld.world import ACCESSORIES, COLOURS, SPECIES

ROOT = Path(__file__).parents[3]
SIZE = dict(height=16, width=16, fps=1)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tfds")
    folder = build(root, StoryworldConfig(**SIZE, stories=2, heldout=1))
    assert folder == root / "storyworld" / "16x16-1fps" / builder_lib.VERSION
    return root


@pytest.mark.parametrize(("split", "count"), [("train", 2), ("heldout", 1)])
def test_pixels_and_truth_are_those_of_the_renderer(data_dir, split, count):
    source = storyworld_source(data_dir, split)
    assert len(source) == count
    for seed in range(count):
        row, story = source[seed], make_story(seed, split)
        facts, cast = truth(story, **SIZE), len(story.subjects)
        assert row["seed"] == seed and row["video"].dtype == np.uint8
        np.testing.assert_array_equal(row["video"], render(story, **SIZE))
        for name in ("visible", "boxes"):
            np.testing.assert_array_equal(row[name][:, :cast], getattr(facts, name))
            assert row[name].shape[1] == 3 and not row[name][:, cast:].any()
        for name in ("place", "places_visible", "camera", "weather"):
            np.testing.assert_array_equal(row[name], getattr(facts, name))
        assert [text.decode() for text in row["captions"]] == list(story.captions)
        assert [text.decode() for text in row["names"]] == [s.name for s in story.subjects]
        for i, subject in enumerate(story.subjects):
            assert SPECIES[row["species"][i]] == subject.species
            assert COLOURS[row["colour"][i]] == subject.colour
            assert ACCESSORIES[row["accessory"][i]] == subject.accessory
        assert (row["species"][cast:] == -1).all()


@pytest.mark.slow
def test_no_tensorflow_is_imported(data_dir):
    code = (
        "import sys; from data_pipelines.storyworld.grain_clips import GrainClips;"
        "GrainClips(sys.argv[1], 'train', 2, 3, 16, 16, 1).batch(0, 1); print('tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(data_dir)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "False"


def test_the_command_keeps_a_dataset_that_is_there(data_dir, capsys, monkeypatch):
    monkeypatch.setattr(builder_lib, "story_example", None)  # nothing may be rendered again
    words = ["--out", str(data_dir), "--size", "16", "--fps", "1", "--workers", "1"]
    assert main([*words, "--stories", "2", "--heldout", "1"]) == 0
    assert main([*words, "--stories", "5", "--heldout", "1"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and "2 train + 1 heldout stories, 5 train + 1" in error


BIG = "9" * 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stories", "0"], "stories must be 1 to 1000000, got 0"),
        (["--size", "8"], "frames must be 16x16 to 4096x4096 pixels, got 8x8"),
        (["--fps", BIG], f"fps must be 1 to 240, got {BIG}"),
        (["--size", BIG], f"frames must be 16x16 to 4096x4096 pixels, got {BIG}x{BIG}"),
        (["--stories", BIG], f"stories must be 1 to 1000000, got {BIG}"),
        (["--workers", "-1"], "workers must be 1 to 1000000, got -1"),
    ],
)
def test_bad_numbers_are_refused_in_one_sentence(tmp_path, capsys, words, message):
    assert main(["--out", str(tmp_path / "out"), *words]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not (tmp_path / "out").exists()


def test_the_size_of_the_small_model_can_have_any_number_of_stories(tmp_path):
    config = StoryworldConfig(stories=7, heldout=3, workers=2)
    output = builder_lib.Storyworld(data_dir=str(tmp_path), config=config)
    assert output.builder_config == config and output.builder_config.name == "64x64-8fps"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = ["--out", str(tmp_path / "file" / "x"), "--size", "16", "--fps", "1", "--workers", "1"]
    assert main([*out, "--stories", "1", "--heldout", "1"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_half_a_dataset_is_never_found(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(builder_lib, "story_example", fail)
    with pytest.raises(OSError, match="no space left"):
        build(tmp_path, StoryworldConfig(**SIZE, stories=1, heldout=1))
    with pytest.raises(UserError, match="holds no storyworld dataset"):
        storyworld_source(tmp_path, "train")


def test_which_dataset_is_read(data_dir, tmp_path):
    with pytest.raises(UserError, match="has no split 'test', only"):
        storyworld_source(data_dir, "test")
    one = data_dir / "storyworld" / "16x16-1fps"
    shutil.copytree(one, tmp_path / "storyworld" / "a")
    shutil.copytree(one, tmp_path / "storyworld" / "b")
    with pytest.raises(UserError, match="holds several datasets; name one: .*/a/.*/b/"):
        storyworld_source(tmp_path, "train")
    folder = tmp_path / "storyworld" / "b" / builder_lib.VERSION
    assert len(storyworld_source(folder, "train")) == 2
    (shard,) = folder.glob("storyworld-train.array_record*")
    for damage in (lambda: shard.write_bytes(shard.read_bytes()[:70000]), shard.unlink):
        damage()
        with pytest.raises(UserError, match="is damaged"):
            storyworld_source(folder, "train")


def test_a_dataset_of_another_kind_is_not_called_damaged(data_dir, tmp_path):
    folder = Path(shutil.copytree(next(data_dir.glob("storyworld/*/*")), tmp_path / "copy"))
    path = folder / "dataset_info.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"name": "lv_bench"}))
    with pytest.raises(UserError) as error:
        storyworld_source(folder, "train")
    assert str(error.value).endswith("holds the dataset 'lv_bench' 1.0.0, not storyworld 1.0.0")


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data(), how=st.sampled_from(["key", "cut", "replace", "remove"]))
def test_any_files_are_a_dataset_or_refused_in_one_sentence(data_dir, data, how):
    with tempfile.TemporaryDirectory() as root:
        folder = Path(shutil.copytree(next(data_dir.glob("storyworld/*/*")), Path(root) / "copy"))
        path = data.draw(st.sampled_from(sorted(folder.iterdir())))
        content = path.read_bytes()
        if how == "remove":
            path.unlink()
        elif how == "key" and path.suffix == ".json":
            path.write_text(json.dumps(changed(json.loads(content), data)))
        elif how == "cut":
            path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        else:
            path.write_bytes(data.draw(st.binary(max_size=40)))
        try:
            rows = storyworld_source(folder, "train")
            assert len(rows[0]["captions"]) == 15
        except UserError as error:
            assert root in str(error) and "\n" not in str(error)


def changed(content, data):
    """JSON with another value at one place."""
    if isinstance(content, dict) and content and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(sorted(content)))
        return content | {key: changed(content[key], data)}
    if isinstance(content, list) and content and data.draw(st.booleans()):
        return [changed(content[0], data), *content[1:]]
    return data.draw(
        st.none() | st.integers(-2, 2**70) | st.text(max_size=4) | st.just([]) | st.just({"a": 1})
    )
