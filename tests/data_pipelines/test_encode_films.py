"""Films with captions beside them become shards that training reads; what is finished is kept."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bvjax.errors import UserError
from bvjax.files import write_json
from bvjax.train.dit_objective import DiTObjective
from data_pipelines import encode as encode_module
from data_pipelines.encode import main, share
from data_pipelines.encoded import film as film_module
from data_pipelines.encoded import shards
from data_pipelines.encoded.encoders import load_encoders
from data_pipelines.encoded.film import Film, Options, encode_film, shortened
from data_pipelines.encoded.film_folder import read_films
from data_pipelines.encoded.records import open_records
from data_pipelines.encoded.windows import Take
from data_pipelines.validate import validate
from experiments import stages, wiring
from experiments.configs import mini_dit
from experiments.experiment import as_config, experiment_of
from tests.bvjax.lvbench.clips import write_clip

ODD = "12:30 a\nfox"  # a colon and a new line
NAME = "12:30 a\\nfox"  # as it is told


def levels(seconds: int, start: int) -> list[np.ndarray]:
    """Pictures of a gradient that moves, 16 a second."""
    ramp = np.arange(32) * 4 % 256
    return [
        np.stack([np.roll(np.tile(ramp, (32, 1)), start + t, 1)] * 3, -1)
        for t in range(seconds * 16 + 2)
    ]


def captions(tiny, count: int) -> list[str]:
    return [
        f"{text.rstrip('.')} ({i:02d}s - {i:02d}s)." for i, text in enumerate(tiny.captions[:count])
    ]


@pytest.fixture(scope="module")
def films(tmp_path_factory, tiny):
    """Two long films, one of a second, one broken, a file of text, and one without captions."""
    folder = tmp_path_factory.mktemp("films")
    for number, name in enumerate((ODD, "deep/long")):
        write_clip(folder / f"{name}.mkv", levels(5, 9 * number), (32, 32), fps=16)
        write_json(folder / f"{name}.json", {"captions": captions(tiny, 5)})
    write_clip(folder / "short.mkv", levels(1, 3), (32, 32), fps=16)
    write_json(folder / "short.json", {"captions": captions(tiny, 1)})
    (folder / "broken.mp4").write_bytes((folder / "deep/long.mkv").read_bytes()[:900])
    (folder / "text.mp4").write_text("no film")
    (folder / "empty.mp4").touch()
    for name in ("broken", "text", "empty"):
        write_json(folder / f"{name}.json", {"captions": captions(tiny, 5)})
    shutil.copy(folder / "short.mkv", folder / "silent.mkv")
    (folder / "split.json").write_text(
        json.dumps(
            {
                "seed": 0,
                "train": [NAME, "short", "broken", "text", "empty"],
                "test": ["deep/long", "silent"],
            }
        )
    )
    return folder


@pytest.fixture(scope="module", autouse=True)
def encoders(tiny):
    """Those of the tiny weights, for tests and commands alike: their programs are made once."""
    kept = functools.cache(load_encoders)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode_module, "load_encoders", kept)
        yield kept(tiny.weights)


def command(tiny, films, out, *more: str) -> int:
    return main(
        [f"--videos={films}", f"--weights={tiny.weights}", f"--out={out}", "--chunks=2", *more]
    )


@pytest.fixture(scope="module")
def encoded(films, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "films"
    assert command(tiny, films, out) == 1  # four films cannot be used
    return out


def test_what_there_is(encoded, encoders, tiny, films):
    source = open_records(encoded, "train")
    assert [source.name_of(i) for i in range(len(source))] == [f"{NAME}/0000000", f"{NAME}/0000016"]
    pictures = np.stack(levels(5, 0)).astype(np.uint8)[::2]  # 8 a second
    for number, item in enumerate(source):
        states, embedding = encoders.text(tiny.captions[2 * number : 2 * number + 2])
        np.testing.assert_array_equal(item["text"], states.astype(np.float16))
        np.testing.assert_array_equal(item["embedding"], embedding)
        at_once = encoders.latents(pictures[16 * number : 16 * number + 17])
        np.testing.assert_array_equal(item["latents"], at_once.astype(np.float16))
    assert len(open_records(encoded, "test")) == 2
    settings = json.loads((encoded / "settings.json").read_text())
    assert settings == {"format": "array_record", "chunks": 2, "dtype": "float16"}


def test_the_report_says_what_became_of_each_film(encoded):
    report = json.loads((encoded / "report.json").read_text())
    assert report["films"] == {
        "encoded": 2, "encoded again": 0, "encoded before": 0, "too short": 1, "not usable": 4, "left out": 0
    }  # fmt: skip
    assert report["examples"] == {"train": 2, "test": 2}
    assert sorted(report["problems"]) == ["broken", "empty", "silent", "text"]
    for sentence in report["problems"].values():
        assert "\n" not in sentence
    statistics = json.loads((encoded / "statistics.json").read_text())
    latents = np.concatenate([x["latents"] for x in open_records(encoded, "train")]).reshape(-1, 16)
    assert statistics["train"]["frames"] == 34 and statistics["train"]["films"] == 1
    np.testing.assert_allclose(statistics["train"]["latents"]["mean"], latents.mean(0), atol=1e-4)
    np.testing.assert_allclose(statistics["train"]["latents"]["std"], latents.std(0), atol=1e-4)


def test_a_second_run_repeats_nothing(encoded, tiny, films, monkeypatch, capsys):
    made = lambda encoders, frames, *args, **kwargs: {"frames": len(list(frames))}
    monkeypatch.setattr(film_module, "encode_clip", made)  # whose result would be refused
    before = {p: p.read_bytes() for p in encoded.rglob("0*")}
    assert command(tiny, films, encoded) == 1
    assert {p: p.read_bytes() for p in encoded.rglob("0*")} == before
    said = capsys.readouterr()
    assert "2 for train, 2 for test; films: 2 encoded before, 1 too short, 4 not usable" in said.out
    assert "silent: it has no captions" in said.err


def test_other_settings_or_weights_are_refused(encoded, tiny, films, tmp_path, capsys):
    for option in ("--chunks=3", "--dtype=float32"):
        assert command(tiny, films, encoded, option) == 2
        assert "use another folder" in capsys.readouterr().err
    other = tmp_path / "weights"
    shutil.copytree(tiny.weights, other)
    text = other / "text.safetensors"
    first, *rest = load_file(text).items()
    save_file({first[0]: first[1] * 2, **dict(rest)}, text)
    assert main([f"--videos={films}", f"--weights={other}", f"--out={encoded}", "--chunks=2"]) == 2
    assert "encoded by other weights" in capsys.readouterr().err
    with pytest.raises(UserError, match="were encoded by other weights than"):
        stages.make_stage(config(tiny, encoded, **{"data.weights": str(other)}))


def test_films_that_changed_are_encoded_anew(encoded, encoders, tiny, films, tmp_path, capsys):
    """One has other captions, the first too long; another is on the other side now; their old examples are gone."""
    root, folder = (
        shutil.copytree(encoded, tmp_path / "out"),
        shutil.copytree(films, tmp_path / "f"),
    )
    told = [*tiny.captions[1:], tiny.captions[0]]
    told[0] = told[0].rstrip(".") + " and Pip waves" * 40
    timed = [f"{text.rstrip('.')} ({i:02d}s - {i:02d}s)." for i, text in enumerate(told)]
    write_json(folder / f"{ODD}.json", {"captions": timed})
    split = {"train": [NAME, "short", "broken", "text", "empty", "deep/long"], "test": ["silent"]}
    write_json(folder / "split.json", split)
    assert command(tiny, folder, root) == 1
    said = capsys.readouterr()
    assert f"{NAME}: a caption was longer than the text encoder takes, and shortened" in said.err
    assert "4 for train, 0 for test; films: 2 encoded again, 1 too short, 4 not usable" in said.out
    source = open_records(root, "train")
    found = {source.name_of(i): source[i] for i in range(len(source))}
    assert sorted(found) == sorted(f"{n}/{k:07d}" for n in (NAME, "deep/long") for k in (0, 16))
    states, _ = encoders.text(told[2:4])
    np.testing.assert_array_equal(found[f"{NAME}/0000016"]["text"], states.astype(np.float16))
    kept = found[f"{NAME}/0000000"]["text"][0]
    assert kept[tiny.model.text.max_length - 4].any()  # nearly all of its room is used
    assert validate(root) == ([], {"shards": 1, "films": 2, "examples": 4})
    report = encode_module.encode(tiny.weights, [], root, Options(2), gone=["deep/long", "x"])
    assert report["films"]["left out"] == 1 and report["examples"] == {"train": 2, "test": 0}
    assert {n.partition("/")[0] for n in open_records(root, "train")._names} == {NAME}
    assert validate(root) == ([], {"shards": 1, "films": 1, "examples": 2})


def test_captions_are_shortened_at_a_word(encoders):
    text = "Pip waves and then walks off to the left."
    rooms = {room: shortened(text, encoders.tokenizer, room) for room in range(2, 40)}
    assert rooms[39] == text and rooms[2] == text  # no word fits: refused as it is
    for room, short in rooms.items():
        if short != text:
            assert text.startswith(short + " ") and encoders.tokenizer.count(short) <= room
            more = text[: len(short) + 1] + text[len(short) + 1 :].split()[0]
            assert encoders.tokenizer.count(more) > room
    assert len({*rooms.values()}) > 5


def test_killed_in_a_film_it_goes_on_with_the_next_example(
    encoders, tiny, films, tmp_path, monkeypatch
):
    film = Film(
        "f",
        films / "deep/long.mkv",
        (Take(0, tiny.captions[:2]), Take(18, tiny.captions[:2])),
        "train",
    )
    calls, whole = [], film_module.encode_clip

    def counted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*args, **kwargs)

    monkeypatch.setattr(film_module, "encode_clip", counted)
    with pytest.raises(KeyboardInterrupt):
        encode_film(encoders, film, tmp_path, Options(2))
    assert not shards.read_parts(tmp_path, "train")
    part = encode_film(encoders, film, tmp_path, Options(2))
    assert len(calls) == 3 and part.examples == ("0000000", "0000018") and part.frames == 34
    shards.pack(tmp_path, "train", rest=True)
    (shard,) = shards.read_shards(tmp_path, "train")
    assert shard.examples == ["f/0000000", "f/0000018"]


def test_a_take_in_the_middle_is_that_take(encoders, tiny, films, tmp_path):
    """Its latents are those of a film that begins there."""
    film = Film("f", films / "deep/long.mkv", (Take(7, tiny.captions[:2]),), "train")
    encode_film(encoders, film, tmp_path, Options(2, "float32"))
    file = next(tmp_path.rglob("0000007.npz"))
    pictures = np.stack(levels(5, 9)).astype(np.uint8)[::2]
    np.testing.assert_array_equal(
        film_module.read_example(file)["latents"], encoders.latents(pictures[7:24])
    )


def test_new_films_add_to_the_split(tiny, films, tmp_path):
    folder, out = tmp_path / "films", tmp_path / "out"
    names = [f"film_{n}" for n in range(10)]
    for name in names[:5]:
        write_clip(folder / f"{name}.mkv", [1], (32, 32))
        write_json(folder / f"{name}.json", {"captions": captions(tiny, 1)})
    sides = {f.name: f.split for f in read_films(folder, tiny.model, out)[0]}
    assert sorted(sides.values()).count("test") == 1
    for name in names[5:]:
        write_clip(folder / f"{name}.mkv", [1], (32, 32))
        write_json(folder / f"{name}.json", {"captions": captions(tiny, 1)})
    more = {f.name: f.split for f in read_films(folder, tiny.model, out)[0]}
    assert more.items() > sides.items() and [*more.values()].count("test") == 2


def test_films_are_shared_without_gaps_or_doubles():
    names = [f"film_{n}" for n in range(100)]
    shares = [{n for n in names if Options(1, share=share(f"{i}/3")).own(n)} for i in range(3)]
    assert sorted(name for one in shares for name in one) == sorted(names) and all(shares)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--chunks=0"], "--chunks is 0; it must be 1 or more"),
        (["--share=3/3"], "--share is '3/3'; it must be I/N with I from 0 to N - 1"),
        (["--share=x"], "--share is 'x'"),
        (["--shard-megabytes=0"], "a shard of 0 bytes holds nothing"),
        (["--videos=nowhere"], "there is no folder nowhere"),
    ],
)
def test_what_is_refused(tiny, films, tmp_path, capsys, options, message):
    assert command(tiny, films, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err


def config(tiny, root, **changes):
    whole = as_config(dataclasses.replace(mini_dit.experiment(), model=tiny.model))
    whole.update_from_flattened_dict(
        {
            "train.log_every": 1, "optimizer.kind": "adamw", "train.checkpoint_every": 0,
            "train.global_batch_size": 2, "train.device_batch_size": 2, "data.name": "films",
            "data.extras": (), "data.weights": str(tiny.weights), "data.latents": str(root),
            "data.heldout_split": "test", "data.heldout_stories": 2, "data.sample_stories": 1,
            "data.sample_chunks": 1, "forcing.frames": 4, "history.oracle": 0.0,
            "forcing.revisit_fraction": 0.0, "forcing.standalone": 0.0, **changes,
        }
    )  # fmt: skip
    return experiment_of(whole)


@pytest.mark.slow
def test_the_dit_trains_twenty_steps_on_films(tiny, encoded, tmp_path, monkeypatch):
    monkeypatch.setattr(DiTObjective, "sample", lambda *args: {})
    assert wiring.train(config(tiny, encoded, **{"train.steps": 20}), tmp_path) is None
    with open(tmp_path / "metrics.csv", newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 20 and np.isfinite(losses).all()
    assert (tmp_path / "weights" / "dit.safetensors").exists()
