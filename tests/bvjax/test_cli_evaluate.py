"""evaluate, compare and validate as a person would run them, with the metric that is cheapest."""

import json

import numpy as np
import pytest

from bvjax import cli
from tests.bvjax.lvbench.clips import write_clip


def noise_clip(path, amounts, seed=0):
    """A frame of noise per amount: Eq. 20's clarity grows with its square."""
    rng = np.random.default_rng(seed)
    frames = [np.clip(128 + a * rng.normal(size=(16, 24, 1)), 0, 255) for a in amounts]
    return write_clip(path, [np.broadcast_to(f, (16, 24, 3)).astype(np.uint8) for f in frames])


@pytest.fixture
def videos(tmp_path):
    steady, growing = [20.0] * 20, [20.0] * 10 + [40.0] * 10
    noise_clip(tmp_path / "videos" / "steady.mkv", steady)
    noise_clip(tmp_path / "videos" / "deep" / "growing.mkv", growing, 1)
    return tmp_path / "videos"


def run(capsys, *words):
    capsys.readouterr()
    code = cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def evaluate(capsys, videos, out, *more):
    return run(
        capsys, "evaluate", "--videos", videos, "--out", out, "--suite", "paper",
        "--metrics", "clarity", "--chunks", "4", *more,
    )  # fmt: skip


def test_a_folder_from_videos_to_files(videos, tmp_path, capsys):
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({"steady": "Snow on a screen.", "other": "Nothing."}))
    out = tmp_path / "out"
    code, told, _ = evaluate(capsys, videos, out, "--prompts", prompts, "--name", "noise")
    assert code == 0 and "Clarity" in told
    for file in ("report.html", "table.md", "results.json", "results.csv", "summary.csv"):
        assert str(out / file) in told and (out / file).stat().st_size
    results = json.loads((out / "results.json").read_text())
    assert results["config"]["name"] == "noise" and results["config"]["segments"] == 4
    assert results["provenance"]["decoder"].startswith("PyAV")
    steady, growing = sorted(results["videos"], key=lambda v: v["name"], reverse=True)
    assert (steady["name"], growing["name"]) == ("steady.mkv", "deep/growing.mkv")
    assert steady["prompt"] == "Snow on a screen." and growing["prompt"] is None
    scores = growing["scores"]["paper/clarity"]
    ratio = np.array(scores["chunks"]) / scores["chunks"][0]
    np.testing.assert_allclose(ratio, [1, 1, 4, 4], rtol=0.25)  # twice the noise
    assert scores["vde"] == pytest.approx(np.abs(ratio - 1) @ [0, 3, 2, 1])
    assert scores["moved"]["chunk"] == 3
    assert abs(steady["scores"]["paper/clarity"]["vde"]) < 1
    page = (out / "report.html").read_text()
    assert "deep/growing.mkv" in page and "data:image/jpeg" in page


def test_again_changes_nothing_and_a_comparison_with_itself_neither(videos, tmp_path, capsys):
    out = tmp_path / "out"
    evaluate(capsys, videos, out)
    first = {f.name: f.read_bytes() for f in out.iterdir() if f.is_file()}
    code, _, told = evaluate(capsys, videos, out)
    assert code == 0 and "frame/s" not in told  # nothing was decoded
    assert first == {f.name: f.read_bytes() for f in out.iterdir() if f.is_file()}
    code, told, _ = run(capsys, "compare", out / "results.json", out / "results.json")
    assert code == 0 and "2 pairs" in told
    evaluate(capsys, videos, tmp_path / "log", "--weights", "log")
    code, _, told = run(capsys, "compare", out / "results.json", tmp_path / "log" / "results.json")
    assert code == 2 and "weights" in told


def test_what_could_not_be_measured_is_told_and_counts(videos, tmp_path, capsys):
    (videos / "broken.mp4").write_bytes(b"no video at all")
    noise_clip(videos / "short.mkv", [20.0] * 3)
    out = tmp_path / "out"
    code, _, told = evaluate(capsys, videos, out)
    assert code == 1 and "broken.mp4" in told and "short.mkv has 3 frames" in told
    code, _, told = evaluate(capsys, videos, out, "--keep-going")
    assert code == 0 and "broken.mp4" in told
    results = json.loads((out / "results.json").read_text())
    assert {f["name"] for f in results["failed"]} == {"broken.mp4", "short.mkv"}
    assert len(results["videos"]) == 2


def test_parts_of_the_work_on_several_machines(videos, tmp_path, capsys):
    out = tmp_path / "out"
    code, told, _ = evaluate(capsys, videos, out, "--shard", "0/2")
    assert code == 0 and "wait for part 1 of 2" in told and not (out / "results.json").exists()
    code, told, _ = evaluate(capsys, videos, out, "--shard", "1/2")
    assert code == 0 and (out / "results.json").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--videos"),
        (["--videos", "nowhere"], "no folder nowhere"),
        (["--suite", "other"], "official, paper and all"),
        (["--suite", "paper", "--metrics", "dynamic"], "no metric 'dynamic'"),
        (["--weights", "cubic"], "linear or log"),
        (["--chunks", "1"], "at least 2"),
        (["--flow", "other"], "dis, lk, raft"),
        (["--subject", "other"], "histogram, dino"),
        (["--batch", "0"], "at least 1"),
        (["--mesh", "tensor=2"], "data=N"),
        (["--mesh", "data=99"], "devices"),
        (["--mesh", "data=²"], "data=N"),
        (["--shard", "0/²"], "--shard is I/N"),
        (["--shard", "4/4"], "0 to N - 1"),
        (["--prompts", "nowhere.json"], "nowhere.json"),
        (["--aesthetic", "nothing:here"], "nothing:here"),
    ],
)
def test_bad_requests_get_a_sentence_before_any_work(videos, tmp_path, capsys, words, says):
    given = ["--videos", videos] if words and "--videos" not in words else []
    code, _, told = run(capsys, "evaluate", *given, "--out", tmp_path / "out", *words)
    assert code == 2 and told.startswith("bvjax: ") and says in told, told
    assert not (tmp_path / "out").exists()


def test_missing_weights_are_listed_before_a_video_is_decoded(videos, tmp_path, capsys):
    folder = tmp_path / "weights"
    (videos / "broken.mp4").write_bytes(b"would be refused when decoded")
    words = ("evaluate", "--videos", videos, "--out", tmp_path / "out", "--weights-dir", folder)
    code, _, told = run(capsys, *words, "--suite", "official")
    assert code == 2 and "broken" not in told
    for file in ("dino_vitbase16_pretrain.pth", "ViT-B-32.pt", "amt-s.pth", "raft-things.pth"):
        assert file in told
    code, _, told = run(capsys, *words, "--suite", "official", "--metrics", "motion")
    assert code == 2 and "amt-s.pth" in told and "ViT-B-32.pt" not in told
    code, _, told = run(capsys, *words, "--metrics", "dynamic")  # of no suite without weights
    assert code == 2 and "raft-things.pth" in told
    code, told, _ = run(capsys, *words, "--metrics", "clarity", "--chunks", "4", "--keep-going")
    assert code == 0 and "Clarity (paper)" in told and "official" not in told
    code, told, _ = run(capsys, "evaluate", "--list-weights", "--weights-dir", folder)
    assert code == 0 and told.count("missing") >= 7 and "https://" in told and "MIT" in told


def test_validate(videos, capsys):
    code, told, _ = run(capsys, "validate", videos)
    assert code == 1 and "steady.mkv" in told  # too short for LV-Bench, and has no captions
