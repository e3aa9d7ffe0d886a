"""A run from beginning to end in every layout; killed, resumed, decoded, reported."""

import dataclasses
import io
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

import bvjax
from bvjax.errors import UserError
from bvjax.media.video_io import read_video
from bvjax.runs import execute as execution
from bvjax.runs.create import create_run
from bvjax.runs.decode import decode
from bvjax.runs.execute import execute, is_finished
from bvjax.runs.redo import redo
from bvjax.runs.run_dir import RunDir
from tests.bvjax.runs.conftest import copy, latents

KILLED = """
import os, sys
from bvjax.runs.create import create_run
from bvjax.runs.execute import execute
from bvjax.loading.bundle import load_bundle
from bvjax.runs.run_dir import RunDir
with RunDir.open(sys.argv[1]) as run:
    for progress in execute(run, load_bundle(sys.argv[2])):
        if progress.chunk == 3:
            os.kill(os.getpid(), 9)
"""

TWO_CHUNKS = """
import sys
from bvjax.runs.create import create_run
from bvjax.runs.execute import execute
from bvjax.loading.bundle import load_bundle
from bvjax.story import load_story
bundle = load_bundle(sys.argv[1])
story = load_story(sys.argv[2])
with create_run(bundle, bundle.model, story, sys.argv[3], seed=5, chunks=2) as run:
    list(execute(run, bundle))
"""


def test_everything_is_there(finished, story):
    assert {p.name for p in finished.iterdir()} == {
        ".lock", "config.json", "conditions.npz", "latents", "report.json", "report.png",
        "story.json", "versions.json", "video.mp4",
    }  # fmt: skip
    frames, rate = read_video(finished / "video.mp4")
    assert frames.shape == (41, 256, 256, 3) and rate == 8
    report = json.loads((finished / "report.json").read_text())
    assert report["chunks_done"] == report["chunks_wanted"] == 5
    assert report["video"]["frames"] == 41 and report["seed"] == 5 and report["title"] == "Pip"
    last = report["chunks"][-1]
    assert last["caption"] == story.captions[-1] and last["frames"] == [33, 41]
    entries = [(entry["chunk"], entry["role"]) for entry in last["retrieved"]]
    assert entries[0] == (0, "anchor") and entries[-2:] == [(3, "recent"), (4, "recent")]
    assert [e["role"] for e in last["retrieved"]][:2] == ["anchor", "semantic"]
    assert len(last["kept_ratio"]) == 2 and 0 < min(last["kept_ratio"]) <= 1
    assert set(last["seconds"]) == {"generate", "decode", "write"}
    assert PIL.Image.open(finished / "report.png").width > 1000
    assert json.loads((finished / "versions.json").read_text())["backend"] == "cpu"


def test_the_next_chunk_begins_while_this_one_is_written(bundle, story, tmp_path, monkeypatch):
    """And not before the chunk before this one is on disk, which it is when its frames are there."""
    asked, real = [], execution.stream

    def pieces(*args, **options):
        for piece in real(*args, **options):
            assert len(latents(run.path)) == max(0, len(asked) - 1)
            asked.append(piece.chunk_id)
            yield piece

    monkeypatch.setattr(execution, "stream", pieces)
    with create_run(bundle, bundle.model, story, tmp_path / "run", seed=5, chunks=3) as run:
        seen = [(progress.chunk, len(asked)) for progress in execute(run, bundle)]
    assert seen == [(0, 2), (1, 3), (2, 4), (3, 4)]
    parts = [
        sum(chunk["seconds"].values())
        for chunk in json.loads((run.path / "report.json").read_text())["chunks"]
    ]
    assert min(parts) > 0


@pytest.mark.slow
def test_64_bit_numbers_switched_on_change_nothing(finished, tiny, tmp_path):
    """Every dtype is said, so JAX's default for those that are not does not matter."""
    root = pathlib.Path(bvjax.__file__).parents[1]
    subprocess.run(
        [
            sys.executable,
            "-c",
            TWO_CHUNKS,
            str(tiny.weights),
            str(finished / "story.json"),
            str(tmp_path / "run"),
        ],
        check=True,
        env=os.environ | {"PYTHONPATH": str(root), "JAX_ENABLE_X64": "1"},
    )
    made, wanted = latents(tmp_path / "run"), latents(finished)
    assert len(made) == 3
    for name, content in made.items():
        a, b = (np.load(io.BytesIO(c)) for c in (content, wanted[name]))
        np.testing.assert_array_equal(a, b, err_msg=name)
    assert (tmp_path / "run" / "report.png").exists()


def test_resume_after_a_kill(finished, bundle, story, tiny, tmp_path):
    path = tmp_path / "killed"
    create_run(bundle, bundle.model, story, path, seed=5).close()
    root = pathlib.Path(bvjax.__file__).parents[1]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), str(tiny.weights)],
        check=False,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert killed.returncode == -9
    assert len(latents(path)) == 4 and not (path / "report.json").exists()
    assert len(read_video(path / "video.mp4")[0]) >= 8
    with RunDir.open(path) as run:
        progress = list(execute(run, bundle))
    assert [p.fresh for p in progress] == [False] * 4 + [True] * 2
    assert latents(path) == latents(finished)
    np.testing.assert_array_equal(
        read_video(path / "video.mp4")[0], read_video(finished / "video.mp4")[0]
    )


def test_decode_and_report_again(finished, bundle, tmp_path):
    path = copy(finished, tmp_path)
    old = json.loads((path / "report.json").read_text())
    with RunDir.open(path) as run:
        assert is_finished(run)
    for name in ("video.mp4", "report.json", "report.png"):
        content = (path / name).read_bytes()
        (path / name).unlink()
        with RunDir.open(path) as run:
            assert not is_finished(run)
        (path / name).write_bytes(content)
    for name in ("video.mp4", "report.json", "report.png"):
        (path / name).unlink()
    with RunDir.open(path) as run:
        assert decode(run, bundle) == 41
        np.testing.assert_array_equal(
            read_video(path / "video.mp4")[0], read_video(finished / "video.mp4")[0]
        )
        assert not any(p.fresh for p in execute(run, bundle, only_report=True))
    new = json.loads((path / "report.json").read_text())
    for report in (old, new):
        for chunk in report["chunks"]:
            del chunk["seconds"]
    assert new == old


def test_report_of_an_unfinished_run(finished, bundle, tmp_path):
    path = copy(finished, tmp_path)
    (path / "latents" / "chunk_03.json").unlink()
    with RunDir.open(path) as run:
        list(execute(run, bundle, only_report=True))
        report = json.loads((path / "report.json").read_text())
        assert report["chunks_done"] == 2 and report["chunks_wanted"] == 5
        (path / "latents" / "chunk_00.json").unlink()
        with pytest.raises(UserError, match="no finished chunk"):
            list(execute(run, bundle, only_report=True))


def test_joined(bundle, story, tiny, tmp_path):
    with create_run(bundle, tiny.joined, story, tmp_path / "run", scale=1) as run:
        progress = list(execute(run, bundle))
    assert [p.chunk for p in progress] == [1, 2, 3, 4, 5]
    assert len(read_video(run.video)[0]) == run.grid.num_frames == 4 * (5 * 2 - 1) + 1
    report = json.loads((run.path / "report.json").read_text())
    assert report["chunks"][0]["retrieved"] == [] and report["chunks"][0]["seam"] is None
    assert [e["chunk"] for e in report["chunks"][4]["retrieved"]] == [1, 2, 3, 4]


@pytest.mark.slow
def test_overlap(bundle, story, tiny, tmp_path):
    with create_run(bundle, tiny.overlap, story, tmp_path / "run", scale=1) as run:
        list(execute(run, bundle))
    assert len(read_video(run.video)[0]) == run.grid.num_frames == 1 + 5 * 8
    assert list(latents(run.path)) == [f"chunk_0{n}.npy" for n in (1, 2, 3, 4, 5)]
    before = latents(run.path)
    (run.path / "latents" / "chunk_04.npy").write_bytes(b"damaged")
    with RunDir.open(run.path) as again:
        list(execute(again, bundle))
    assert latents(run.path) == before


@pytest.mark.slow
def test_windows_that_hand_on_latents_and_no_bank(bundle, story, tiny, tmp_path):
    """As SkyReels-V2 runs: noised history, a block that lags, nothing remembered but the overlap."""
    model = tiny.variant(
        chunk={"first": "overlap", "history": "latents"},
        memory={"anchor": False, "slots": 1, "capacity": 1},
        retrieval={"kind": "none", "num_recent": 0, "num_retrieved": 0},
        rope={"mode": "local"},
        sampler={"history_noise": 20.0, "ar_step": 2},
    )
    with create_run(bundle, model, story, tmp_path / "run", scale=1, chunks=3) as run:
        list(execute(run, bundle))
        report = json.loads((run.path / "report.json").read_text())
    assert len(read_video(run.video)[0]) == run.grid.num_frames == 1 + 3 * 8
    assert [c["retrieved"] for c in report["chunks"]] == [[], [], []]
    before, stored = latents(run.path), run.load_latents(range(1, 4))
    np.testing.assert_array_equal(stored[2][:1], stored[1][-1:])
    assert np.abs(stored[2][1:] - stored[1][1:]).max() > 1e-2
    (run.path / "latents" / "chunk_03.npy").write_bytes(b"damaged")
    with RunDir.open(run.path) as again:
        list(execute(again, bundle))
    assert latents(run.path) == before


def test_from_an_image(bundle, story, finished, tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    PIL.Image.fromarray(picture).save(tmp_path / "first.png")
    path = tmp_path / "run"
    image = tmp_path / "first.png"
    with create_run(bundle, bundle.model, story, path, seed=5, image=image, chunks=2) as run:
        list(execute(run, bundle))
        assert run.image().shape == (32, 32, 3)
    assert latents(path)["chunk_00.npy"] != latents(finished)["chunk_00.npy"]
    with RunDir.open(path) as run:
        again = redo(run, bundle, 1, {})
    with again:
        assert list(again.load_latents(range(3))) == [0]  # the image's latent stays


def test_what_is_not_resumed_is_not_touched(finished, bundle, tmp_path):
    """Reports and videos of a damaged run are of what is intact; nothing is moved for them."""
    path = copy(finished, tmp_path)
    (path / "latents" / "chunk_03.npy").write_bytes(b"damaged")
    before = latents(path)
    with RunDir.open(path) as run:
        assert decode(run, bundle) == 17
        list(execute(run, bundle, only_report=True))
    assert latents(path) == before and not (path / "archive").exists()


def test_other_weights_are_refused(finished, bundle, tmp_path):
    other = dataclasses.replace(bundle, sha256="0" * 64)
    with RunDir.open(copy(finished, tmp_path)) as run:
        with pytest.raises(UserError, match="are not those that .* began with"):
            next(execute(run, other))
