"""Run folders among videos: one video each, with its story; what was replaced or given is no video."""

import json

import pytest

from bvjax import cli
from bvjax.errors import UserError
from bvjax.lvbench.video import find_videos, probe, unfinished_runs
from tests.bvjax.lvbench.clips import write_clip

LEVELS = [[20], [40], [60], [90]] * 3


def make_run(folder, captions=("A fox runs.", "It sleeps."), video=True, report=True):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "story.json").write_text(json.dumps({"title": "Fox", "captions": captions}))
    write_clip(folder / "archive/001/video.mp4", [[9]] * 4)
    (folder / "archive/001/story.json").write_text("{}")
    write_clip(folder / "given.mkv", [[9]] * 4)
    if report:
        (folder / "report.json").write_text("{}")
    if video:
        write_clip(folder / "video.mp4", LEVELS)
    return folder


def test_a_run_is_one_video(tmp_path):
    run = make_run(tmp_path / "runs" / "fox")
    other = write_clip(tmp_path / "runs" / "clip.MOV", LEVELS, codec="libx264")
    assert find_videos(run) == [run / "video.mp4"]
    assert find_videos(tmp_path / "runs") == [other, run / "video.mp4"]
    assert probe(run / "video.mp4", run).prompt == "A fox runs. It sleeps."
    assert probe(other, tmp_path).prompt is None
    assert not unfinished_runs(tmp_path) and not unfinished_runs(run)


@pytest.mark.parametrize("suffix", [".MOV", ".m4v", ".ts", ".mpg"])
def test_videos_by_any_name_are_taken(tmp_path, suffix):
    codec = {".ts": "libx264", ".mpg": "mpeg2video"}.get(suffix, "libx264")
    write_clip(tmp_path / f"a{suffix}", LEVELS, fps=25, codec=codec)
    assert [p.name for p in find_videos(tmp_path)] == [f"a{suffix}"]


def test_runs_without_a_whole_video_are_named(tmp_path):
    make_run(tmp_path / "begun", video=False)
    make_run(tmp_path / "halfway", report=False)
    assert unfinished_runs(tmp_path) == [
        ("begun", "the run has no video.mp4"),
        ("halfway", "the run is not finished: its video is a part"),
    ]
    with pytest.raises(UserError, match="begun has no video.mp4; 'resume' or 'decode' makes it"):
        find_videos(tmp_path / "begun")


def run(capsys, *words):
    capsys.readouterr()
    code = cli.main([str(word) for word in words])
    return code, *capsys.readouterr()


def measured(capsys, run_folder, out):
    result = run(
        capsys, "evaluate", "--videos", run_folder, "--out", out, "--metrics", "clarity",
        "--suite", "paper", "--chunks", "4",
    )  # fmt: skip
    assert result[0] == 0
    return json.loads((out / "results.json").read_text()), result


def test_evaluate_compare_and_validate_know_runs(tmp_path, capsys):
    fox, again = make_run(tmp_path / "fox"), make_run(tmp_path / "again")
    bear = make_run(tmp_path / "bear", ["A bear eats."])
    results, (_, output_text, _) = measured(capsys, fox, tmp_path / "of_fox")
    (video,) = results["videos"]
    assert (video["name"], video["prompt"]) == ("video.mp4", "A fox runs. It sleeps.")
    assert (
        "of 1 video." in output_text and "median" not in output_text and "95 %" not in output_text
    )
    measured(capsys, again, tmp_path / "of_again")
    measured(capsys, bear, tmp_path / "of_bear")
    paths = [tmp_path / f"of_{name}" / "results.json" for name in ("fox", "again", "bear")]
    code, output_text, _ = run(capsys, "compare", paths[0], paths[1])
    assert (
        code == 0
        and "1 pair of videos" in output_text
        and "Wilcoxon" not in output_text
        and " p " not in output_text
    )
    code, _, output_text = run(capsys, "compare", paths[0], paths[2])
    assert (
        code == 2
        and "shows another story in A than in B" in output_text
        and output_text.count("\n") == 1
    )
    code, output_text, _ = run(capsys, "validate", fox)
    assert (
        "video.mp4" in output_text and "given" not in output_text and "archive" not in output_text
    )
    assert "archive" not in run(capsys, "validate", tmp_path)[1]
