"""Runs with LoRAs: switched between chunks, resumed and made again exactly, and refused with other files."""

from __future__ import annotations

import json

import numpy as np
import pytest

import bvjax
from bvjax import cli
from bvjax.errors import UserError
from bvjax.generate import steps
from tests.bvjax.runs.conftest import latents
from tests.support import lora_files as files

CAPTIONS = ["A red fox named Pip sits at Willow Hollow.", "Pip waves.", "Pip comes back."]


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    return files.save(tmp_path_factory.mktemp("lora") / "style.safetensors", files.lora())


@pytest.fixture(scope="module")
def pipeline(tiny, lora):
    return bvjax.load(tiny.weights, lora=f"{lora}:0.8")


@pytest.fixture(scope="module")
def switched(pipeline, tmp_path_factory):
    """The folder of a run whose LoRA is off for chunk 2 and at 0.3 from chunk 3 on."""
    path = tmp_path_factory.mktemp("runs") / "switched"
    compiled = []
    for chunk in pipeline.stream(CAPTIONS, seed=3, out=path, lora_at={2: 0, 3: [np.float32(0.3)]}):
        compiled.append((steps.denoise_program._cache_size(), steps.write_program._cache_size()))
        assert chunk.fresh
    assert compiled[1:] == compiled[1:2] * 3  # chunk 1 compiles, no switch does
    return path


def test_each_chunk_has_its_strength(pipeline, switched, tiny):
    plain = bvjax.load(tiny.weights).generate(CAPTIONS, seed=3)
    off = pipeline.generate(CAPTIONS, seed=3, lora_at={1: 0})
    np.testing.assert_array_equal(off.latents, plain.latents)  # to the bit
    whole = pipeline.generate(CAPTIONS, seed=3)
    made = pipeline.resume(switched)
    np.testing.assert_array_equal(made.latents[:3], whole.latents[:3])  # chunk 1 has 0.8 in both
    assert np.abs(made.latents[:3] - plain.latents[:3]).max() > 0.01
    for other in (whole, plain):  # chunk 2 is without, but remembers a chunk 1 with
        assert np.abs(made.latents[3:5] - other.latents[3:5]).max() > 0.01
    report = json.loads((switched / "report.json").read_text())
    (told,) = report["loras"]
    assert told["file"] == "style.safetensors" and len(told["sha256"]) == 64
    assert told["strengths"] == [[1, 0.8], [2, 0.0], [3, pytest.approx(0.3)]]


@pytest.mark.slow
def test_resumed_and_made_again(pipeline, switched, tiny, lora, tmp_path, capsys):
    """From the folder alone: it knows file and strengths; earlier entries are encoded with theirs."""
    before = latents(switched)
    (switched / "latents" / "chunk_03.npy").unlink()
    assert cli.main(["resume", str(switched)]) == 0
    assert latents(switched) == before
    again = pipeline.redo(switched, 3, lora_strengths=0.8)
    assert latents(switched)["chunk_02.npy"] == before["chunk_02.npy"]
    assert latents(switched)["chunk_03.npy"] != before["chunk_03.npy"]
    pipeline.redo(switched, 3, lora_strengths=[np.float32(0.3)])
    assert latents(switched) == before
    assert len(again.memory) == 3
    capsys.readouterr()
    words = ["redo", str(switched), "--from-chunk", "3", "--lora-strengths", "x"]
    assert cli.main(words) == 2
    assert "--lora-strengths takes numbers" in capsys.readouterr().err


def test_a_branch_has_strengths_and_loras_of_its_own(pipeline, switched, tiny, lora, tmp_path):
    """The past is shared; a LoRA that the run did not have is off there."""
    before = latents(switched)
    captions = [CAPTIONS[2]]
    stronger = pipeline.branch(switched, tmp_path / "a", 3, captions, lora_strengths=1.5)
    other = files.save(tmp_path / "other.safetensors", files.lora(seed=9))
    both = bvjax.load(tiny.weights, lora={lora: 0.8, other: 1.0})
    with pytest.raises(UserError, match="not the very same files"):
        both.branch(switched, tmp_path / "b", 3, captions)
    with pytest.raises(UserError, match="`lora_strengths` has 1 strengths; there are 2 LoRAs"):
        both.branch(switched, tmp_path / "b", 3, captions, lora_strengths=1.5)
    assert not (tmp_path / "b").exists()
    mixed = both.branch(switched, tmp_path / "b", 3, captions, lora_strengths=(1.5, 1.0))
    assert latents(switched) == before
    for name in ("a", "b"):
        new = latents(tmp_path / name)
        assert {k: v for k, v in new.items() if k < "chunk_03"} == {
            k: v for k, v in before.items() if k < "chunk_03"
        }
    assert np.abs(stronger.latents - mixed.latents).max() > 0.01
    settings = json.loads((tmp_path / "b" / "config.json").read_text())
    assert settings["lora_strengths"] == [[0, [0.8, 0.0]], [2, [0.0, 0.0]], [3, [1.5, 1.0]]]
    np.testing.assert_array_equal(both.resume(tmp_path / "b").latents, mixed.latents)


@pytest.mark.slow
def test_the_command_makes_the_same_run(switched, tiny, lora, tmp_path):
    story = tmp_path / "story.json"
    story.write_text(json.dumps(CAPTIONS))
    words = ["generate", "--weights", str(tiny.weights), "--story", str(story), "--seed", "3"]
    words += [
        "--lora",
        f"{lora}:0.8",
        "--lora-at",
        "2=0",
        "--lora-at",
        f"3={float(np.float32(0.3))}",
    ]
    assert cli.main([*words, "--out", str(tmp_path / "command")]) == 0
    assert latents(tmp_path / "command") == latents(switched)


def test_what_is_refused(pipeline, switched, tiny, tmp_path):
    other = files.save(tmp_path / "style.safetensors", files.lora(seed=9))
    for lora, match in (
        (None, "was begun with style.safetensors LoRA, and these are not the very same files"),
        (other, "not the very same files"),
    ):
        with pytest.raises(UserError, match=match):
            bvjax.load(tiny.weights, lora=lora).resume(switched)
    with pytest.raises(UserError, match="the strengths of its LoRAs are others"):
        pipeline.generate(CAPTIONS, seed=3, out=switched)
    with pytest.raises(UserError, match="`lora_at` is given, but there are no LoRAs"):
        bvjax.load(tiny.weights).generate(CAPTIONS, lora_at={2: 0})
    with pytest.raises(UserError, match="`lora_at` is of chunk 4; there are 1 to 3"):
        pipeline.generate(CAPTIONS, lora_at={4: 0})
    with pytest.raises(UserError, match="`lora_at` of chunk 2 has 2 strengths; there are 1 LoRAs"):
        pipeline.generate(CAPTIONS, lora_at={2: (1, 0)})
    with pytest.raises(UserError, match="policy lct makes several chunks at once"):
        bvjax.load(
            tiny.weights, lora=pipeline.bundle.loras.files[0].path,
            overrides={"policy.name": "lct", "guidance.memory": 0},
        ).generate(CAPTIONS, lora_at={2: 0})  # fmt: skip
    settings = json.loads((switched / "config.json").read_text())
    assert settings["lora_strengths"][0] == [0, [0.8]]
    for wrong, match in (
        ([[1, [0.8]]], "lora_strengths begin at chunks"),
        ([[0, [0.8, 1.0]]], "there must be 1 finite numbers"),
    ):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "story.json").write_text(
            json.dumps({"title": "", "captions": CAPTIONS})
        )
        content = json.dumps(settings | {"lora_strengths": wrong})
        (tmp_path / "run" / "config.json").write_text(content)
        with pytest.raises(UserError, match=match):
            pipeline.resume(tmp_path / "run")
