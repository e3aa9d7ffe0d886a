"""Takes of a curated folder as rows of LV-Bench's form: their frames, captions, sides, classes and terms."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.files import write_json
from bvjax.overrides import apply_overrides
from data_pipelines.curate import Request, curate
from data_pipelines.curation.clips import even_size
from data_pipelines.curation.settings import Settings
from data_pipelines.lvbench.builder import lvbench_source
from data_pipelines.lvbench.chunks import Chunks
from data_pipelines.lvbench.encode import clips
from data_pipelines.lvbench.long_takes import LongTakesConfig, build, main, split_takes
from data_pipelines.lvbench.origins import ORIGINS, table
from tests.bvjax.lvbench.clips import write_clip

FPS, SIZE = 16, (64, 96)
SET = ("takes.least_seconds=1", "takes.most_seconds=2.5", "chunks.keyframe_side=16", "motion.least=0",
       "quality.least_sharpness=0", "quality.least_aesthetic=0", "quality.most_dark=1", "duplicates.share=1",
       "duplicates.most_bits=0", "scenes.least_content=1000", "quality.most_letterbox=1")  # fmt: skip


def pictures(offset: int) -> list[np.ndarray]:
    """A frame t is of the level offset + t, with texture below."""
    noise = np.random.default_rng(offset).integers(0, 200, (SIZE[0] // 2, SIZE[1], 3))
    frames = []
    for t in range(5 * FPS):
        picture = np.full((*SIZE, 3), offset + t)
        picture[SIZE[0] // 2 :] = np.roll(noise, t, axis=1)
        frames.append(picture)
    return frames


@pytest.fixture(scope="module")
def folders(tiny, tmp_path_factory):
    """Two films of five seconds, each of which becomes two takes of two chunks of a second, at 8 frames a second."""
    films, out = tmp_path_factory.mktemp("films"), tmp_path_factory.mktemp("curated")
    for number, name in enumerate(("a", "deep/b")):
        write_clip(films / f"{name}.mkv", pictures(20 + 90 * number), SIZE, fps=FPS)
    write_json(films / "rights.json", {"deep/": "CC0"})
    write_json(films / "classes.json", {"deep/b.mkv": "Animals"})
    choose = lambda *more: apply_overrides(Settings(), [*SET, *more])
    curate(Request(films, tiny.weights, out, choose()))
    lines = [json.loads(line) for line in (out / "captions_wanted.jsonl").read_text().splitlines()]
    told = [{"id": line["id"], "caption": f"Chunk {i}."} for i, line in enumerate(lines)]
    (films / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    chosen = choose(f"captions.file={films / 'captions.jsonl'}")
    curate(Request(films, tiny.weights, out, chosen, until="review"))
    return films, out


@pytest.fixture(scope="module")
def data(folders, tmp_path_factory):
    films, out = folders
    root = tmp_path_factory.mktemp("tfds")
    path = build(root, LongTakesConfig(folder=str(out), videos=str(films), side=32))
    assert path == root / "long_takes" / "local" / "1.0.0"
    return root


def test_rows_are_takes(data, folders):
    split = json.loads((folders[1] / "latents" / "split.json").read_text())
    rows = {}
    for side in ("train", "test"):
        for row in lvbench_source(data, side, dataset="long_takes"):
            assert row["film"].decode() in split[side]
            rows[row["id"].decode()] = row
    assert [*sorted(rows)] == [
        "a.mkv#00000000", "a.mkv#00002500", "deep/b.mkv#00000000", "deep/b.mkv#00002500"
    ]  # fmt: skip
    first, last = rows["a.mkv#00000000"], rows["deep/b.mkv#00002500"]
    assert [c.decode() for c in last["captions"]] == ["Chunk 6.", "Chunk 7."]
    np.testing.assert_allclose(first["start"], [0, 1.125])
    np.testing.assert_allclose(first["stop"], [1.125, 2.125])
    assert (first["frames"], first["height"], first["width"], first["fps"]) == (17, 32, 48, 8)
    assert (first["class"], first["terms"], last["class"], last["terms"]) == (
        -1,
        b"not stated",
        1,
        b"CC0",
    )
    assert (first["begins"], last["begins"], last["film_start"]) == (b"film", b"split", 2.5)


def test_chunks_show_what_their_captions_are_of(data, folders):
    """Frame t of the film has the level 20 + t; every second one is taken, and H.264 changes it little."""
    split = json.loads((folders[1] / "latents" / "split.json").read_text())
    side = "train" if "a.mkv" in split["train"] else "test"
    for item in Chunks(lvbench_source(data, side, dataset="long_takes")):
        number = int(item["caption"].split()[1].rstrip("."))
        first = 20 + 40 * (number // 2) + (0 if number % 2 == 0 else 18)
        levels = first + 2 * np.arange(9 if number % 2 == 0 else 8)
        assert np.abs(item["frames"][:, 4, 24].mean(-1) - levels).max() < 3


def test_the_encoder_of_lvbench_reads_them(data, tiny):
    row = lvbench_source(data, "train", dataset="long_takes")[0]
    ((_, start, frames, captions),) = clips(row, tiny.model, 2)
    assert start == 0 and len([*frames]) == 17
    assert list(captions) == [caption.decode() for caption in row["captions"]]


def test_the_command(folders, data, tmp_path, capsys):
    films, out = folders
    words = [f"--folder={out}", f"--videos={films}", f"--out={data}", "--side=32"]
    assert main(words) == 0  # it is there
    manifest = (out / "manifest.jsonl").read_text()
    try:
        (out / "manifest.jsonl").write_text("\n".join(manifest.splitlines()[1:]) + "\n")
        assert main(words) == 2
        assert "delete it or use another --out" in capsys.readouterr().err
        (out / "manifest.jsonl").write_text(manifest.replace('"rate": 8', '"rate": "8"', 1))
        assert main([f"--folder={out}", f"--out={tmp_path}"]) == 2
        assert "line 1: it.rate is '8', not of type integer" in capsys.readouterr().err
    finally:
        (out / "manifest.jsonl").write_text(manifest)
    (tmp_path / "classes.json").write_text('{"a": "Robots"}')
    assert main([f"--folder={out}", f"--videos={tmp_path}", f"--out={tmp_path}"]) == 2
    assert "must be" in capsys.readouterr().err
    for more in ("--side=3", "--name=a/b", "--folder=nowhere"):
        assert main([*words, more]) == 2
    with pytest.raises(UserError, match="has no manifest|cannot read"):
        split_takes(LongTakesConfig(folder=str(tmp_path)))
    with pytest.raises(UserError, match="make it with python -m data_pipelines.lvbench.long_takes"):
        lvbench_source(tmp_path, "train", dataset="long_takes")
    assert even_size(1081, 1921, 720) == (720, 1280) and even_size(5, 3, 720) == (4, 4)


def test_sources_are_those_of_the_paper():
    """Table 1: 1000 videos, its last row too."""
    bench = [origin for origin in ORIGINS if "LV-Bench" in origin.sets]
    assert sum(origin.videos for origin in bench) == 1000
    assert [sum(o.classes[i] for o in bench) for i in range(3)] == [671, 171, 158]
    assert all(sum(o.classes) == o.videos and o.terms for o in ORIGINS)
    assert len(table()) == 2 + len(ORIGINS)
