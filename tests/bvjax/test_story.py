"""Stories: forms, times, and one sentence for whatever is wrong."""

import json
import pathlib
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentences import is_one_line

from bvjax import cli
from bvjax.errors import UserError
from bvjax.story import load_story, parse_story

STORIES = pathlib.Path(__file__).parents[2] / "experiments" / "stories"
PAPER = ("swan", "dj", "victorian_mansion", "auto_shop", "neon_bar", "bmw_night", "gym")


def test_forms():
    plain = ["A fox sits.", "It waves."]
    for content in (plain, {"captions": plain}, {"fox": {"captions": plain}}):
        story = parse_story(content)
        assert story.captions == tuple(plain) and story.spans is None
    assert parse_story({"title": "Fox", "captions": plain}).title == "Fox"
    assert parse_story({"fox": {"captions": plain}}).title == "fox"


def test_untimed_captions_are_one_chunk_each():
    story = parse_story(["a b.", "c d.", "e f."])
    for seconds in (0.5, 4.0, 12.5):
        assert story.chunk_captions(seconds) == ("a b.", "c d.", "e f.")


def test_a_chunk_takes_the_caption_at_its_middle():
    story = parse_story(["a (0s - 3s)", "b (4s - 4s)", "c (5s - 8s)"])  # [0,4) [4,5) [5,9)
    assert story.seconds == 9
    assert story.chunk_captions(4.0) == ("a", "b. c", "c")  # middles 2, 6, 10: past the end
    assert story.chunk_captions(3.0) == ("a", "b", "c")  # middles 1.5, 4.5, 7.5
    assert story.chunk_captions(1.0) == ("a",) * 4 + ("b",) + ("c",) * 4
    assert story.chunk_captions(100.0) == ("a. b. c",)


def test_captions_finer_than_a_chunk_are_merged_and_told():
    stamps = ("00s - 00s", "01s - 02s", "03s - 03s", "04s - 07s")
    story = parse_story([f"Part {i} ({stamp})." for i, stamp in enumerate(stamps)])
    assert story.chunk_captions(4.0) == ("Part 0. Part 1. Part 2.", "Part 3.")
    assert story.merged(4.0) == (
        "captions finer than a chunk of 4 s are merged: chunk 1 has captions 1, 2 and 3"
    )
    assert story.merged(1.0) == "" and parse_story(["a", "b"]).merged(4.0) == ""


@pytest.mark.parametrize("seconds", [2, 3, 4, 5])
def test_no_caption_is_lost(seconds):
    """LV-Bench's captions are of 2 to 5 seconds."""
    story = parse_story(
        [f"c{i} ({seconds * i}s - {seconds * i + seconds - 1}s)" for i in range(20)]
    )
    for chunk in (1.0, 2.0, 4.0, 4.0625, 11.0):
        parts = story.chunk_parts(chunk)
        assert {i for part in parts for i in part} == set(range(20))
        assert [min(part) for part in parts] == sorted(min(part) for part in parts)


@pytest.mark.parametrize("seconds", [0.25, 0.75, 1.0, 3.0, 4.0, 5.0, 7.0])
def test_every_chunk_matches_a_slow_search(seconds):
    story = parse_story([f"c{i} ({3 * i}s - {3 * i + 2}s)" for i in range(7)])  # 21 s
    captions = story.chunk_captions(seconds)
    assert (len(captions) - 1) * seconds < 21 <= len(captions) * seconds
    for index, caption in enumerate(captions):
        middle = (index + 0.5) * seconds
        spans = zip(story.captions, story.spans, strict=True)
        covering = [text for text, (start, stop) in spans if start <= middle < stop]
        assert (covering[0] if covering else story.captions[-1]) in caption.split(". ")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"captions": []}, "no captions"),
        ([], "no captions"),
        ({"caption": ["a"]}, 'no "captions"'),
        ({"captions": "a"}, "must be a list"),
        ({"captions": ["a", 3]}, "caption 2 must be text"),
        ({"captions": ["a", "  "]}, "caption 2 is empty"),
        ({"captions": ["(0s - 3s)."]}, "caption 1 is empty"),
        (17, "must hold a list"),
        ({"a": {"captions": ["x"]}, "b": {"captions": ["y"]}}, "holds 2 stories"),
        ({"captions": ["a (0s - 3s)", "b"]}, "caption 2 has no times"),
        ({"captions": ["a (0s - 3s)", "b (3s - 7s)"]}, "captions 1 and 2 overlap"),
        ({"captions": ["a (0s - 3s)", "b (5s - 7s)"]}, "gap between caption 1 and caption 2"),
        ({"captions": ["a (1s - 3s)"]}, "gap between 0s and caption 1"),
        ({"captions": ["a (3s - 1s)"]}, "ends at 1s, before it starts at 3s"),
        ({"captions": ["a (0s - 3s)", "b (2 - 3)"]}, 'caption 2: "(2 - 3)" looks like times'),
        ({"captions": ["a", "\u200b\ufeff \u3164."]}, "caption 2 is empty"),
        (
            {"captions": ["a", "b \ud83d"]},
            "caption 2 has half a character, the lone surrogate U+D83D",
        ),
        ({"title": "\udc00", "captions": ["a"]}, "the title has half a character"),
        ({"x": {"title": 3, "captions": ["a"]}}, "the title must be text, not a number"),
    ],
)
def test_what_is_wrong(content, says):
    with pytest.raises(UserError, match=re.escape(says)) as error:
        parse_story(content, "my.json")
    assert str(error.value).startswith("my.json") and "\n" not in str(error.value)


def test_files(tmp_path):
    path = tmp_path / "story.json"
    with pytest.raises(UserError, match="cannot read the story"):
        load_story(path)
    path.write_text('{"captions": [')
    with pytest.raises(UserError, match="not valid JSON.*line 1"):
        load_story(path)
    path.write_bytes(b'["\xff\xfe"]')
    with pytest.raises(UserError, match="not text in UTF-8"):
        load_story(path)
    path.write_text(json.dumps(["Ein Fuchs läuft."], ensure_ascii=False), encoding="utf-8")
    assert load_story(path).captions == ("Ein Fuchs läuft.",)
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_text(json.dumps(["Ein Fuchs läuft."], ensure_ascii=False), encoding=encoding)
        assert load_story(path).captions == ("Ein Fuchs läuft.",)
    with pytest.raises(UserError, match="cannot read the story"):
        load_story(tmp_path)
    with pytest.raises(UserError, match="cannot read the story"):
        load_story(tmp_path / ("x" * 300))
    with pytest.raises(UserError, match="cannot read the story"):
        load_story("a\0b")


def test_shipped_stories():
    found = {path.stem: load_story(path) for path in STORIES.glob("*.json")}
    assert set(PAPER) < set(found) and "fox" in found
    for name, story in found.items():
        assert story.title, name
        assert all("s)" not in caption for caption in story.chunk_captions(4.0)), name
    assert {name: found[name].num_chunks(4.0) for name in PAPER} == {
        name: 14 if name == "bmw_night" else 15 for name in PAPER
    }
    assert max(story.num_chunks(4.0) for story in found.values()) >= 75
    assert found["gym"].seconds == 60 and found["bmw_night"].seconds == 53


CAPTION_LIKE = st.one_of(
    st.text(max_size=20),
    st.from_regex(r"A fox \(\d{1,3}s - \d{1,25}s\)\.?", fullmatch=True),
    st.from_regex(r"[(\[]\d{1,2}:\d\d ?[-~>] ?\d{1,2}:\d\d[.,]?\d?[)\]] It waves", fullmatch=True),
    st.sampled_from(("\ud83d", "A\u202efox", "\x1b[2J", "(2-3)", "a \x00")),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | CAPTION_LIKE,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(("captions", "title", "fox")), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(JSON | st.lists(CAPTION_LIKE, max_size=4))
def test_any_json_is_a_story_or_one_sentence(content):
    """Each caption of a story that is read is in a chunk and can be written."""
    try:
        story = parse_story(content, "my.json")
    except UserError as error:
        assert str(error).startswith("my.json")
        return
    captions = story.chunk_captions(4.0)
    assert all(any(text in caption for caption in captions) for text in story.captions)
    assert "".join((story.title, *captions)).encode() is not None


WHOLE = (STORIES / "fox.json").read_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, len(WHOLE)), st.integers(0, 40), st.binary(max_size=12) | st.just(b"\\ud800"))
def test_a_mutated_file_is_a_story_or_one_sentence(tmp_path, capsys, at, without, more):
    """Through the command line: exit code 2, one line, and nothing is written."""
    path = tmp_path / "story.json"
    path.write_bytes(WHOLE[:at] + more + WHOLE[at + without :])
    words = ["generate", "--story", str(path), "--out", str(tmp_path / "run"), "--preset", "none"]
    capsys.readouterr()
    assert cli.main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("bvjax: ") and is_one_line(lines[0])
    assert [file.name for file in tmp_path.iterdir()] == ["story.json"]


def test_cuts_are_of_the_first_chunk_of_a_caption():
    cut = lambda text: {"shot": "cut", "caption": text}
    story = parse_story(["A.", cut("B."), "C.", cut("D.")])
    assert story.captions == ("A.", "B.", "C.", "D.") and story.cuts == (1, 3)
    assert story.chunk_cuts(4.0) == (1, 3)
    timed = parse_story(["A (00s - 05s).", cut("B (06s - 15s)."), "C (16s - 19s)."])
    assert timed.chunk_captions(4.0) == ("A.", "B.", "B.", "B.", "C.")
    assert timed.chunk_cuts(4.0) == (1,)
    for content, match in (
        ([cut("A.")], "caption 1 begins the video; it cannot be a cut"),
        (
            ["A.", {"shot": "wide", "caption": "B."}],
            "caption 2 is an object; one that begins a shot",
        ),
        (["A.", {"caption": "B."}], "caption 2 is an object"),
        (["A.", cut(3)], "caption 2 must be text"),
    ):
        with pytest.raises(UserError, match=match):
            parse_story(content)
