"""The judge on true videos of cases, as frames and as files that others made; tables and plots of what it says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.media.video_io import VideoWriter
from data_pipelines.storyworld import render
from data_pipelines.storyworld.staged import Staging
from experiments.evaluation.judge import load_judge
from experiments.evaluation.results import Results
from experiments.memory_bench import videos
from experiments.memory_bench.__main__ import main
from experiments.memory_bench.axes import AXES, points
from experiments.memory_bench.cases import Case, write_cases
from experiments.memory_bench.report import table
from experiments.memory_bench.running import TRUE
from experiments.memory_bench.scores import summary

CASE = Case(0, Staging(2))
FPS, SIZE, SHAPE = 5, 96, (80, 128)  # not the judge's


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Stories, and a true video of another rate and shape beside them."""
    folder = tmp_path_factory.mktemp("made")
    write_cases(folder, [CASE])
    frames = render(CASE.story, range(1 + 7 * 4 * FPS), height=SIZE, width=SIZE, fps=FPS)
    wide = np.zeros((len(frames), SIZE, 2 * SIZE, 3), np.uint8)  # cut off again
    wide[:, :, SIZE // 2 : -SIZE // 2] = frames
    write(folder / f"{CASE.key}.mp4", wide)
    return folder, wide


def write(path, frames):
    with VideoWriter(path, FPS, 1) as writer:
        writer.write(frames)


def test_a_true_video_made_elsewhere_is_right_in_everything(made, tmp_path, capsys):
    folder, _ = made
    arguments = ["judge", "--videos", str(folder), "--cases", str(folder), "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert "| gap | 2 | 100 % (21-100)" in capsys.readouterr().out
    (record,) = Results(tmp_path / "results.json")._records["videos"]["records"].values()
    right = dict.fromkeys(("species", "colour", "place"), True)
    assert record["right"] == record["introduced"] == right
    assert record["same"] == {"subject": True, "place": True}
    assert (tmp_path / "report.videos.png").read_bytes().startswith(b"\x89PNG")
    assert "Videos made elsewhere" in (tmp_path / "report.md").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["videos"]["points"]
    page = tmp_path / "page.md"
    page.write_text("Before.\n<!-- memory_bench -->\nold\n<!-- end -->\nAfter.\n")
    report = ["report", "--out", str(tmp_path), "--page"]
    assert main([*report, str(page)]) == 0
    text = page.read_text()
    assert text.startswith("Before.") and text.endswith("After.\n") and "old" not in text
    assert "| gap | 2 |" in text and "(page.videos.png)" in text
    assert (tmp_path / "page.videos.png").is_file()
    page.write_text("No place for it.")
    assert main([*report, str(page)]) == 2
    # Nothing is judged again, and the report can be made again.
    assert main(arguments) == 0 and main(["report", "--out", str(tmp_path)]) == 0


def test_a_return_without_its_subject_is_wrong(made):
    folder, wide = made
    judge, forgetful = load_judge(), wide.copy()
    first = 6 * 4 * FPS
    forgetful[first + 1 :] = wide[first]  # the camera stays where it was
    write(folder / "forgetful.mp4", forgetful)
    met, returned = videos.read_chunks(folder / "forgetful.mp4", CASE, (3, 7))
    record = videos.record_of(judge, CASE, videos.FPS, returned, met)
    assert all(record["introduced"].values())
    assert not record["right"]["place"] and not record["same"]["place"]
    assert not (record["right"]["species"] and record["right"]["colour"])


def test_frames_are_taken_at_their_times(tmp_path, made):
    """Chunk 3 is from second 8 to second 12, and the last frame of a video of whole chunks may be missing."""
    grey = np.repeat(np.arange(7 * 4 * FPS, dtype=np.uint8), 64 * 64 * 3)
    write(tmp_path / "grey.mp4", grey.reshape(-1, 64, 64, 3))
    met, returned = videos.read_chunks(tmp_path / "grey.mp4", CASE, (3, 7))
    assert met.shape == returned.shape == (32, 64, 64, 3)
    for frames, second in ((met, 8), (returned, 24)):
        at = frames.mean(axis=(1, 2, 3))
        want = FPS * (second + np.arange(1, 33) / 8)
        want = np.minimum(want, 7 * 4 * FPS - 1)
        assert np.abs(at - want).max() < 3


def test_folders_that_do_not_do_are_refused_in_a_sentence(made, tmp_path, capsys):
    folder, wide = made
    run = lambda where: main(
        ["judge", "--videos", str(where), "--cases", str(folder), "--out", str(tmp_path / "out")]
    )
    assert run(tmp_path / "none") == 2
    assert "there is no folder" in capsys.readouterr().err
    (tmp_path / "short").mkdir()
    assert run(tmp_path / "short") == 2
    assert f"has no video {CASE.key}.mp4; each case" in capsys.readouterr().err
    write(tmp_path / "short" / f"{CASE.key}.mp4", wide[: 20 * FPS])
    assert run(tmp_path / "short") == 2
    assert "is too short: case gap002-subjects3-places2-name-0000 lasts 28 s" in (
        capsys.readouterr().err
    )
    (tmp_path / "short" / f"{CASE.key}.mp4").write_text("no video")
    assert run(tmp_path / "short") == 2
    assert "error: cannot read" in capsys.readouterr().err
    assert main(["report", "--out", str(tmp_path)]) == 2
    assert "there are no results" in capsys.readouterr().err


def test_rates_are_those_of_the_records():
    right = lambda subject, place: {"species": subject, "colour": True, "place": place}
    name = lambda seed, settings="": f"{Case(seed).key} | {settings}"
    records = {
        name(0): {"right": right(True, True), "hit": True, "kept": True},
        name(1): {"right": right(False, True), "hit": True, "kept": True},
        name(0, "memory.tau=0.5"): {"right": right(False, False), "hit": False, "kept": True},
        name(0, TRUE): {"right": right(True, True)},
    }
    found = summary([p for p in points(["gap", "wording"], False)], records)
    gap, wording = found["points"]  # the same condition on two axes
    assert gap["axis"] == "gap" and gap["value"] == 12 and wording["value"] == "name"
    assert gap["subject"]["rate"] == 0.5 and gap["subject"]["n"] == 2
    assert gap["colour"]["rate"] == gap["place"]["rate"] == gap["hit"]["rate"] == 1.0
    assert gap["same subject"]["n"] == 0
    assert found[TRUE]["subject"] == {**found[TRUE]["subject"], "rate": 1.0, "n": 1}
    text = table(found)
    assert (
        "| gap | 12 | 50 % (9-91) | 100 % (34-100) | 100 % (34-100) | 100 % (34-100) | 2 |" in text
        and "as introduced" not in text
    )
    assert "*chance* |  | 1.6 % | 12.5 % |  |  |  |" in text
    assert [row["axis"] for row in summary([], records)["points"]] == [] and "gap" in AXES


def test_results_that_no_run_wrote_are_refused(tmp_path, capsys):
    (tmp_path / "results.json").write_text('{"given": {"result": {"points": [{}]}}}')
    assert main(["report", "--out", str(tmp_path)]) == 2
    assert "is not what this benchmark writes" in capsys.readouterr().err
    with pytest.raises(UserError, match="is damaged"):
        summary([], {f"{CASE.key} | ": {}})
