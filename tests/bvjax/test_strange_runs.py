"""Run folders that a stranger has changed: used or refused in one sentence, never half of either.

What would take long - encoding, denoising, decoding - is replaced by `Reached`: the folder has been
read by then, and was found good.
"""

import copy
import hashlib
import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bvjax import cli
from bvjax.generate import decoding
from bvjax.generate.conditions import Conditions
from bvjax.loading import bundle as bundles
from bvjax.media import source_video, video_io
from bvjax.runs import captions, prefix
from bvjax.runs import execute as execution
from bvjax.runs.execute import is_finished
from bvjax.runs.run_dir import RunDir

MORE = 2**20 + 1
VALUES = st.sampled_from(
    [None, True, -1, 0, 1, 3, MORE, 2**63, 10**30, 0.5, -0.5, 1e308, float("nan"), "", "x", "mini"]
    + ["\0", "\ud800", "x" * 5000, "/", "..", [], {}, [None], [[]], [[1, 2]], [[9, -1]], {"a": 1}]
)
STRAYS = [
    "latents/notes.txt", "latents/chunk_.npy", "latents/chunk_xy.json", "latents/chunk_07.npy",
    "latents/chunk_007.npy", "latents/chunk_" + "9" * 200 + ".npy", "latents/chunk_00.npy.orig",
    "latents/chunk_02/a", "archive/7", "archive/" + "9" * 250, "archive/notes/a", "other", ".a.tmp",
]  # fmt: skip
DECIDING = ["config.json", "story.json"]
BYTES = st.one_of(
    st.just(lambda content: b""),
    st.integers(0, 5000).map(lambda n: lambda content: content[: n % (len(content) + 1)]),
    st.binary(max_size=40).map(lambda new: lambda content: new),
    st.just(lambda content: b"[" * 100_000),
    st.just(lambda content: content + b"\0"),
    st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=3)).map(
        lambda t: (
            lambda content: (
                content[: t[0] % len(content)] + t[1] + content[t[0] % len(content) + len(t[1]) :]
            )
        )
    ),
)


class Reached(Exception):
    """All that is read before the work has been read."""


def reached(*_, **__):
    raise Reached


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """Two finished runs of random latents, one begun with an image and one with a video."""
    folder, rng = tmp_path_factory.mktemp("strange"), np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    story = {"title": "Pip", "captions": tiny.captions[:3]}
    (folder / "story.json").write_text(json.dumps(story))
    video_io.PIL.Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "first.png")
    clip = rng.integers(0, 255, (9, 32, 32, 3)).astype(np.uint8)
    source_video.write_copy(folder / "clip.mkv", clip, tiny.model.chunk.fps)
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "execute", reached)
        for name, more in (("image", "first.png"), ("video", "clip.mkv")):
            words = ["generate", "--weights", tiny.weights, "--story", folder / "story.json"]
            words += ["--out", folder / name / "run", f"--{name}", folder / more, "--scale", "1"]
            made[name] = [str(word) for word in words]
            with pytest.raises(Reached):
                cli.main(made[name])
            with RunDir.open(folder / name / "run") as run:
                fill(run, draw)
    return folder, made


def fill(run, draw):
    model, grid = run.settings.model, run.grid
    for number in run.latent_ids():
        length = grid.window_latents if number else 1
        run.save_latents(number, draw(length, *grid.latent_size, model.vae.z_dim))
    size = (model.text.max_length, model.text.dim)
    run.save_conditions(Conditions(draw(3, *size), draw(3, model.text.dim), draw(1, *size)))
    with video_io.VideoWriter(run.video, model.chunk.fps, 1) as writer:
        writer.write(np.zeros((grid.num_frames, 32, 32, 3), np.uint8))
    run.save_bytes("report.png", b"a picture")
    run.save_json("report.json", {"chunks_done": 3, "chunks": [{"drift": 0.5}]})
    assert is_finished(run)


@pytest.fixture(scope="module")
def bundle(tiny):
    return bundles.load_bundle(tiny.weights)


@pytest.fixture
def quick(monkeypatch, tiny, bundle):
    load = bundles.load_bundle

    def loaded(folder, layout, lora):
        plain = str(folder) == str(tiny.weights) and not lora
        return bundle if plain else load(folder, layout, lora)

    def encoded(load, config, tokenizer, captions, cache, negative):
        zeros = lambda *shape: np.zeros(shape, np.float32)
        size = (config.max_length, config.dim)
        count = len(captions)
        return Conditions(zeros(count, *size), zeros(count, config.dim), zeros(1, *size))

    monkeypatch.setattr(bundles, "load_bundle", loaded)
    monkeypatch.setattr(captions, "encode_captions", encoded)
    monkeypatch.setattr(execution, "stream", reached)
    monkeypatch.setattr(prefix, "encode_chunks", reached)
    monkeypatch.setattr(decoding, "decode_piece", reached)
    monkeypatch.setattr(decoding, "encode_image", lambda *_: np.zeros(1, np.float32))


def words_of(command, generate, run):
    return {
        "generate": generate,
        "resume": ["resume", str(run)],
        "redo": ["redo", str(run), "--from-chunk", "3", "--caption", "3=Pip waves."],
        "report": ["report", str(run)],
        "decode": ["decode", str(run)],
    }[command]


def files(folder, skip=None):
    """{place: content} of all files below a folder but locks and what is below `skip`."""
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != ".lock" and skip not in (path, *path.parents)
    }


def attempt(words, folder, run, capsys):
    """Runs a command on a run folder, and checks how it ends; returns its code, None: `Reached`."""
    before, outside = files(run), files(folder, run)
    capsys.readouterr()
    try:
        code = cli.main(words)
    except Reached:
        code = None
    told = capsys.readouterr().err.splitlines()
    errors = [line for line in told if not line.startswith(("INFO: ", "WARNING: ", "warning: "))]
    assert files(folder, run) == outside
    if code:
        assert code in (1, 2) and len(errors) == 1 and errors[0].startswith("bvjax: "), told
        assert files(run) == before, (words, told)
    else:
        assert not errors
    return code


def swapped(content, data):
    """A JSON document with one value exchanged, taken out or put in."""
    content = copy.deepcopy(content)
    where = content
    while True:
        keys = list(where) if isinstance(where, dict) else list(range(len(where)))
        key = data.draw(st.sampled_from(keys), label="key")
        inner = where[key]
        if not (isinstance(inner, dict | list) and inner and data.draw(st.integers(0, 4))):
            break
        where = inner
    match data.draw(st.sampled_from(["exchange"] * 4 + ["take out", "put in"]), label="how"):
        case "exchange":
            where[key] = data.draw(VALUES, label="value")
        case "take out":
            del where[key]
        case _ if isinstance(where, dict):
            where["another"] = 1
        case _:
            where.append(data.draw(VALUES))
    return json.dumps(content).encode()


def change(path, data):
    """Does something to a file of a run."""
    how = ["bytes"] * 3 + ["missing", "folder"] + ["json"] * 6 * (path.suffix == ".json")
    kind = data.draw(st.sampled_from(how), label="kind")
    content = path.read_bytes()
    if kind in ("bytes", "json"):
        new = data.draw(BYTES)(content) if kind == "bytes" else swapped(json.loads(content), data)
        path.write_bytes(new)
        if path.suffix == ".npy" and data.draw(st.booleans(), label="its hash too"):
            stored = {"sha256": hashlib.sha256(new).hexdigest()}
            path.with_suffix(".json").write_text(json.dumps(stored))
        return
    path.unlink()
    if kind == "folder":
        path.mkdir()


def again(folder, name):
    """A fresh copy of a run, where the commands find it."""
    run, kept = folder / name / "run", folder / f"kept {name}"
    if not kept.exists():
        shutil.copytree(run, kept)
    shutil.rmtree(run)
    shutil.copytree(kept, run)
    return run


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.data())
def test_any_file_may_be_changed(runs, quick, capsys, data):
    folder, made = runs
    name = data.draw(st.sampled_from(["image", "video"]))
    run = again(folder, name)
    there = sorted(p.relative_to(run) for p in run.rglob("*") if p.is_file() and p.name != ".lock")
    path = data.draw(st.sampled_from([*there, *DECIDING * 5]), label="file")
    change(run / path, data)
    for stray in data.draw(st.lists(st.sampled_from(STRAYS), max_size=2), label="strays"):
        (run / stray).parent.mkdir(parents=True, exist_ok=True)
        (run / stray).write_bytes(b"mine")
    commands = ("resume", "redo", "report", "decode", "generate")
    command = data.draw(st.sampled_from(commands), label="command")
    attempt(words_of(command, made[name], run), folder, run, capsys)
