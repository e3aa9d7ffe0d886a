"""Cases and axes: what is asked, the folder that others make videos from, and which points there are."""

from __future__ import annotations

import json

import pytest

from bvjax.errors import UserError
from bvjax.overrides import apply_overrides
from bvjax.presets import get_preset
from bvjax.story import load_story
from data_pipelines.storyworld.staged import Staging
from experiments.memory_bench.axes import AXES, STORY_AXES, Condition, check_axes, points
from experiments.memory_bench.cases import Case, case_of, read_cases, write_cases
from experiments.memory_bench.running import Costs, budget, jobs_of

MINI = get_preset("mini")
CASES = [Case(0, Staging(2)), Case(1, Staging(3, 2, 1), "paraphrase")]


def test_cases_are_found_again_by_their_keys():
    for case in CASES:
        assert case_of(case.key) == case
    assert CASES[0].key == "gap002-subjects3-places2-name-0000"
    assert set(CASES[0].truth) == {"species", "colour", "place"}
    assert set(CASES[1].truth) == {"species", "colour"}  # its story never leaves the place
    for key in ("gap2-subjects3-places2-name-0000", "gap002-subjects3-places2-riddle-0000", ""):
        with pytest.raises(UserError, match="there is no case"):
            case_of(key)
    with pytest.raises(UserError, match="2 to 8 subjects"):
        case_of("gap002-subjects9-places2-name-0000")


def test_a_folder_of_stories_is_read_as_it_was_written(tmp_path):
    write_cases(tmp_path, CASES)
    assert read_cases(tmp_path) == CASES
    entry = json.loads((tmp_path / "cases.json").read_text())["cases"][0]
    story = load_story(tmp_path / entry["story"])
    assert len(story.captions) == entry["returns"] == entry["gap"] + 5
    assert story.seconds == entry["seconds"] == 28
    asked = entry["asked"]
    assert asked["subject"]["name"] in story.captions[-1]
    assert asked["place"]["toponym"] in story.captions[-1]
    told = " ".join(story.captions[chunk - 1] for chunk in entry["introduced"])
    assert asked["subject"]["species"] in told and asked["subject"]["colour"] in told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(memory_bench=9), "is of version 9 of the benchmark"),
        (lambda content: content.update(cases=[]), "has no cases"),
        (lambda content: content["cases"][0].pop("id"), "case 1 has no id"),
        (lambda content: content["cases"][0].update(id="x"), "there is no case 'x'"),
        (lambda content: content["cases"][0].update(returns=3), "is not what version 1 asks"),
    ],
)
def test_a_manifest_that_was_changed_is_refused(change, message, tmp_path):
    path = write_cases(tmp_path, CASES)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_cases(tmp_path)


def test_a_story_that_was_changed_is_refused(tmp_path):
    write_cases(tmp_path, CASES)
    (tmp_path / "stories" / f"{CASES[1].key}.json").write_text('["A fox."]')
    with pytest.raises(UserError, match="is not the story of case gap003"):
        read_cases(tmp_path)


def test_points_vary_one_thing_and_share_the_rest():
    found = points(AXES, False, MINI)
    assert {p.axis for p in found} == set(AXES)
    assert sum(p.condition == Condition() for p in found) >= 8  # once in most axes
    by_axis = {name: [p.condition for p in found if p.axis == name] for name in AXES}
    assert [c.staging.gap for c in by_axis["gap"]] == [2, 5, 12, 20, 40, 60]
    assert [c.wording for c in by_axis["wording"]] == ["name", "description", "paraphrase"]
    assert ("memory.capacity=32",) in [c.settings for c in by_axis["capacity"]]
    assert {c.staging.returns for c in by_axis["slots"]} == {75, 150}
    for name, axis in AXES.items():
        assert set(axis.quick) <= set(axis.values)
        assert all(not c.settings for c in by_axis[name]) == (name in STORY_AXES)
    jobs = jobs_of(found, range(2))
    assert len(jobs) == len(set(jobs)) == 2 * len({p.condition for p in found})


def test_a_setting_that_weights_cannot_have_is_refused():
    with pytest.raises(UserError, match="memory.slots"):
        points(["slots"], False, apply_overrides(MINI, ["retrieval.num_recent=9"]))


def test_axes_that_there_are_not_are_refused():
    assert check_axes(["tau", "gap"]) == ("gap", "tau")
    with pytest.raises(UserError, match="there is no axis 'foo'; the axes are gap, subjects"):
        check_axes(["gap", "foo"])
    with pytest.raises(UserError, match="axis 'tau' changes the memory of a model"):
        check_axes(["tau"], STORY_AXES)


def test_the_budget_counts_what_is_shared_once():
    jobs = jobs_of(points(["gap", "wording"], True), range(2))
    given = budget("given", jobs[1:], len(jobs), Costs(60.0, 4.0, 2.0))
    assert len(jobs) == 10
    assert "1 of 10 returns are measured; 9 chunks to generate" in given
    assert "5 stories" in given and "with 1 setting of the memory" in given
    whole = budget("self", jobs, len(jobs), Costs(60.0, 4.0, 2.0))
    # Videos of 7, 17 and 65 chunks; another wording is one more chunk.
    assert f"{2 * (7 + 17 + 65 + 2)} chunks to generate, in 10 videos" in whole
    assert "about 6 minutes" in whole
