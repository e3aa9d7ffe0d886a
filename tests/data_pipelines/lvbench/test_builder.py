"""The tfds dataset of a local copy of LV-Bench: five made-up clips of two seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import grain
import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.lvbench.dataset.checks import CLASSES
from data_pipelines.lvbench.builder import LVBenchConfig, build, lvbench_source, main
from data_pipelines.lvbench.chunks import Chunks, frames_between
from tests.bvjax.lvbench.clips import write_clip

ROOT = Path(__file__).parents[3]
LEVELS = range(10, 42)  # 32 frames at 16 a second: 2 s
SPLIT = {"seed": 0, "train": ["b", "a", "deep/d", "e"], "test": ["c"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("lvbench")
    for i, name in enumerate(("a", "b", "c", "deep/d", "e")):
        write_clip(root / f"{name}.mkv", [40 * i + level for level in LEVELS], fps=16)
        captions = [f"First {name} (00s - 00s).", f"Then {name} (01s - 01s)."]
        entry = {"captions": captions} | ({"class": CLASSES[i % 3]} if i else {})
        (root / f"{name}.json").write_text(json.dumps(entry))
    (root / "split.json").write_text(json.dumps(SPLIT))
    return root


@pytest.fixture(scope="module")
def data_dir(folder, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tfds")
    output = build(root, LVBenchConfig(folder=str(folder), shortest=2.0))
    assert output == root / "lv_bench" / "local" / "1.0.0"
    return root


def test_rows_are_the_files(data_dir, folder):
    for side in ("train", "test"):
        source = lvbench_source(data_dir, side)
        assert [row["id"].decode() for row in source] == SPLIT[side]
        for row in source:
            name = row["id"].decode()
            assert row["video"] == (folder / f"{name}.mkv").read_bytes()
            assert [c.decode() for c in row["captions"]] == [f"First {name}.", f"Then {name}."]
            np.testing.assert_array_equal(row["start"], [0, 1])
            np.testing.assert_array_equal(row["stop"], [1, 2])
            assert row["class"] == (-1 if name == "a" else "abcde".index(name[-1]) % 3)
            assert (row["frames"], row["height"], row["width"]) == (32, 16, 24)
            assert row["fps"] == 16 and row["suffix"] == b".mkv"


def test_chunks_are_the_frames_of_their_captions(data_dir):
    """Behind grain, in any order; every frame is in one chunk."""
    chunks = Chunks(lvbench_source(data_dir, "train"))
    assert len(chunks) == 8
    for item in grain.MapDataset.source(chunks).shuffle(seed=0):
        begin = 40 * "abcde".index(item["id"][-1]) + 10 + 16 * int(item["start"])
        np.testing.assert_array_equal(item["frames"][:, 3, 5, 1], range(begin, begin + 16))
        assert item["caption"].startswith(("First", "Then")[int(item["start"])])
    with pytest.raises(IndexError):
        chunks[8]
    video = lvbench_source(data_dir, "test")[0]["video"]
    with pytest.raises(UserError, match="c has no frames from 9 s to 10 s"):
        frames_between(video, 9, 10, "c")
    with pytest.raises(UserError, match="cannot read the video c"):
        frames_between(b"nothing", 0, 1, "c")


def test_frames_are_found_between_key_frames(tmp_path):
    """H.264 with one key frame: decoding begins there, not at the wanted second."""
    path = write_clip(tmp_path / "a.mp4", range(0, 240, 5), fps=16)
    frames = frames_between(path.read_bytes(), 1, 2)[:, 3, 5, 1].astype(int)
    assert len(frames) == 16 and np.abs(frames - np.arange(80, 160, 5)).max() < 4


def test_the_command(folder, data_dir, tmp_path, capsys):
    words = ["--folder", str(folder), "--out", str(data_dir)]
    assert main(words) == 0  # it is there, and nothing is decoded again
    assert main(["--folder", str(folder), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "error: the folder cannot be built:" in error and "at least 50 s" in error
    assert not (tmp_path / "lv_bench" / "local" / "1.0.0").exists()
    with pytest.raises(UserError, match="there is no .*make it with"):
        lvbench_source(tmp_path, "train")
    with pytest.raises(UserError, match="the splits are train and test"):
        lvbench_source(data_dir, "heldout")


def test_no_tensorflow_is_imported(data_dir):
    code = (
        "import sys; from data_pipelines.lvbench.builder import lvbench_source;"
        "lvbench_source(sys.argv[1], 'test')[0]; print('tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(data_dir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == "False"
