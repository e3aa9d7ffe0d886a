"""LV-Bench's videos as encoded examples: which frames, which captions, and that they can be trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.train.task import EXAMPLE
from data_pipelines.encoded.batches import batches, check_fits
from data_pipelines.encoded.encoders import load_encoders
from data_pipelines.encoded.example import REQUIRED
from data_pipelines.encoded.folder import open_folder
from data_pipelines.encoded.manifest import check_weights
from data_pipelines.encoded.windows import FilmEnds
from data_pipelines.lvbench import builder
from data_pipelines.lvbench import encode as encode_module
from data_pipelines.lvbench.encode import clips, encode, main
from tests.bvjax.lvbench.clips import write_clip


def row(folder: Path, name: str, frames: int, captions: list[str], seconds: float) -> dict:
    """A row as `builder.features` describes it: 16 frames a second, each caption for `seconds`."""
    path = write_clip(folder / "a.mkv", range(10, 10 + frames), (32, 32), fps=16)
    start = np.arange(len(captions)) * seconds
    return {
        "id": name.encode(),
        "video": path.read_bytes(),
        "captions": [c.encode() for c in captions],
        "start": np.float32(start),
        "stop": np.float32(start + seconds),
    }


@pytest.fixture(scope="module")
def rows(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("videos")
    long = row(folder, "deep/long", 16 * 5 + 2, [*tiny.captions], 1.0)
    return [long, row(folder, "short", 20, ["Pip waves."], 1.25)]


def test_windows_follow_each_other(rows, tiny):
    """Chunks of a second at 8 fps; the last frame of one is the first of the next; the rest is left out."""
    found = [
        (start, np.stack(list(frames)), captions)
        for _, start, frames, captions in clips(rows[0], tiny.model, 2)
    ]
    assert [start for start, *_ in found] == [0, 2]
    assert [captions for *_, captions in found] == [tiny.captions[:2], tiny.captions[2:4]]
    for start, frames, _ in found:
        assert frames.shape == (17, 32, 32, 3)
        levels = 10 + 2 * np.arange(8 * start, 8 * start + 17)  # every second frame of the file
        assert np.abs(frames[:, 3, 5, 1] - levels.astype(float)).max() <= 1
    for _, _, frames, _ in clips(
        rows[1], tiny.model, 2
    ):  # captions for two chunks, no frames for them
        with pytest.raises(FilmEnds):
            list(frames)


@pytest.mark.slow
def test_videos_become_examples(rows, tiny, tmp_path):
    assert encode(tiny.weights, rows, tmp_path, "train", 2) == (2, 1)
    check_weights(tmp_path, tiny.weights, tiny.model, "")
    source = open_folder(tmp_path, "train")
    check_fits(source, tiny.model)
    assert len(source) == 2 and source.spec.chunks == 2 and source.spec.extras == ()
    assert set(next(batches(source, 2, 0))) == {*REQUIRED, EXAMPLE}
    encoders = load_encoders(tiny.weights)
    for item, (_, _, frames, captions) in zip(source, clips(rows[0], tiny.model, 2), strict=True):
        states, embedding = encoders.text(captions)
        np.testing.assert_array_equal(item["text"], states.astype(np.float16))
        np.testing.assert_array_equal(item["embedding"], embedding)
        np.testing.assert_array_equal(item["latents"], encoders.latents(frames).astype(np.float16))
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.npz")}
    assert {p.relative_to(tmp_path).as_posix() for p in files} == {
        "train/deep/long/00000.npz",
        "train/deep/long/00002.npz",
    }
    assert encode(tiny.weights, rows, tmp_path, "train", 2) == (2, 1)  # nothing is made again
    assert {p: p.stat().st_mtime_ns for p in files} == files


def test_what_cannot_be_encoded_is_named(rows, tiny, tmp_path):
    wordy = dict(rows[0], captions=[b"Pip waves. " * 40] * 5)
    with pytest.raises(UserError, match="deep/long, chunks from 1 on: caption 1 has .* tokens"):
        encode(tiny.weights, [wordy], tmp_path, "train", 2)
    with pytest.raises(UserError, match="`chunks` is 0; it must be 1 or more"):
        encode(tiny.weights, rows, tmp_path, "train", 0)
    with pytest.raises(UserError, match="video deep/long"):
        for *_, frames, _ in clips(dict(rows[0], video=b"nothing"), tiny.model, 2):
            list(frames)


def test_the_command(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(builder, "lvbench_source", lambda *words: asked.append(words) or [0, 0])
    monkeypatch.setattr(encode_module, "encode", lambda *words: asked.append(words) or (3, 1))
    words = ["--weights=w", "--data=d", "--out=o", "--split=test", "--chunks=5", "--name=n"]
    assert main(words) == 0
    assert asked == [
        (Path("d"), "test", "n", "lv_bench"),
        (Path("w"), [0, 0], Path("o"), "test", 5),
    ]
    told = "o/test has 3 examples of 1 videos; 1 videos are shorter than 5 chunks: left out\n"
    assert capsys.readouterr().out == told
