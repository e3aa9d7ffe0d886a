"""The run folder: nothing half written counts, nothing is overwritten, nothing is lost."""

import dataclasses
import io
import json
import os
import shutil

import numpy as np
import pytest

from bvjax.chunking import ChunkGrid
from bvjax.errors import UserError
from bvjax.files import npz_bytes
from bvjax.generate.conditions import Conditions
from bvjax.runs import place
from bvjax.runs.run_dir import RunDir, Settings

CAPTIONS = ("one.", "two.", "three.", "four.")


@pytest.fixture
def settings(tiny):
    return Settings(
        tiny.model, seed=3, scale=8, weights="/w", weights_sha256="abc", overrides=("a=1",)
    )


def chunk(number):
    return np.full((2, 4, 4, 16), number, np.float32)


def filled(path, settings, chunks=4):
    run = RunDir.create(path, settings, CAPTIONS, "a story")
    for number in range(chunks + 1):
        run.save_latents(number, chunk(number)[: 2 if number else 1])
    return run


def test_create_and_open(tmp_path, settings):
    image = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    with RunDir.create(tmp_path / "a" / "run", settings, CAPTIONS, "a story", image):
        pass
    with RunDir.open(tmp_path / "a" / "run") as run:
        assert run.settings == settings and run.captions == CAPTIONS and run.title == "a story"
        assert run.grid.num_frames == 33
        np.testing.assert_array_equal(run.image(), image)
    stored = json.loads((tmp_path / "a" / "run" / "config.json").read_text())
    assert stored["model"]["memory"]["tau"] == 0.8 and stored["seed"] == 3


def test_latents(tmp_path, settings):
    with filled(tmp_path / "run", settings) as run:
        names = sorted(p.name for p in (run.path / "latents").iterdir())
        assert names[:3] == ["chunk_00.json", "chunk_00.npy", "chunk_01.json"] and len(names) == 10
        done = run.load_latents(range(5))
        assert list(done) == [0, 1, 2, 3, 4] and done[3].dtype == np.float32
        np.testing.assert_array_equal(done[3], chunk(3))
        np.testing.assert_array_equal(np.load(run.path / "latents" / "chunk_03.npy"), chunk(3))
        assert not (run.path / "archive").exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "no hash", "missing", "bad hash"])
def test_damaged_latents_are_made_again(tmp_path, settings, damage):
    with filled(tmp_path / "run", settings) as run:
        path = run.path / "latents" / "chunk_02.npy"
        content = path.read_bytes()
        if damage == "cut":
            path.write_bytes(content[:-100])
        elif damage == "flipped":
            path.write_bytes(content[:-5] + b"\1" + content[-4:])
        elif damage == "missing":
            path.unlink()
        elif damage == "no hash":
            path.with_suffix(".json").unlink()
        else:
            path.with_suffix(".json").write_text("{}")
        assert list(run.load_latents(range(5))) == [0, 1]
        # later chunks came from the damaged one: out of the way, but not deleted
        assert sorted(p.name for p in (run.path / "latents").glob("*.npy")) == [
            "chunk_00.npy",
            "chunk_01.npy",
        ]
        assert (run.path / "archive" / "001" / "latents" / "chunk_04.npy").exists()


def test_a_crash_while_writing_leaves_no_half_file(tmp_path, settings, monkeypatch):
    with filled(tmp_path / "run", settings, chunks=1) as run:

        def crash(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            run.save_latents(2, chunk(2))
        monkeypatch.undo()
        assert list(run.load_latents(range(5))) == [0, 1]


def test_the_same_run_goes_on_and_another_is_refused(tmp_path, settings):
    filled(tmp_path / "run", settings, chunks=2).close()
    with RunDir.create(tmp_path / "run", settings, CAPTIONS, "a story") as run:
        assert list(run.load_latents(range(5))) == [0, 1, 2]
    moved = dataclasses.replace(settings, weights="/elsewhere")
    RunDir.create(tmp_path / "run", moved, CAPTIONS).close()
    other_seed = dataclasses.replace(settings, seed=4)
    image = np.zeros((32, 32, 3), np.uint8)
    other_model = dataclasses.replace(
        settings.model, memory=dataclasses.replace(settings.model.memory, tau=0.9, slots=5)
    )
    for *different, says in (
        (other_seed, CAPTIONS, "", None, "its seed is 3, not 4"),
        (settings.rerolled(2, 9), CAPTIONS, "", None, "made again with another seed"),
        (dataclasses.replace(settings, model=other_model), CAPTIONS, "", None,
         r"its memory.slots is 6, not 5, its memory.tau is 0.8, not 0.9\)"),
        (settings, CAPTIONS[:3], "", None, "it has 4 chunks, not 3"),
        (settings, ("a", "b", "c", "d"), "", None,
         "caption 1 is another, caption 2 is another, caption 3 is another and 1 more"),
        (settings, CAPTIONS, "", image, "it begins with no image"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"already holds another run .*{says}"):
            RunDir.create(tmp_path / "run", *different)
    larger = dataclasses.replace(settings, scale=3)  # that is applied
    RunDir.create(tmp_path / "run", larger, CAPTIONS).close()
    with RunDir.open(tmp_path / "run") as run:
        assert run.settings == larger


def test_folders_that_cannot_be_used(tmp_path, settings, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not empty"):
        RunDir.create(tmp_path / "full", settings, CAPTIONS)
    with pytest.raises(UserError, match="is a file"):
        RunDir.create(tmp_path / "file", settings, CAPTIONS)
    with pytest.raises(UserError, match="cannot write to"):
        RunDir.create("/proc/run", settings, CAPTIONS)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=60 << 20))
    with pytest.raises(UserError, match="not enough space.* 63 MB are free"):
        RunDir.create(tmp_path / "new", settings, CAPTIONS)
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path, settings):
    (tmp_path / "mine").mkdir(mode=0o555)
    with pytest.raises(UserError, match="cannot write to .*: Permission denied"):
        RunDir.create(tmp_path / "mine" / "run", settings, CAPTIONS)


def test_what_is_not_a_run(tmp_path, settings):
    with pytest.raises(UserError, match="not a run folder"):
        RunDir.open(tmp_path)
    filled(tmp_path / "run", settings, chunks=0).close()
    config = tmp_path / "run" / "config.json"
    for content in ("{", "{}", config.read_text().replace('"tau"', '"tao"')):
        config.write_text(content)
        with pytest.raises(UserError, match="is damaged"):
            RunDir.open(tmp_path / "run")


def test_two_processes_do_not_share_a_run(tmp_path, settings):
    with filled(tmp_path / "run", settings, chunks=0):
        with pytest.raises(UserError, match="another process"):
            RunDir.open(tmp_path / "run")
    RunDir.open(tmp_path / "run").close()


def test_conditions(tmp_path, settings):
    rng, text = np.random.default_rng(0), settings.model.text
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    size = (text.max_length, text.dim)
    conditions = Conditions(
        text=draw(4, *size), embedding=draw(4, text.dim), null_text=draw(1, *size)
    )
    path = tmp_path / "run" / "conditions.npz"
    with RunDir.create(tmp_path / "run", settings, CAPTIONS) as run:
        assert run.load_conditions() is None
        run.save_conditions(conditions)
        captions, stored = run.load_conditions()
        assert captions == CAPTIONS
        for field in ("text", "embedding", "null_text"):
            np.testing.assert_array_equal(getattr(stored, field), getattr(conditions, field))
        for damaged in (
            b"PK\3\4 cut short",
            path.read_bytes()[:-100],
            npz_bytes(captions=np.array(CAPTIONS), text=conditions.text),
            npz_bytes(captions=np.arange(4), **vars(conditions)),
            npz_bytes(captions=np.array(CAPTIONS[:3]), **vars(conditions)),
            npz_bytes(
                captions=np.array(CAPTIONS),
                **vars(conditions) | {"text": conditions.text.astype(np.float64)},
            ),
            npz_bytes(captions=np.array(CAPTIONS), **vars(conditions) | {"text": np.array([{}])}),
        ):
            path.write_bytes(damaged)
            assert run.load_conditions() is None
        buffer = io.BytesIO()
        np.savez_compressed(buffer, captions=np.array(CAPTIONS), **vars(conditions))
        path.write_bytes(buffer.getvalue())  # of no size that could be known
        assert run.load_conditions() is None


def test_replaced_captions(tmp_path, settings):
    run = filled(tmp_path / "run", settings)
    run.save_json("report.json", {})
    with run.replace_captions([*CAPTIONS[:2], "THREE.", CAPTIONS[3]], 3) as again:
        assert again.captions == ("one.", "two.", "THREE.", "four.") and again.title == "a story"
        assert list(again.load_latents(range(5))) == [0, 1, 2]
        archive = again.path / "archive" / "001"
        assert sorted(p.name for p in (archive / "latents").glob("*.npy")) == [
            "chunk_03.npy",
            "chunk_04.npy",
        ]
        assert json.loads((archive / "story.json").read_text())["captions"][2] == "three."
        assert (archive / "report.json").exists() and not (again.path / "report.json").exists()
    with RunDir.open(run.path).replace_captions(CAPTIONS, 2) as third:
        assert (third.path / "archive" / "002" / "latents" / "chunk_02.npy").exists()
    shutil.rmtree(run.path / "archive" / "001")  # numbers grow from the largest
    (run.path / "archive" / "notes").mkdir()
    with RunDir.open(run.path).replace_captions(CAPTIONS, 1) as fourth:
        assert (fourth.path / "archive" / "003" / "latents" / "chunk_01.npy").exists()
        assert [p.name for p in (fourth.path / "archive" / "002" / "latents").glob("*.npy")] == [
            "chunk_02.npy"
        ]


def test_another_seed_from_a_chunk_on(tmp_path, settings):
    begun = filled(tmp_path / "run", settings)
    with begun.replace_captions(CAPTIONS, 3, settings.rerolled(3, 9)) as run:
        assert [run.settings.seed_of(i) for i in range(5)] == [3, 3, 3, 9, 9]
    more = run.settings.rerolled(4, 7)
    with RunDir.open(run.path).replace_captions(CAPTIONS, 4, more) as run:
        assert [run.settings.seed_of(i) for i in range(5)] == [3, 3, 3, 9, 7]
    last = run.settings.rerolled(1, 5)
    with RunDir.open(run.path).replace_captions(["ONE.", *CAPTIONS[1:]], 1, last) as run:
        assert run.settings.rerolls == ((1, 5),)
    stored = json.loads((run.path / "archive" / "003" / "config.json").read_text())
    assert stored["rerolls"] == [[3, 9], [4, 7]]


def test_latents_of_another_run_are_refused_and_stray_files_left_alone(tmp_path, settings):
    with filled(tmp_path / "run", settings) as run:
        (run.path / "latents" / "chunk_new.npy").write_text("mine")
        (run.path / "latents" / "chunk_02.npy.orig").write_text("mine")
        (run.path / "latents" / "chunk_04.npy").unlink()
        assert list(run.load_latents(range(5), tidy=False)) == [0, 1, 2, 3]
        assert not (run.path / "archive").exists()
        assert list(run.load_latents(range(5))) == [0, 1, 2, 3]
        assert (run.path / "latents" / "chunk_new.npy").exists()
        run.save_latents(2, np.zeros((3, 4, 4, 16), np.float32))
        with pytest.raises(UserError, match=r"chunk_02.npy is \[3, 4, 4, 16\] float32; this run's"):
            run.load_latents(range(5))
        assert (run.path / "latents" / "chunk_03.npy").exists()
        shutil.rmtree(run.path / "latents")
        assert run.load_latents(range(5)) == {}
        run.save_latents(0, chunk(0)[:1])
        assert list(run.load_latents(range(5))) == [0]


@pytest.mark.parametrize("name", ["take:1", "12:30 fox", "https:", "a é"])
def test_names_that_look_like_addresses_are_names(tmp_path, settings, name):
    frames = np.zeros((9, 32, 32, 3), np.uint8)
    given = dataclasses.replace(settings, video_chunks=1, video_sha256="def")
    with RunDir.create(tmp_path / name, given, CAPTIONS, video=iter(frames)) as run:
        assert len(list(run.video_frames())) == 9


def test_an_address_is_no_folder(tmp_path, settings, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="s3://bucket/run is an address"):
        RunDir.create("s3://bucket/run", settings, CAPTIONS)
    assert not list(tmp_path.iterdir())
    with RunDir.create("take:1", settings, CAPTIONS) as run:
        assert run.path.is_dir()


def test_needed_space_grows_with_the_story(settings):
    small, large = (
        place.required_bytes(settings, ChunkGrid.of(settings.model, count)) for count in (15, 75)
    )
    assert large - small > 60 * 2 * 4 * 4 * 16 * 4  # the latents alone


def test_a_given_video(tmp_path, settings):
    frames = np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3)).astype(np.uint8)
    given = dataclasses.replace(settings, video_chunks=1, video_sha256="def")
    with RunDir.create(tmp_path / "run", given, CAPTIONS, video=iter(frames)) as run:
        np.testing.assert_array_equal(list(run.video_frames()), frames)
        assert run.settings == given
        more = place.required_bytes(given, run.grid) - place.required_bytes(settings, run.grid)
    assert more == 9 * 32 * 32 * 3
    with RunDir.open(tmp_path / "run") as run:
        assert run.settings == given
    with pytest.raises(UserError, match="already holds another run"):
        RunDir.create(tmp_path / "run", settings, CAPTIONS)
    config = tmp_path / "run" / "config.json"  # a run of before there were videos to go on from
    old = json.loads(config.read_text())
    del old["video_chunks"], old["video_sha256"]
    config.write_text(json.dumps(old))
    with RunDir.open(tmp_path / "run") as run:
        assert run.settings == settings


def test_a_crash_while_the_video_is_copied(tmp_path, settings):
    def frames():
        yield np.zeros((32, 32, 3), np.uint8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RunDir.create(tmp_path / "run", settings, CAPTIONS, video=frames())
    RunDir.create(tmp_path / "run", settings, CAPTIONS).close()  # the command again
