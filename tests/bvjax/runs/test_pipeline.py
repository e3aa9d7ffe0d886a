"""Generation from Python: the command's run folders, or nothing on disk."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import PIL.Image
import pytest

import bvjax
from bvjax import cli
from bvjax.media.video_io import read_video

CAPTIONS = ["A red fox named Pip sits at Willow Hollow.", "Pip waves.", "Pip comes back."]


@pytest.fixture(scope="module")
def pipeline(tiny):
    return bvjax.load(tiny.weights, overrides={"retrieval.num_retrieved": np.int64(1)})


@pytest.fixture(scope="module")
def video(pipeline):
    return pipeline.generate(CAPTIONS, seed=3)


def test_a_video_in_memory(pipeline, video, tiny, tmp_path, monkeypatch):
    assert video.frames.shape == (1 + 3 * 8, 32, 32, 3) and video.frames.dtype == np.uint8
    assert video.latents.shape == (1 + 3 * 2, 4, 4, 16) and video.latents.dtype == np.float32
    assert video.path is None and video.captions == tuple(CAPTIONS) and video.fps == 8
    assert len(video.memory) == 3
    seen = [(entry.chunk, entry.role) for entry in video.memory[2].retrieved]
    assert (0, "anchor") in seen and (2, "recent") in seen
    assert 0 < video.memory[0].kept_ratio[0] <= 1
    saved, rate = read_video(video.save(tmp_path / "fox.mp4", scale=2))
    assert saved.shape == (25, 64, 64, 3) and rate == 8
    assert "frames" not in repr(video) and len(repr(pipeline)) < 5000


def test_out_is_the_run_folder_of_the_command(pipeline, video, tiny, tmp_path, capsys):
    story = tmp_path / "story.json"
    story.write_text(json.dumps({"captions": CAPTIONS}))
    made = pipeline.generate(story, seed=3, out=tmp_path / "python")
    words = ["generate", "--weights", str(tiny.weights), "--story", str(story), "--seed", "3"]
    words += ["--set", "retrieval.num_retrieved=1", "--out", str(tmp_path / "command")]
    assert cli.main(words) == 0
    assert made.path == tmp_path / "python"
    for name in sorted(p.name for p in (tmp_path / "command").iterdir()):
        ours, theirs = tmp_path / "python" / name, tmp_path / "command" / name
        assert ours.exists(), name
        if name in ("config.json", "story.json", "versions.json", "video.mp4", "conditions.npz"):
            assert ours.read_bytes() == theirs.read_bytes(), name
    np.testing.assert_array_equal(made.latents, video.latents)
    np.testing.assert_array_equal(made.frames, video.frames)
    assert made.memory == video.memory
    report = json.loads((made.path / "report.json").read_text())
    for told, memory in zip(report["chunks"], made.memory, strict=True):
        assert told["kept_ratio"] == list(memory.kept_ratio)
        assert [e["chunk"] for e in told["retrieved"]] == [e.chunk for e in memory.retrieved]
    capsys.readouterr()
    assert cli.main(["resume", str(made.path)]) == 0
    assert "is finished" in capsys.readouterr().out


def test_a_stream_that_is_left_goes_on(pipeline, video, tmp_path):
    chunks = pipeline.stream(CAPTIONS, seed=3, out=tmp_path / "run")
    first = [next(chunks) for _ in range(2)]
    chunks.close()
    assert [(c.number, len(c.frames), c.fresh) for c in first] == [(0, 1, True), (1, 8, True)]
    assert first[0].memory is None and first[1].memory == video.memory[0]
    assert first[1].caption == CAPTIONS[0]
    np.testing.assert_array_equal(first[1].frames, video.frames[1:9])
    again = pipeline.resume(tmp_path / "run")
    np.testing.assert_array_equal(again.frames, video.frames)
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file()}
    finished = pipeline.resume(tmp_path / "run")  # reads what is there and writes nothing
    np.testing.assert_array_equal(finished.frames, video.frames)
    assert files == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file()}


def test_a_stream_that_nobody_begins_with_gives_its_folder_back(pipeline, tmp_path):
    chunks = pipeline.stream(CAPTIONS, seed=3, out=tmp_path / "run")
    del chunks
    pipeline.stream(CAPTIONS, seed=3, out=tmp_path / "run").close()


def test_words_that_the_model_never_saw_are_told(pipeline, tmp_path, caplog):
    next(pipeline.stream("Pip rides a zeppelin.")).frames  # noqa: B018
    assert "this model never saw the words rides, zeppelin" in caplog.text


def test_redo(pipeline, video, tmp_path):
    pipeline.generate(CAPTIONS, seed=3, out=tmp_path / "run")
    made = pipeline.redo(tmp_path / "run", 3, {3: "A blue owl hops in."}, seed=4)
    assert made.captions[2] == "A blue owl hops in."
    np.testing.assert_array_equal(made.latents[:5], video.latents[:5])
    assert (made.latents[5:] != video.latents[5:]).any()


def test_nothing_is_left_behind(pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    chunks = pipeline.stream(CAPTIONS, seed=3)
    next(chunks)
    assert [path.name[:6] for path in tmp_path.iterdir()] == ["bvjax-"]
    chunks.close()
    with pytest.raises(bvjax.UserError, match="`chunks` is 9; this story has 1 to 3"):
        pipeline.generate(CAPTIONS, chunks=9)
    assert not list(tmp_path.iterdir())


def test_an_image_as_a_picture_an_array_or_a_file(pipeline, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    PIL.Image.fromarray(array).save(tmp_path / "first.png")
    images = (
        array,
        PIL.Image.fromarray(array),
        tmp_path / "first.png",
        str(tmp_path / "first.png"),
    )
    made = [next(pipeline.stream(CAPTIONS, image=image)).latents for image in images]
    for latents in made[1:]:
        np.testing.assert_array_equal(latents, made[0])


@pytest.mark.slow
def test_overlapping_windows_share_latents_once(tiny, tmp_path):
    overrides = {"chunk.first": "overlap", "sampler.kind": "euler", "guidance.scale": 1}
    pipeline = bvjax.load(tiny.weights, overrides=overrides)
    made = pipeline.generate(CAPTIONS[:2])
    assert len(made.frames) == 1 + 2 * 8 and len(made.latents) == 1 + 2 * 2


def test_steps_of_one_video(pipeline, tmp_path):
    with pipeline.create_run("Pip waves.", tmp_path / "run", steps=5, chunks=2) as run:
        pass
    assert run.settings.overrides == ("retrieval.num_retrieved=1", "sampler.steps=5")
    assert run.settings.model.sampler.steps == 5 and run.captions == ("Pip waves.",) * 2
    assert pipeline.model.sampler.steps == 4


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"seed": 1.5}, "`seed` is 1.5; it must be a whole number"),
        ({"seed": -1}, "the seed is -1"),
        ({"steps": 0}, "sampler.steps is 0"),
        ({"steps": True}, "`steps` is True; it must be a whole number"),
        (
            {"image": np.zeros((4, 4, 3))},
            r"the image is \[4, 4, 3\] float64; an array must be uint8",
        ),
        ({"image": "a.png", "video": "b.mp4"}, "`image` and `video` are both given"),
        ({"video_chunks": 2}, "`video_chunks` is 2, but there is no `video`"),
        ({"story": []}, "has no captions"),
        ({"story": "no.json"}, "no.json"),
        ({"story": "Pip.", "chunks": 0}, "`chunks` is 0; it can be 1 to"),
    ],
)
def test_what_is_wrong_speaks_of_parameters(pipeline, tmp_path, given, told):
    with pytest.raises(bvjax.UserError, match=told):
        pipeline.stream(**{"story": CAPTIONS, "out": tmp_path / "run"} | given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"weights": "wan-1.3b"}, "give a weights folder with `weights`"),
        ({"weights": "no/such"}, "there is no weights folder no/such"),
        ({"overrides": {"memory.tow": 1}}, "the nearest is 'memory.tau'"),
        ({"overrides": "memory.tau=1"}, "`overrides` is a mapping or a list"),
        ({"overrides": {"memory.tau": object()}}, "memory.tau is of type object"),
        ({"overrides": {"memory.tau": 7.0}}, "memory.tau is 7.0"),
        ({"mesh": {"rows": 2}}, "a mesh is written like"),
    ],
)
def test_what_cannot_be_loaded(tiny, given, told):
    with pytest.raises(bvjax.UserError, match=told):
        bvjax.load(**{"weights": tiny.weights} | given)


def test_a_video_is_saved_as_mp4_only(video, tmp_path):
    with pytest.raises(bvjax.UserError, match="saved as .mp4, not as"):
        video.save(tmp_path / "fox.gif")
    with pytest.raises(bvjax.UserError, match="the scale is 0"):
        video.save(tmp_path / "fox.mp4", scale=0)
    with pytest.raises(bvjax.UserError, match="cannot write the video"):
        video.save(tmp_path / "none" / "fox.mp4")


def test_other_weights_do_not_resume(pipeline, tmp_path):
    run = pipeline.create_run(CAPTIONS, tmp_path / "run")
    run.close()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(config | {"weights_sha256": "0" * 64}))
    with pytest.raises(bvjax.UserError, match="give the right folder with `weights`"):
        pipeline.resume(tmp_path / "run")
    with pytest.raises(bvjax.UserError, match="give the right folder"):
        pipeline.resume(str(tmp_path / "run"))  # the folder was given back


@pytest.mark.slow
def test_the_model_that_ships_generates(tmp_path):
    prompt = "On a bright morning, a small orange fox called Pip waves hello in Willow Hollow."
    made = bvjax.load().generate(prompt, chunks=2, steps=4)
    assert made.frames.shape == (65, 64, 64, 3) and made.frames.std() > 20
    assert pathlib.Path(made.save(tmp_path / "fox.mp4")).stat().st_size > 10_000


@pytest.mark.slow
def test_kept_tokens_are_those_that_the_run_reported(pipeline, tiny, tmp_path):
    """Also of a chunk that was made again with another seed, whose probes are others."""
    out = tmp_path / "run"
    video = pipeline.generate(CAPTIONS, seed=3, out=out)
    again = pipeline.redo(out, 3, seed=5)
    for number, memory in ((1, video.memory[0]), (3, again.memory[2])):
        kept = pipeline.kept_tokens(out, number)
        assert kept.shape[1] == 2 and kept.mean(axis=(1, 2, 3)) == pytest.approx(memory.kept_ratio)
    changing = bvjax.load(tiny.weights, overrides={"prompt.change": "interpolate"})
    video = changing.generate(CAPTIONS, seed=3, out=tmp_path / "told")
    kept = changing.kept_tokens(tmp_path / "told", 2)  # told something between two captions
    assert kept.mean(axis=(1, 2, 3)) == pytest.approx(video.memory[1].kept_ratio)
    with pytest.raises(
        bvjax.UserError, match="chunk 4 of .* is not finished; its chunks are 1 to 3"
    ):
        pipeline.kept_tokens(out, 4)


def test_notebooks_show_videos_and_chunks(pipeline, video):
    assert "data:video/mp4" in video._repr_html_() and CAPTIONS[0] in video._repr_html_()
    assert video.filmstrip(4, height=32).size == (128, 32)
    assert video.retrieval_map().width > 100
    first = next(iter(pipeline.stream(CAPTIONS[:1])))
    assert "data:video/mp4" in first._repr_html_() and first.fps == 8


@pytest.mark.slow
def test_a_branch_has_the_beginning_of_the_run(pipeline, tmp_path):
    video = pipeline.generate(CAPTIONS, seed=3, out=tmp_path / "run")
    other = pipeline.branch(tmp_path / "run", tmp_path / "branch", 3, ["Pip waves.", "Pip waves."])
    assert other.captions == (*CAPTIONS[:2], "Pip waves.", "Pip waves.")
    np.testing.assert_array_equal(other.frames[:17], video.frames[:17])
    assert (other.frames[17:25] != video.frames[17:]).any()
