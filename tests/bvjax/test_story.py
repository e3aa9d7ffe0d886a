"""Stories: forms, times, and one sentence for whatever is wrong."""

import json
import pathlib

import pytest

from bvjax.errors import UserError
from bvjax.story import load_story, parse_story, split_times

STORIES = pathlib.Path(__file__).parents[2] / "experiments" / "stories"
PAPER = ("swan", "dj", "victorian_mansion", "auto_shop", "neon_bar", "bmw_night", "gym")


def test_forms():
    plain = ["A fox sits.", "It waves."]
    for content in (plain, {"captions": plain}, {"fox": {"captions": plain}}):
        story = parse_story(content)
        assert story.captions == tuple(plain) and story.spans is None
    assert parse_story({"title": "Fox", "captions": plain}).title == "Fox"
    assert parse_story({"fox": {"captions": plain}}).title == "fox"


@pytest.mark.parametrize(
    "stamp",
    ["(00s - 03s).", "(00s-03s)", "(00s–03s).", "(00s — 03s) .", "( 0s - 3s )", "(0-3s)."],
)
def test_time_stamps(stamp):
    text, times = split_times(f"A fox (a red one) sits {stamp}")
    assert times == (0, 3)
    assert text == ("A fox (a red one) sits." if "." in stamp else "A fox (a red one) sits")


def test_text_keeps_its_own_end():
    assert split_times("It waves! (4s - 7s).")[0] == "It waves!"
    assert split_times("In 1999 (or so), it waved.") == ("In 1999 (or so), it waved.", None)


def test_untimed_captions_are_one_chunk_each():
    story = parse_story(["a b.", "c d.", "e f."])
    for seconds in (0.5, 4.0, 12.5):
        assert story.chunk_captions(seconds) == ("a b.", "c d.", "e f.")


def test_a_chunk_takes_the_caption_at_its_middle():
    story = parse_story(["a (0s - 3s)", "b (4s - 4s)", "c (5s - 8s)"])  # [0,4) [4,5) [5,9)
    assert story.seconds == 9
    assert story.chunk_captions(4.0) == ("a", "c", "c")  # middles 2, 6, 10: past the end
    assert story.chunk_captions(3.0) == ("a", "b", "c")  # middles 1.5, 4.5, 7.5
    assert story.chunk_captions(1.0) == ("a",) * 4 + ("b",) + ("c",) * 4
    assert story.chunk_captions(100.0) == ("c",)


@pytest.mark.parametrize("seconds", [0.25, 0.75, 1.0, 3.0, 4.0, 5.0, 7.0])
def test_every_chunk_matches_a_slow_search(seconds):
    story = parse_story([f"c{i} ({3 * i}s - {3 * i + 2}s)" for i in range(7)])  # 21 s
    captions = story.chunk_captions(seconds)
    assert (len(captions) - 1) * seconds < 21 <= len(captions) * seconds
    for index, caption in enumerate(captions):
        middle = (index + 0.5) * seconds
        spans = zip(story.captions, story.spans, strict=True)
        covering = [text for text, (start, stop) in spans if start <= middle < stop]
        assert caption == (covering[0] if covering else story.captions[-1])


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
    ],
)
def test_what_is_wrong(content, says):
    with pytest.raises(UserError, match=says.replace("(", r"\(")) as error:
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
    with pytest.raises(UserError, match="not UTF-8"):
        load_story(path)
    path.write_text(json.dumps(["Ein Fuchs läuft."], ensure_ascii=False), encoding="utf-8")
    assert load_story(path).captions == ("Ein Fuchs läuft.",)


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
