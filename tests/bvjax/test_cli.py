"""The command line does what it says, and refuses bad input with one sentence and exit code 2."""

import json
import os
import shutil

import av
import numpy as np
import PIL.Image
import pytest

import bvjax
from bvjax import cli, doctor
from bvjax.media import video_io


@pytest.fixture(scope="module")
def world(tiny, tmp_path_factory):
    """A story file and a finished run, made by the command itself."""
    folder = tmp_path_factory.mktemp("cli")
    story = folder / "story.json"
    story.write_text(json.dumps({"title": "Pip", "captions": tiny.captions[:3]}))
    out = folder / "run"
    code = cli.main(generate(tiny, story, out))
    assert code == 0
    return story, out


def generate(tiny, story, out, *more):
    words = ["generate", "--weights", tiny.weights, "--story", story, "--out", out, *more]
    return [str(word) for word in words]


def refused(capsys, arguments, says):
    """The command fails with code 2 and one line, beside those of the log, that contains `says`."""
    capsys.readouterr()
    assert cli.main([str(a) for a in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    error = "\n".join(line for line in lines if not line.startswith("INFO: "))
    assert says in error and "\n" not in error and error.startswith("bvjax: "), error
    return error


def test_help(capsys):
    for words in (["--help"], ["generate", "--help"], ["redo", "--help"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert stop.value.code == 0
    text = capsys.readouterr().out
    for word in ("resume", "doctor", "--story", "--set", "--from-chunk", "examples"):
        assert word in text


def test_unknown_command_and_missing_arguments():
    for words in (["paint"], ["generate"], []):
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert stop.value.code == 2


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"bvjax {bvjax.__version__} (jax ")


def test_a_prompt_instead_of_a_story(tiny, tmp_path, capsys):
    words = ["generate", "--weights", str(tiny.weights), "--out", str(tmp_path / "run")]
    for more, says in (
        (["--prompt", " "], "the prompt is empty"),
        (["--prompt", "Pip \udcff"], "the prompt has half a character"),
        (["--prompt", "Pip waves (0s - 3s)."], "the prompt has times"),
        (["--prompt", "Pip waves.", "--chunks", "0"], "--chunks is 0"),
        (["--prompt", "Pip waves.", "--chunks", "9" * 20], "--chunks is 999"),
    ):
        refused(capsys, [*words, *more], says)
    with pytest.raises(SystemExit):
        cli.main([*words, "--prompt", "Pip waves.", "--story", "fox.json"])
    assert not (tmp_path / "run").exists()
    assert (
        cli.main(
            [*words, "--prompt", "Pip waves.", "--chunks", "2", "--set", "guidance.negative=7"]
        )
        == 0
    )
    stored = json.loads((tmp_path / "run" / "story.json").read_text())
    assert stored["captions"] == ["Pip waves."] * 2


def test_names_that_no_disk_takes(tiny, world, tmp_path, capsys):
    long = tmp_path / ("x" * 300)
    refused(capsys, generate(tiny, world[0], long), "File name too long")
    refused(capsys, ["resume", long], "File name too long")
    refused(capsys, ["resume", "a\x1b[2Jb"], r"a\u001b[2Jb is not a run folder")
    refused(capsys, ["generate", "--weights", long, "--story", world[0], "--out", "a"], "too long")
    convert = ["convert", tiny.weights, "--to", "bvjax"]
    refused(capsys, [*convert, long], "x... is a name of 300 bytes; it can have 255")
    refused(capsys, [*convert, world[0]], "is a file; a folder is to be written there")
    assert list(tmp_path.iterdir()) == []


def test_generate_and_go_on(tiny, world, tmp_path, capsys):
    story, out = world
    assert len(video_io.read_video(out / "video.mp4")[0]) == 25
    capsys.readouterr()
    for words in (generate(tiny, story, out), ["resume", str(out)]):  # the same command again
        assert cli.main(words) == 0
        text = capsys.readouterr()
        assert f"{out} is finished" in text.out and "chunk 3/3" not in text.err
    shutil.copytree(out, tmp_path / "run")
    (tmp_path / "run" / "report.json").unlink()
    assert cli.main(["resume", str(tmp_path / "run")]) == 0
    assert cli.main(["decode", str(out)]) == 0
    assert cli.main(["report", str(out)]) == 0
    text = capsys.readouterr()
    assert "25 frames" in text.out and "report.png" in text.out
    assert "3 chunks of 1 s" in text.out and "chunk 3/3" in text.err


def test_redo(world, tmp_path, capsys):
    _, out = world
    shutil.copytree(out, tmp_path / "run")
    before = (out / "latents" / "chunk_02.npy").read_bytes()
    words = ["redo", str(tmp_path / "run"), "--from-chunk", "3"]
    assert cli.main([*words, "--caption", "3=Pip comes back with a zebra (08s - 11s)."]) == 0
    assert "never saw the words zebra" in capsys.readouterr().err
    stored = json.loads((tmp_path / "run" / "story.json").read_text())
    assert stored["captions"][2] == "Pip comes back with a zebra."
    assert (tmp_path / "run" / "latents" / "chunk_02.npy").read_bytes() == before
    for edit, says in (
        ("third", "--caption takes"),
        ("²=Pip waves.", "--caption takes"),
        ("3=\u200b", "the new caption 3 is empty"),
        ("3=Pip \udcff", "the new caption 3 has half a character"),
        ("3=Pip waves (0:00).", 'the new caption 3: "(0:00)" looks like times'),
    ):
        refused(capsys, [*words, "--caption", edit], says)
    refused(capsys, [*words, "--caption", "2=x"], "caption 2 cannot be edited")
    twice = ["--caption", "3=Pip waves.", "--caption", "3=Pip hops."]
    refused(capsys, [*words, *twice], "--caption 3 is given twice")
    refused(capsys, [*words, "--seed", "-1"], "the seed is -1")


def test_from_an_image_with_overrides(tiny, world, tmp_path):
    story, _ = world
    image = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    PIL.Image.fromarray(image).save(tmp_path / "first.png")
    more = ("--image", tmp_path / "first.png", "--chunks", "2", "--scale", "2", "--seed", "4")
    assert cli.main(generate(tiny, story, tmp_path / "run", *more)) == 0
    assert video_io.read_video(tmp_path / "run" / "video.mp4")[0].shape == (17, 64, 64, 3)


def write_clip(path, seconds):
    """An mp4 at 12 frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number in range(int(12 * seconds)):
            picture = np.full((48, 64, 3), 2 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.slow
def test_from_a_video(tiny, world, tmp_path, capsys):
    story, _ = world
    more = ("--video", write_clip(tmp_path / "clip.mp4", 4), "--scale", "1")
    out = tmp_path / "run"
    assert cli.main(generate(tiny, story, out, *more, "--video-chunks", "1")) == 0
    told = capsys.readouterr()
    assert "a video gives chunk 1\n" in told.out and "latent frame 3/3" in told.err
    given = {n: (out / "latents" / f"chunk_0{n}.npy").read_bytes() for n in (0, 1)}
    video = video_io.read_video(out / "video.mp4")[0]
    assert video.shape == (25, 32, 32, 3)
    words = ["redo", out, "--from-chunk", "2", "--caption", "2=Pip waves."]
    assert cli.main([str(word) for word in words]) == 0
    for number, content in given.items():
        assert (out / "latents" / f"chunk_0{number}.npy").read_bytes() == content
    again = video_io.read_video(out / "video.mp4")[0]
    assert (
        np.abs(again[:9].astype(int) - video[:9]).max()
        < np.abs(again[9:].astype(int) - video[9:]).max()
    )
    assert cli.main(["decode", str(out)]) == 0 and cli.main(["report", str(out)]) == 0
    refused(capsys, ["redo", out, "--from-chunk", "1"], "it can be 2 to 3")
    assert cli.main(generate(tiny, story, tmp_path / "all", *more)) == 0
    assert "a video gives chunk 1 to 2\n" in capsys.readouterr().out
    refused(capsys, generate(tiny, story, out, *more), "already holds another run")
    short = write_clip(tmp_path / "short.mp4", 1)
    refused(capsys, generate(tiny, story, tmp_path / "no", "--video", short), "is too short")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--set", "memory.tao=0.97"], "the nearest is 'memory.tau'"),
        (["--set", "memory.tau=2"], "memory.tau is 2"),
        (["--set", "memory.tau=much"], "memory.tau must be a number"),
        (["--set", "memory.tau"], "section.key=value"),
        (["--set", "retrieval.kind=psychic"], "it can be semantic"),
        (["--set", "chunk.width=40"], "the nearest is"),
        (["--set", "guidance.memory=-1"], "guidance.memory is -1.0; it must be 0 or more"),
        (
            ["--set", "vae.conv_impl=fft"],
            "vae.conv_impl is 'fft'; it can be auto, taps, 3d, winograd",
        ),
        (
            ["--set", "dit.matmul_precision=int8"],
            "dit.matmul_precision is 'int8'; it can be float32, bfloat16",
        ),
        (["--set", "dit.dim=64"], "dit.dim is 32 in these weights"),
        (["--steps", "0"], "sampler.steps is 0"),
        (["--steps", "9", "--set", "sampler.steps=2"], "--steps and --set sampler.steps are both"),
        (["--set", "memory.tau=0.9", "--set", "memory.tau=0.8"], "memory.tau is given twice"),
        (["--scale", "300"], "the scale is 300; at 32x32 pixels it can be 1 to 186"),
        (
            ["--set", "guidance.negative='" + "Pip " * 90 + "'"],
            "the negative prompt (guidance.negative) has",
        ),
        (["--preset", "mini"], "holds weights of preset 'tiny', not of 'mini'"),
        (["--preset", "maxi"], "there is no preset 'maxi'"),
        (["--image", "nowhere.png"], "nowhere.png"),
        (["--video", "nowhere.mp4"], "cannot read the video nowhere.mp4: No such file"),
        (["--video", "a.mp4", "--image", "a.png"], "are both given"),
        (["--video", "a.mp4", "--video-chunks", "3"], "it can be 1 to 2"),
        (["--video", "a.mp4", "--chunks", "1"], "no chunk is left to generate"),
        (["--video-chunks", "1"], "there is no --video"),
        (["--chunks", "7"], "1 to 3"),
    ],
)
def test_bad_options(tiny, world, tmp_path, capsys, more, says):
    refused(capsys, generate(tiny, world[0], tmp_path / "run", *more), says)
    assert not (tmp_path / "run").exists()


def test_bad_stories(tiny, tmp_path, capsys):
    story = tmp_path / "story.json"
    for content, says in (
        ("{", "not valid JSON"),
        ('{"captions": []}', "no captions"),
        ('["a (0s - 3s)", "b (3s - 5s)"]', "overlap"),
        ('["a (0s - 3s)", "b (5s - 6s)"]', "gap"),
        (json.dumps(["word " * 200]), "shorten it"),
    ):
        story.write_text(content)
        refused(capsys, generate(tiny, story, tmp_path / "run"), says)
    missing = generate(tiny, tmp_path / "none.json", tmp_path / "run")
    refused(capsys, missing, "cannot read the story")
    assert not (tmp_path / "run").exists()


def test_bad_folders(tiny, world, tmp_path, capsys):
    story, out = world
    says = "already holds another run (its seed is 0, not 9)"
    refused(capsys, generate(tiny, story, out, "--seed", "9"), says)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    refused(capsys, generate(tiny, story, tmp_path / "full"), "is not empty")
    refused(capsys, generate(tiny, story, "/proc/run"), "cannot write to /proc/run")
    refused(capsys, ["resume", tmp_path / "full"], "is not a run folder")
    refused(capsys, ["decode", tmp_path / "nowhere"], "is not a run folder")


def test_no_space(tiny, world, tmp_path, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10 << 20))
    refused(capsys, generate(tiny, world[0], tmp_path / "run"), "not enough space")
    monkeypatch.undo()

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("bvjax.runs.run_dir.RunDir.save_latents", full)
    capsys.readouterr()
    assert cli.main(generate(tiny, world[0], tmp_path / "run")) == 1
    told = capsys.readouterr().err
    assert (
        f"no space left on the disk; what is finished is kept, 'python -m bvjax resume {tmp_path}"
        in told
    )


def test_bad_weights(tiny, world, tmp_path, capsys):
    story, out = world
    refused(
        capsys,
        ["generate", "--story", story, "--out", tmp_path / "r", "--preset", "wan-14b"],
        "give a weights folder with --weights",
    )
    for damage, says in (
        (lambda f: (f / "dit.safetensors").unlink(), "there is no weights file"),
        (lambda f: cut(f / "vae.safetensors"), "is damaged"),
        (lambda f: cut(f / "tokenizer.model"), "is damaged or cut short"),
        (lambda f: (f / "config.json").write_text("{"), "is not valid JSON"),
        (lambda f: (f / "config.json").unlink(), "not a weights folder"),
        (lambda f: swap(f / "config.json", '"ffn_dim": 64', '"ffn_dim": 128'), "instead of"),
        (shutil.rmtree, "there is no weights folder"),
    ):
        folder = tmp_path / "weights"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tiny.weights, folder)
        damage(folder)
        words = ["generate", "--weights", folder, "--story", story, "--out", tmp_path / "run"]
        refused(capsys, words, says)
    shutil.copytree(tiny.weights, folder)
    swap(folder / "vocabulary.txt", "pip", "pop")  # not part of what makes the video
    assert cli.main(["decode", str(out), "--weights", str(folder)]) == 0
    content = bytearray((folder / "dit.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "dit.safetensors").write_bytes(content)
    refused(capsys, ["resume", out, "--weights", folder], "are not those that")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def swap(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_stopped_by_hand(tiny, world, tmp_path, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("bvjax.runs.run_dir.RunDir.save_latents", stop)
    assert cli.main(generate(tiny, world[0], tmp_path / "run")) == 130
    assert f"'python -m bvjax resume {tmp_path / 'run'}' goes on" in capsys.readouterr().err
    monkeypatch.setattr("bvjax.story.load_story", stop)  # before there is a run
    assert cli.main(generate(tiny, world[0], tmp_path / "other")) == 130
    assert capsys.readouterr().err.strip() == "bvjax: stopped"


def test_doctor(tiny, monkeypatch, capsys):
    monkeypatch.setattr(doctor.bundles, "find_weights", lambda *_: tiny.weights)
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert text.count("ok ") == 7 and "17 frames" in text and "backend cpu" in text
    assert text.splitlines()[-1] == "all is well: videos can be made here"
    monkeypatch.setattr(doctor.video_io, "read_video", lambda _: (np.zeros((1, 2, 2, 3)), 8.0))
    monkeypatch.setattr(doctor, "_two_chunks", lambda: 1 // 0)
    assert cli.main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "WRONG video" in text and "WRONG two chunks: ZeroDivisionError: " in text
    assert text.splitlines()[-1].endswith("as it is: see video, two chunks")


def test_doctor_survives_a_missing_device(tiny, monkeypatch, capsys):
    def missing():
        raise RuntimeError("Unable to initialize backend 'cuda': not here\n (set JAX_PLATFORMS='')")

    monkeypatch.setattr(doctor.bundles, "find_weights", lambda *_: tiny.weights)
    monkeypatch.setattr(doctor.jax, "devices", missing)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert cli.main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    wrong = [line for line in lines if line.startswith("WRONG")]
    assert [line.split(":")[0] for line in wrong] == ["WRONG devices", "WRONG two chunks"]
    assert all("JAX cannot use 'cuda' here" in line for line in wrong)
    assert lines[-1].endswith("see devices, two chunks") and len(lines) == 8


@pytest.mark.parametrize(
    "words, says",
    [
        (["--topology", "v5p"], "v5p:2x2x1"),
        (["--topology", "v5p:2x2x1", "--minutes", "0"], "--minutes is 0"),
        (["--topology", "v5p:2x2x1", "--mesh", "rows=2"], "context=4,tensor=2"),
        (["--topology", "v5p:2x2x1", "--batch", "2"], "--batch is of --phase train"),
        (
            ["--topology", "v5p:2x2x1", "--phase", "train", "--decode"],
            "--decode is of --phase generate",
        ),
        (
            ["--topology", "v5p:2x2x1", "--phase", "self-forcing", "--decode"],
            "--decode is of --phase generate",
        ),
        (["--topology", "v5p:2x2x1", "--set", "dit.layers=2"], "num_layers"),
    ],
)
def test_a_plan_of_nothing_is_refused(capsys, words, says):
    refused(capsys, ["plan", "--preset", "mini", *words], says)
