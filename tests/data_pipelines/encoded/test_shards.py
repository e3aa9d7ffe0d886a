"""Shards of encoded examples: what is read is what was written, killed or damaged at any place."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.files import DISK_FULL
from data_pipelines.encoded import shards
from data_pipelines.encoded.batches import batches
from data_pipelines.encoded.folder import write_example, write_null_text
from data_pipelines.encoded.intact import DamagedExample
from data_pipelines.encoded.latent_statistics import Statistics, add
from data_pipelines.encoded.records import open_records
from data_pipelines.encoded.shards import Part, pack, part_folder, read_parts, read_shards

CHUNKS, ROWS, WIDTH = 2, 4, 8


def arrays(number: int) -> dict[str, np.ndarray]:
    text = np.random.default_rng(number).normal(size=(CHUNKS, ROWS, WIDTH)).astype(np.float16)
    text[:, 3:] = 0
    latents = np.full((1 + 2 * CHUNKS, 16, 16, 16), number, np.float16)
    return {"latents": latents, "text": text, "embedding": np.ones((CHUNKS, WIDTH), np.float32)}


def add_film(root, film: str, numbers: range, split: str = "train") -> None:
    folder, statistics = part_folder(root, split, film), Statistics.none()
    for number in numbers:
        write_example(folder / f"{number:05d}.npz", arrays(number))
        statistics = statistics + Statistics.of(arrays(number)["latents"])
    names = tuple(f"{number:05d}" for number in numbers)
    shards.write_part(folder, Part(film, "hash", names, 9 * len(names), statistics))


@pytest.fixture
def root(tmp_path):
    """Films a: 0 1 2, b: 3 4, c: none, d: 5, in two shards."""
    for film, numbers in {
        "a": range(3),
        "b/\n:": range(3, 5),
        "c": range(0),
        "d": range(5, 6),
    }.items():
        add_film(tmp_path, film, numbers)
    write_null_text(tmp_path, np.zeros((ROWS, WIDTH), np.float32))
    return tmp_path


def levels(source) -> list[int]:
    return [int(source[i]["latents"][0, 0, 0, 0]) for i in range(len(source))]


def test_films_become_shards_and_examples_again(root):
    size = (part_folder(root, "train", "a") / "00000.npz").stat().st_size
    assert pack(root, "train", least=4 * size) == 1
    assert [part.film for part in read_parts(root, "train").values()] == ["c", "d"]
    assert pack(root, "train", least=4 * size) == 0
    assert pack(root, "train", least=4 * size, rest=True) == 1
    assert [s.examples for s in read_shards(root, "train")] == [
        ["a/00000", "a/00001", "a/00002", "b/\n:/00003", "b/\n:/00004"],
        ["d/00005"],
    ]
    source = open_records(root, "train")
    assert levels(source) == [*range(6)] and source.spec.text == (ROWS, WIDTH)
    for number in range(6):
        for name, array in arrays(number).items():
            np.testing.assert_array_equal(source[number][name], array)
            assert source[number][name].dtype == np.float32
    assert levels(open_records(root, "train", examples=2)) == [0, 1]
    batch = next(batches(source, 6, seed=0))
    assert sorted(batch["latents"][:, 0, 0, 0, 0].tolist()) == [*range(6)]


def test_a_process_packs_what_is_its_own(root):
    for prefix, mine in (("0of2-", "ac"), ("1of2-", "b/\n:d")):
        pack(root, "train", rest=True, prefix=prefix, mine=lambda film: film in mine)  # noqa: B023
    assert [s.path.name for s in read_shards(root, "train")] == [
        "0of2-00000.array_record",
        "1of2-00000.array_record",
    ]
    assert levels(open_records(root, "train")) == [*range(6)]


@pytest.mark.parametrize("moment", ["before the index", "before parts are removed"])
def test_killed_while_packing(root, monkeypatch, moment):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if moment == "before the index":
            patch.setattr(shards, "write_atomic", killed)
        else:
            patch.setattr(shards.shutil, "rmtree", killed)
        pack(root, "train", rest=True)
    pack(root, "train", rest=True)
    assert levels(open_records(root, "train")) == [*range(6)]
    assert [part.film for part in read_parts(root, "train").values()] == ["c"]


def test_a_full_disk_loses_nothing(root):
    files = sorted(part_folder(root, "train", "a").glob("*.npz"))
    with pytest.raises(OSError) as error:
        shards.write_records("/dev/full", files)
    assert error.value.errno == DISK_FULL[0]


def damage(path, at: float) -> None:
    content = bytearray(path.read_bytes())
    place = int(len(content) * at)
    content[place : place + 50] = b"x" * 50
    path.write_bytes(content)


def test_damaged_records_are_left_out_and_counted(root):
    pack(root, "train", least=1)
    pack(root, "train", rest=True)
    first = root / "train" / "00000.array_record"
    record = first.read_bytes().find(np.full(60, 1, np.float16).tobytes())  # in the latents of 1
    content = bytearray(first.read_bytes())
    content[record : record + 50] = b"x" * 50
    first.write_bytes(content)
    source = open_records(root, "train")
    with pytest.raises(DamagedExample, match="00000.array_record: .*hash mismatch"):
        source[1]
    assert levels(open_records(root, "train", examples=1)) == [0]
    batch = batches(source, 6, seed=0)
    assert sorted(next(batch)["latents"][:, 0, 0, 0, 0].tolist()) == [0, 2, 2, 3, 4, 5]
    assert batch.damaged == 1 and batch.name_of(1) == "a/00001"


@pytest.mark.parametrize("how", ["missing", "cut"])
def test_a_lost_shard_costs_its_examples(root, how):
    pack(root, "train", least=1)
    path = root / "train" / "00000.array_record"
    path.write_bytes(path.read_bytes()[:40_000]) if how == "cut" else path.unlink()
    source = open_records(root, "train")  # sizes are the first intact example's
    stream = batches(source, 6, seed=0)
    next(stream)
    assert stream.damaged == 3 and len(source) == 6
    with pytest.raises(
        UserError, match="3 of the examples in .* are damaged, data.max_damaged is 2: a/0"
    ):
        next(batches(source, 6, seed=0, max_damaged=2))


def test_examples_of_other_sizes_are_damaged(root):
    odd = arrays(7) | {"latents": np.zeros((5, 4, 4, 16), np.float16)}
    folder = part_folder(root, "train", "e")
    write_example(folder / "x.npz", odd)
    shards.write_part(folder, Part("e", "", ("x",), 9, Statistics.none()))
    pack(root, "train", rest=True)
    with pytest.raises(DamagedExample, match="other sizes"):
        open_records(root, "train")[6]


def test_what_is_no_index_is_refused(root):
    pack(root, "train", rest=True)
    path = root / "train" / "00000.json"
    good = json.loads(path.read_text())
    for content in (
        [],
        {},
        good | {"format": 3},
        good | {"films": 3},
        good | {"films": [{"film": 1}]},
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match="00000.json"):
            open_records(root, "train")
    path.write_text(json.dumps(good))
    with pytest.raises(UserError, match="no relevance; leave it out of data.extras"):
        open_records(root, "train", extras=("relevance",))
    with pytest.raises(UserError, match="7 are wanted; make them with COMMAND --out"):
        open_records(root, "train", examples=7, command="COMMAND")
    shutil.rmtree(root / "train")
    with pytest.raises(UserError, match="holds 0 encoded examples"):
        open_records(root, "train")


def test_statistics_add_up():
    rng = np.random.default_rng(0)
    latents = [rng.normal(2, 3, size=(n, 3, 4, 5)) for n in (2, 7, 1)]
    values = np.concatenate([x.reshape(-1, 5) for x in latents])
    total = add(Statistics.of(x) for x in latents)
    again = Statistics.of_json(json.loads(json.dumps(total.to_json())))
    summary = again.summary()
    assert summary["values"] == len(values)
    for name, expected in {
        "mean": values.mean(0), "std": values.std(0), "least": values.min(0), "most": values.max(0)
    }.items():  # fmt: skip
        np.testing.assert_allclose(summary[name], expected, atol=1e-5)
    assert add([]).summary() == {"values": 0}


def test_films_are_left_out_of_shards(root):
    """By their index alone; a shard of which nothing is left goes, and the film may come back in another."""
    pack(root, "train", rest=True)
    before = (root / "train" / "00000.array_record").read_bytes()
    assert shards.retire(root, "train", ["a", "nobody"]) == 1
    assert (root / "train" / "00000.array_record").read_bytes() == before
    assert levels(open_records(root, "train")) == [3, 4, 5]
    add_film(root, "a", range(7, 9))
    assert pack(root, "train", rest=True) == 1
    source = open_records(root, "train")
    assert levels(source) == [3, 4, 5, 7, 8]
    assert source.name_of(3) == "a/00007"
    assert shards.retire(root, "train", ["b/\n:", "d", "c"]) == 3  # c: in no shard
    assert [path.name for path in sorted((root / "train").iterdir())] == [
        "00001.array_record", "00001.json"
    ]  # fmt: skip
    assert levels(open_records(root, "train")) == [7, 8] and not read_parts(root, "train")
    add_film(root, "b/\n:", range(9, 10))
    pack(root, "train", rest=True)
    assert levels(open_records(root, "train")) == [9, 7, 8]


def test_a_full_disk_leaves_the_index(root, monkeypatch):
    pack(root, "train", rest=True)

    def full(path, content):
        raise OSError(DISK_FULL[0], "No space left on device")

    monkeypatch.setattr(shards, "write_atomic", full)
    with pytest.raises(OSError):
        shards.retire(root, "train", ["a"])
    assert levels(open_records(root, "train")) == [*range(6)]
