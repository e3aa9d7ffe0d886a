"""results.json: what is averaged, what is left out and why, and what is refused when read back."""

import copy
import json
import pathlib
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bvjax.errors import UserError
from bvjax.lvbench import compare, table
from bvjax.lvbench.prompts import Prompts
from bvjax.lvbench.results import build, check_comparable, load_results
from bvjax.lvbench.suites import METRIC_ENTRIES
from bvjax.lvbench.vde import vde
from tests.bvjax.lvbench.small_results import CONFIG, NAMES, evaluation


@pytest.fixture(scope="module")
def results():
    return evaluation()


def test_scores_and_drift_of_each_video(results):
    assert [v["name"] for v in results["videos"]] == ["a.mp4", "b/b.mp4", "c.gif"]
    clarity = results["videos"][0]["scores"]["paper/clarity"]
    assert clarity["vde"] == float(vde([10.0, 20.0, 5.0])) == 2.5
    assert clarity["vde_normalised"] == pytest.approx(2.5 / 3)
    assert clarity["wmape"] == pytest.approx(0.75)
    assert clarity["moved"]["largest"] == 3 and clarity["moved"]["step"] == -15
    assert results["videos"][1]["seconds"] == 30.0 and results["videos"][2]["seconds"] is None


def test_what_cannot_be_measured_is_null_with_a_reason_and_in_no_mean(results):
    json.dumps(results, allow_nan=False)
    b = results["videos"][1]["scores"]
    assert b["paper/clarity"]["chunks"] == [1.0, None, 1.0]
    assert b["paper/clarity"]["whole"] is None and b["paper/clarity"]["vde"] is None
    assert b["paper/clarity"]["reason"] == "no edge in chunk 2"
    assert "chunk 1 scores 0" in b["official/motion"]["reason"]
    clarity = results["aggregate"]["paper/clarity"]
    assert clarity["vde"]["n"] == 2 and clarity["vde"]["mean"] == clarity["vde"]["median"] == 1.25
    assert clarity["vde"]["excluded"] == [{"name": "b/b.mp4", "reason": "no edge in chunk 2"}]
    assert clarity["vde"]["low"] == 0.0 and clarity["vde"]["high"] == 2.5
    assert results["aggregate"]["official/motion"]["vde"]["low"] is None  # one video
    assert [one["name"] for one in results["aggregate"]["official/motion"]["vde"]["excluded"]] == [
        "b/b.mp4",
        "c.gif",
    ]
    assert results["failed"] == [
        {"name": "c.gif", "reason": "c.gif has 20 frames; official/subject needs at least 9"},
        {"name": "short.mp4", "reason": "short.mp4 has 2 frames"},
        {"name": "broken.mp4", "reason": "it is damaged"},
    ]


def test_consistencies_are_means_over_frames_as_vbench_has_them(results):
    subject = results["aggregate"]["official/subject"]["whole"]
    assert subject["mean"] == subject["frame_weighted"]
    assert subject["mean"] == pytest.approx((29 * 0.8 + 299 * 0.5) / (29 + 299))
    assert subject["video_mean"] == pytest.approx(0.65)
    motion = results["aggregate"]["official/motion"]["whole"]
    assert motion["mean"] == motion["video_mean"] == pytest.approx(0.6)
    assert motion["frame_weighted"] is None
    assert results["metrics"]["official/motion"]["better"] == {"vde": "lower", "whole": "higher"}


def test_prompts_that_match_nothing_are_told():
    result = evaluation(Prompts({"a": "A fox.", "broken.mp4": "An owl.", "d": "A cat."}, "12"))
    assert [v["prompt"] for v in result["videos"]] == ["A fox.", None, None]
    assert result["prompts"] == {"missing": ["b/b.mp4", "c.gif", "short.mp4"], "unused": ["d"]}


def test_no_video_at_all():
    result = build(CONFIG, {}, [METRIC_ENTRIES["paper/clarity"]], [])
    assert result["aggregate"]["paper/clarity"]["vde"]["mean"] is None


# ---- read back ----------------------------------------------------------------------------------
def test_reads_what_was_written(results, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    assert load_results(path) == results


DAMAGE = {
    "its format is None": lambda r: r.pop("format"),
    '"aggregate" is missing': lambda r: r.pop("aggregate"),
    "number of chunks is '3'": lambda r: r["config"].update(segments="3"),
    "VDE weights are 'cubic'": lambda r: r["config"].update(weights="cubic"),
    "a.mp4 is there twice": lambda r: r["videos"].append(r["videos"][0]),
    "unknown metric x/y": lambda r: r["videos"][0]["scores"].update({"x/y": {}}),
    "has 2 chunks, not 3": lambda r: r["videos"][2]["scores"]["paper/clarity"]["chunks"].pop(),
    "has no number vde": lambda r: r["videos"][2]["scores"]["paper/clarity"].update(vde="3"),
    "paper/clarity has no mean vde": lambda r: r["aggregate"]["paper/clarity"].pop("vde"),
    "the title, suite or complement": lambda r: r["metrics"]["paper/clarity"].update(suite=None),
    "no directions": lambda r: r["metrics"]["paper/clarity"].update(better=None),
    '"metrics" is missing': lambda r: r.update(metrics=None),
    "settings of its metrics": lambda r: r["config"].update(metrics=None),
    "prompt of a.mp4 is not text": lambda r: r["videos"][0].update(prompt=5),
    "list of prompts": lambda r: r.update(prompts={"missing": 5}),
    "has no scores of chunks": lambda r: r["videos"][2]["scores"]["paper/clarity"].update(
        chunks=[1e300] * 3
    ),
    "numbers about vde": lambda r: r["aggregate"]["paper/clarity"]["vde"].update(low="0"),
    "leaves out is of": lambda r: r["aggregate"]["paper/clarity"]["vde"].update(excluded=[5]),
}


@pytest.mark.parametrize("words", DAMAGE)
def test_damaged_results_are_refused_in_one_sentence(results, tmp_path, words):
    broken = copy.deepcopy(results)
    DAMAGE[words](broken)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(broken))
    with pytest.raises(UserError) as caught:
        load_results(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_json_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("[")
    with pytest.raises(UserError, match="is not valid JSON"):
        load_results(tmp_path / "x.json")
    with pytest.raises(UserError, match="cannot read the results"):
        load_results(tmp_path / "y.json")


# ---- may they be compared -----------------------------------------------------------------------
def test_only_equal_terms_compare(results):
    def other(**config):
        result = copy.deepcopy(results)
        result["config"].update({"name": "theirs", **config})
        return result

    assert check_comparable(results, other()) == list(NAMES)
    for config, words in (
        ({"segments": 5}, "chunks are 3 in ours and 5 in theirs"),
        ({"weights": "log"}, "VDE weights are linear in ours and log in theirs"),
        (
            {"metrics": {"paper/clarity": {"flow": "lk"}}},
            "paper/clarity was measured with flow None",
        ),
    ):
        with pytest.raises(UserError, match=words):
            check_comparable(results, other(**config))
    paper, official = other(), other()
    paper["metrics"] = {"paper/clarity": results["metrics"]["paper/clarity"]}
    official["metrics"] = {"official/motion": results["metrics"]["official/motion"]}
    with pytest.raises(UserError, match="suites are official and paper"):
        check_comparable(official, paper)
    assert check_comparable(results, paper) == ["paper/clarity"]


def test_equal_input_gives_equal_bytes(results):
    assert json.dumps(evaluation()) == json.dumps(results)


def test_numbers_of_any_length_are_refused(results, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results).replace("2.5", "9" * 400))
    with pytest.raises(UserError, match="results.json"):
        load_results(path)


PLACES = [
    (),
    ("config",),
    ("metrics",),
    ("metrics", "paper/clarity"),
    ("videos", 0),
    ("aggregate",),
    ("videos", 0, "scores", "paper/clarity"),
    ("aggregate", "paper/clarity", "vde"),
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_was_changed_is_refused_or_can_be_compared(data):
    broken = copy.deepcopy(evaluation())
    inside = broken
    for key in data.draw(st.sampled_from(PLACES)):
        inside = inside[key]
    inside[data.draw(st.sampled_from(sorted(inside)))] = data.draw(VALUES)
    text = json.dumps(broken)
    if data.draw(st.booleans()):
        cut = data.draw(st.integers(0, len(text)))
        text = text[:cut]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "results.json"
        path.write_text(text)
        try:
            result = load_results(path)
            compare.text(compared := compare.compare(result, evaluation()))
            compare.markdown(compared)
            table.markdown([result])
            table.text(result)
        except UserError as error:
            assert "\n" not in str(error)
        assert [p.name for p in pathlib.Path(folder).iterdir()] == ["results.json"]
