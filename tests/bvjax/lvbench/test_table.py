"""Tables in Table 2's order, CSV with all digits, and VBench's own files."""

import csv
import io
import pathlib
import re

import pytest

from bvjax.errors import UserError
from bvjax.lvbench import csv_file, references, table, vbench_file
from tests.bvjax.lvbench.made_up_results import made_up
from tests.bvjax.lvbench.small_results import evaluation

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture
def results():
    return evaluation()


def headings(lines):
    return [line.split(" | ")[1:] for line in lines if line.startswith("| Method")]


def test_columns_are_those_of_table_2():
    metrics = {
        f"official/{key}": {
            "title": title,
            "suite": "official",
            "complement": complement,
            "better": dict.fromkeys(("vde", "whole"), key != "dynamic" or None),
        }
        for key, title, complement in (
            ("dynamic", "Dynamic", "dynamic_degree"),
            ("clarity", "Clarity", "imaging_quality"),
            ("aesthetic", "Aesthetic", "aesthetic_quality"),
            ("motion", "Motion", "motion_smoothness"),
            ("background", "Background", "background_consistency"),
            ("subject", "Subject", "subject_consistency"),
        )
    }
    drift, whole = ([c.heading for c in result] for _, result in table.columns(metrics))
    assert drift == [
        "VDE Subject ↓",
        "VDE Background ↓",
        "VDE Motion ↓",
        "VDE Aesthetic ↓",
        "VDE Clarity ↓",
    ]
    assert whole == ["Subject Consistency ↑", "Background Consistency ↑", "Motion Smoothness ↑",
                     "Aesthetic Quality ↑", "Image Quality ↑", "Dynamic Degree"]  # fmt: skip


def test_markdown_has_the_means_and_the_best_in_bold(results):
    lines = table.markdown([results])
    assert "| ours | 0.3611 | 0.0000 |" in lines and "**" not in "".join(lines)
    assert [len(h) for h in headings(lines)] == [2, 2, 1]
    worse = evaluation()
    worse["config"]["name"] = "a|b"
    worse["aggregate"]["official/subject"]["vde"]["mean"] = 0.9
    worse["aggregate"]["official/subject"]["whole"]["mean"] = 0.9
    worse["aggregate"]["paper/clarity"]["vde"]["mean"] = None
    lines = table.markdown([results, worse])
    assert "| ours | **0.3611** | **0.0000** |" in lines
    assert "| a\\|b | 0.9000 | **0.0000** |" in lines  # equal texts are equally good
    assert "| a\\|b | **0.9000** | **0.6000** |" in lines
    assert "| ours | **1.2500** |" in lines and "| a\\|b | – |" in lines
    worse["config"]["segments"] = 4
    with pytest.raises(UserError, match="chunks are 3 in ours"):
        table.markdown([results, worse])


def test_terminal_lines_align_and_tell_what_is_left_out(results):
    lines = table.text(results)
    rows = lines[:4]
    assert {row.rindex(row.split()[-1][-1]) for row in rows} == {max(map(len, rows)) - 1}
    assert re.search(
        r"Clarity \(paper\) +1\.2500 +0\.0000 to 2\.5000 +1\.2500 +42.% +7\.0000 +2$", rows[3]
    )
    assert "  Clarity (paper) of b/b.mp4: no edge in chunk 2" in lines


def test_csv_has_a_row_a_chunk_and_a_row_a_video(results):
    long = list(csv.DictReader(io.StringIO(csv_file.long_csv(results))))
    assert len(long) == 3 * (3 + 3 + 1)
    assert long[0] == {
        "video": "a.mp4",
        "metric": "official/subject",
        "chunk": "1",
        "start": "0.0",
        "end": "1.0",
        "score": "0.9",
    }
    lost = [r for r in long if r["video"] == "b/b.mp4" and r["metric"] == "paper/clarity"]
    assert [row["score"] for row in lost] == ["1.0", "", "1.0"]
    assert long[-1]["start"] == ""  # nobody knows how fast it plays
    wide = list(csv.DictReader(io.StringIO(csv_file.wide_csv(results))))
    assert [row["name"] for row in wide] == ["a.mp4", "b/b.mp4", "c.gif"]
    assert wide[0]["paper/clarity/vde"] == "2.5" and wide[2]["official/subject/vde"] == ""
    assert wide[1]["official/motion/reason"].startswith("chunk 1 scores 0")


# ---- VBench -------------------------------------------------------------------------------------
def test_vbench_file_is_what_its_scripts_read(results):
    results["metrics"]["paper/clarity"]["complement"] = "imaging_quality"
    results["videos"][1]["prompt"] = "A fox."
    results["videos"][2]["name"] = "A dog runs-12.gif"
    results["provenance"]["videos"] = "clips"
    result = vbench_file.files(results, "ours")
    scores = result["ours_eval_results.json"]
    assert list(scores) == ["subject_consistency", "motion_smoothness", "imaging_quality"]
    mean, videos = scores["subject_consistency"]
    assert mean == pytest.approx((29 * 0.8 + 299 * 0.5) / 328)  # over frames
    assert videos == [
        {"video_path": "clips/a.mp4", "video_results": 0.8},
        {"video_path": "clips/b/b.mp4", "video_results": 0.5},
    ]
    # VBench divides the mean of imaging quality by 100, but no video's.
    mean, videos = scores["imaging_quality"]
    assert mean == pytest.approx(sum(v["video_results"] for v in videos) / len(videos) / 100)
    info = result["ours_full_info.json"]
    assert [one["prompt_en"] for one in info] == ["a", "A fox.", "A dog runs"]
    assert info[1]["video_list"] == ["clips/b/b.mp4"] and info[0]["dimension"] == list(scores)


def test_without_a_dimension_there_is_no_vbench_file(results):
    for about in results["metrics"].values():
        about["complement"] = ""
    assert vbench_file.files(results) == {}


HOSTILE = '=HYPERLINK("http://x")<script>alert(1)</script>[a](b)`|\x1b[31m.mp4'


def test_names_are_only_text_wherever_they_are_written(results):
    results["config"]["name"] = HOSTILE
    for video in results["videos"]:
        video["name"] = HOSTILE + video["name"]
    whole = "\n".join(table.markdown([results]))
    assert "<script" not in whole and "[a]" not in whole and "\x1b" not in whole
    assert "&lt;script&gt;" in whole and "\\[a\\]" in whole
    for text in (csv_file.long_csv(results), csv_file.wide_csv(results)):
        for row in list(csv.reader(io.StringIO(text)))[1:]:
            assert row[0].startswith("'=HYPERLINK")
    score = results["videos"][0]["scores"]["paper/clarity"]
    score["vde"] = -2.5  # numbers stay numbers
    assert ",-2.5," in csv_file.wide_csv(results)


def test_a_video_is_named_once_for_one_reason(results):
    for metric in results["metrics"]:
        results["aggregate"][metric]["vde"]["excluded"] = [
            {"name": "a.mp4", "reason": "it is short"}
        ]
    matching_lines = [line for line in table.text(results) if "a.mp4" in line]
    assert matching_lines == [
        "  Subject (official), Motion (official), Clarity (paper) of a.mp4: it is short"
    ]


def test_one_video_has_no_interval_and_no_median():
    one = made_up(1, suites=("paper",))
    head, *rows = table.text(one)
    assert head.split() == ["VDE", "\N{DOWNWARDS ARROW}", "mean", "change"]
    assert not any("\N{EN DASH}" in row for row in rows[:5])
    several = table.text(made_up(3, suites=("paper",)))[0]
    assert "95 %" in several and "median" in several and "videos" in several


def test_whether_a_vde_is_good():
    """Against the values of docs/lvbench.md, which are the ones in the code."""
    lines = (ROOT / "docs/lvbench.md").read_text(encoding="utf-8").splitlines()
    for start, known in (
        ("| `vtest.avi`", references.STREET_VDE),
        ("| the model that ships", references.SHIPPED_VDE),
    ):
        (line,) = (line for line in lines if line.startswith(start))
        cells = [cell.split()[0] for cell in line.strip("| ").split(" | ")[1:]]
        assert list(map(float, cells)) == list(known.values())
    results = made_up(1, suites=("paper",))
    for value, word in ((0.01, "good"), (7.0, "middling"), (1e6, "high")):
        results["aggregate"]["paper/subject"]["vde"]["mean"] = value
        (line,) = (line for line in table.text(results) if line.startswith("Is that good?"))
        assert "Subject" in line.split("(")[0].split(f"{word}: ")[1].split(";")[0]
    results["config"]["segments"] = 15
    assert "default settings" in "".join(references.interpretation(results))
    assert references.interpretation(made_up(1)) == []  # official: nothing to compare with
