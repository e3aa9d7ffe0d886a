"""What is not finite is never durable: not made, not saved, not read back, and named."""

import dataclasses
import hashlib
import json
import shutil

import jax
import numpy as np
import pytest

from bvjax import cli, weights
from bvjax.errors import UserError, WorkError
from bvjax.files import npy_bytes
from bvjax.loading.bundle import load_bundle
from bvjax.runs import captions
from bvjax.runs import execute as execution
from bvjax.runs.create import create_run
from bvjax.runs.execute import execute
from bvjax.runs.redo import redo
from bvjax.runs.run_dir import RunDir
from bvjax.story import Story


@pytest.fixture(scope="module")
def bundle(tiny):
    return load_bundle(tiny.weights)


@pytest.fixture(scope="module")
def story(tiny):
    return Story(tiny.captions[:2], title="Pip")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, bundle, story):
    path = tmp_path_factory.mktemp("runs") / "whole"
    with create_run(bundle, bundle.model, story, path, seed=5) as run:
        list(execute(run, bundle))
    return path


def saved(path):
    return sorted(p.name for p in (path / "latents").iterdir())


def poisoned(params, part, *where):
    """`params` of a bundle with one NaN in the leaf at the path `where` of a part."""
    tree = jax.tree.map(np.array, dict(params[part]))
    leaf = tree
    for key in where[:-1]:
        leaf = leaf[key]
    leaf[where[-1]].flat[0] = np.nan
    return {**params, part: tree}


def first_leaf(tree, name):
    """The path of the first leaf whose path has `name` in it."""
    return next(path for path in weights.flatten(tree) if name in path).split("/")


@pytest.mark.parametrize(
    ("part", "leaf", "told"),
    [
        ("dit", "patch_embedding", "the first frame failed: values of its latents are not finite"),
        ("vae", "decoder", "the first frame failed: values of its frames are not finite"),
    ],
)
def test_a_chunk_that_is_not_finite_is_not_done(bundle, story, tmp_path, part, leaf, told):
    params = dict(bundle.params.items())
    broken = dataclasses.replace(
        bundle, params=poisoned(params, part, *first_leaf(params[part], leaf))
    )
    with create_run(bundle, bundle.model, story, tmp_path / "run", seed=5) as run:
        with pytest.raises(WorkError, match=told):
            list(execute(run, broken))
    assert saved(tmp_path / "run") == [] and not (tmp_path / "run" / "report.json").exists()


def test_numbers_that_overflow_in_float16_are_told_so(bundle, story, tmp_path):
    """Finite weights, finite in float16 too, whose products are not."""
    params = dict(bundle.params.items())
    large = {
        **params["dit"],
        "patch_embedding": jax.tree.map(lambda x: 6e4 + 0 * x, params["dit"]["patch_embedding"]),
    }
    bundle = dataclasses.replace(bundle, params={**params, "dit": large})
    dit = dataclasses.replace(bundle.model.dit, dtype="float16")
    model = dataclasses.replace(bundle.model, dit=dit)
    with create_run(bundle, model, story, tmp_path / "run", seed=5) as run:
        with pytest.raises(WorkError, match="first frame failed.*overflow in dit.dtype float16"):
            list(execute(run, bundle))
    assert saved(tmp_path / "run") == []


def test_text_states_that_are_not_finite_are_named_first(bundle, story, tmp_path, monkeypatch):
    real = captions.encode_captions

    def broken(*args):
        made = real(*args)
        text = np.array(made.text)
        text[1, 0, 0] = np.inf
        return made.replace(text=text)

    monkeypatch.setattr(captions, "encode_captions", broken)
    with create_run(bundle, bundle.model, story, tmp_path / "run", seed=5) as run:
        with pytest.raises(WorkError, match="chunk 2 failed: values of its text states are not"):
            list(execute(run, bundle))
    assert not (tmp_path / "run" / "conditions.npz").exists() and not saved(tmp_path / "run")


def test_a_memory_entry_that_is_not_finite_is_named(bundle, story, tmp_path, monkeypatch):
    real = execution.stream

    def pieces(*args, **options):
        for piece in real(*args, **options):
            if piece.chunk_id == 1:
                report = piece.report.replace(finite=np.zeros((), bool))
                piece = dataclasses.replace(piece, report=report)
            yield piece

    monkeypatch.setattr(execution, "stream", pieces)
    with create_run(bundle, bundle.model, story, tmp_path / "run", seed=5) as run:
        with pytest.raises(WorkError, match="chunk 1 failed: values of its memory entry are not"):
            list(execute(run, bundle))
    assert saved(tmp_path / "run") == ["chunk_00.json", "chunk_00.npy"]


def poison_stored(path, chunk_id):
    file = path / "latents" / f"chunk_{chunk_id:02d}.npy"
    latents = np.load(file)
    latents.flat[-1] = np.nan
    file.write_bytes(npy_bytes(latents))
    about = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    file.with_suffix(".json").write_text(json.dumps(about))


def content(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "words", [["resume"], ["report"], ["decode"], ["redo", "--from-chunk", "2"]]
)
def test_stored_latents_that_are_not_finite_are_refused(finished, tmp_path, capsys, words):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    poison_stored(path, 1)
    before = content(path)
    command, *more = words
    assert cli.main([command, str(path), *more]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"chunk 1 of {path} is not finite (chunk_01.npy)" in told
    assert "redo, --from-chunk 1" in told
    assert content(path) == before


def test_redo_from_the_chunk_itself_heals(finished, bundle, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    poison_stored(path, 1)
    with RunDir.open(path) as run:
        again = redo(run, bundle, 1, {})
    with again:
        list(execute(again, bundle))
    assert np.array_equal(
        np.load(path / "latents/chunk_01.npy"), np.load(finished / "latents/chunk_01.npy")
    )


def test_the_writer_refuses_what_is_not_finite(finished, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    with RunDir.open(path) as run, pytest.raises(WorkError, match="latents of chunk 2 are not"):
        run.save_latents(2, np.full((2, 4, 4, 16), np.inf))


def test_weights_that_are_not_finite_are_refused_before_anything_is_made(tiny, tmp_path, capsys):
    (tmp_path / "story.json").write_text(json.dumps({"captions": list(tiny.captions[:2])}))
    for part in weights.PARTS:
        folder = tmp_path / f"weights-{part}"
        shutil.copytree(tiny.weights, folder)
        model, params = weights.load_weights(folder, [part])
        name = list(weights.disk_names(weights.flatten(params[part])))[-1]
        file = weights.TensorFile(folder / f"{part}.safetensors")
        data = bytearray(file.path.read_bytes())
        size = 4 * int(np.prod(file.infos[name].shape))
        assert np.isfinite(np.frombuffer(data[-size:], np.float32)).all()
        data[-4:] = np.float32(np.nan).tobytes()
        file.path.write_bytes(data)
        words = ["generate", "--weights", str(folder), "--story", str(tmp_path / "story.json")]
        assert cli.main([*words, "--out", str(tmp_path / "run")]) == 2
        told = capsys.readouterr().err
        assert f"{part}.safetensors has values that are not finite (NaN or infinite) in " in told
        assert not (tmp_path / "run").exists()
        with pytest.raises(UserError, match="not finite"):
            weights.load_weights(folder, [part])
