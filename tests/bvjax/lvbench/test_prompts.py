"""Prompt files of each form, and which video a prompt belongs to."""

import hashlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentences import is_one_line

from bvjax.errors import UserError
from bvjax.lvbench.prompts import Prompts, load
from bvjax.plain_text import shown


def write(folder, content, name="prompts.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_forms(tmp_path):
    captions = ["A fox sits (00s - 03s).", "It runs (04s - 07s)."]
    vbench = {"clips/fox.mp4": "A fox.", "owl.mp4": " An owl. "}
    assert load(write(tmp_path, vbench)).texts == {"clips/fox.mp4": "A fox.", "owl.mp4": "An owl."}
    lvbench = {"fox": {"captions": captions}, "owl": {"captions": ["An owl."]}}
    assert load(write(tmp_path, lvbench)).texts == {"fox": "A fox sits. It runs.", "owl": "An owl."}
    story = write(tmp_path, {"title": "x", "captions": captions}, "fox.json")
    assert load(story).text("deep/fox.mp4") == "A fox sits. It runs."
    lines = '{"id": "fox", "prompt": "A fox."}\n\n{"id": 7, "captions": ["It runs."]}\n'
    path = write(tmp_path, lines, "prompts.jsonl")
    result = load(path)
    assert result.texts == {"fox": "A fox.", "7": "It runs."}
    assert result.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text("\ufeff" + lines, encoding="utf-8")
    assert load(path).texts == result.texts


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("[1]", "a.json", "not an object"),
        ("{}", "a.json", "no prompt"),
        ('{"a": }', "a.json", "not valid JSON"),
        ('{"fox": 3}', "a.json", "fox has neither a prompt nor captions"),
        ('{"fox": {"captions": ["A (00s - 03s).", "B (05s - 07s)."]}}', "a.json", "fox: there is a gap"),
        ('{"fox": " "}', "a.json", "fox: the prompt is empty"),
        ('{"fox": "\\u200b."}', "a.json", "fox: the prompt is empty"),
        ('{"fox": "a \\ud83d"}', "a.json", "half of a surrogate pair"),
        ('{"\\udcff": "a"}', "a.json", "half of a surrogate pair"),
        ('{"id": "e\u0301", "prompt": "x"}\n{"id": "\u00e9", "prompt": "y"}', "a.jsonl", "second time"),
        ('{"prompt": "A fox."}', "a.jsonl", 'line 1 has no "id"'),
        ('{"id": "a", "prompt": "x"}\n{"id": "a", "prompt": "y"}', "a.jsonl", "line 2.*second time"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_sentence(tmp_path, content, name, words):
    with pytest.raises(UserError, match=words):
        load(write(tmp_path, content, name))
    with pytest.raises(UserError, match="cannot read"):
        load(tmp_path / "absent.json")


def test_videos_match_by_stem_and_then_by_folders():
    texts = {"a/fox.mp4": "A", "b/fox.mp4": "B", "v1.5 owl": "owl", "x/cat.GIF": "cat"}
    prompts = Prompts(texts, "")
    assert prompts.text("runs/a/fox.webm") == "A" and prompts.text("b/fox.mp4") == "B"
    assert prompts.text("c/fox.mp4") is None  # A or B
    assert prompts.text("v1.5 owl.mp4") == "owl" and prompts.text("cat.mp4") == "cat"
    missing, unused = prompts.unmatched(["b/fox.mp4", "cat.mp4", "dog.mp4"])
    assert missing == ["dog.mp4"] and unused == ["a/fox.mp4", "v1.5 owl"]
    assert Prompts({"a/fox": "A", "b/fox": "A"}, "").text("fox.mp4") == "A"


def test_names_meet_in_either_form_of_accents():
    prompts = Prompts({"\u00e9t\u00e9/fu\u0308chse.mp4": "A"}, "")
    assert prompts.text("e\u0301te\u0301/f\u00fcchse.mp4") == "A"


VALUES = st.recursive(
    st.none()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(("\ud83d", "\u200b", "(2-3)")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=4) | st.sampled_from(("captions", "id", "prompt")), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    VALUES | st.lists(VALUES, max_size=3),
    st.sampled_from(("a.json", "a.jsonl")),
    st.binary(max_size=3),
)
def test_any_file_is_prompts_or_one_sentence(tmp_path, content, name, more):
    rows = content if name == "a.jsonl" and isinstance(content, list) else [content]
    path = tmp_path / name
    path.write_bytes("\n".join(json.dumps(row) for row in rows).encode() + more)
    try:
        result = load(path)
    except UserError as error:
        assert is_one_line(shown(str(error))) and str(path) in str(error)
        return
    assert result.texts and all(name + text for name, text in result.texts.items())
    assert json.dumps(dict(result.texts), ensure_ascii=False).encode()
