"""Times in captions: the forms that are read, and what looks like times and is refused."""

import pytest

from bvjax.caption_times import LONGEST, inclusive, split_times
from bvjax.errors import UserError
from bvjax.story import parse_story


@pytest.mark.parametrize(
    "stamp",
    ["(00s - 03s).", "(00s-03s)", "(00s–03s).", "(00s — 03s) .", "( 0s - 3s )", "(0-3s).",
     "[00s - 03s]", "(0 - 3 sec)", "(0 to 3 seconds).", "{0s - 3s}", "（0s - 3s）"],
)  # fmt: skip
def test_whole_seconds(stamp):
    text, times = split_times(f"A fox (a red one) sits {stamp}")
    assert times[:2] == (0, 3) and inclusive([times])
    assert text == ("A fox (a red one) sits." if "." in stamp else "A fox (a red one) sits")


@pytest.mark.parametrize(
    ("stamp", "times"),
    [
        ("(0:00 - 0:04)", (0, 4)),
        ("(00:00:00 --> 00:00:04)", (0, 4)),
        ("[1:02:03 – 1:02:07].", (3723, 3727)),
        ("(0.0s - 3.5s)", (0, 3.5)),
        ("(0,0 - 3,5 s)", (0, 3.5)),
        ("00:00:01,500 --> 00:00:04,000", (1.5, 4)),
        ("(0m00s - 1m04s)", (0, 64)),
        ("0:00 - 0:04", (0, 4)),
        ("from 0:00 to 0:04", (0, 4)),
        ("0s-4s", (0, 4)),
    ],
)
def test_in_front_and_at_the_end(stamp, times):
    for caption in (f"A fox sits. {stamp}", f"{stamp} A fox sits.", f"{stamp}: A fox sits."):
        text, found = split_times(caption)
        assert (text, found[:2]) == ("A fox sits.", times), caption


def test_text_keeps_its_own_end():
    assert split_times("It waves! (4s - 7s).")[0] == "It waves!"


@pytest.mark.parametrize(
    "caption",
    ["In 1999 (or so), it waved.", "A car (1999)", "The war (1914-1918)", "A diner (1950s).",
     "80s - 90s disco", "In the 80s - 90s.", "16:9 picture of a fox", "Verse 3:16 is read (aloud)",
     "2-3 foxes", "A rest (30 min)", "A fox 3 s later", "Act (2) begins"],
)  # fmt: skip
def test_other_numbers_are_text(caption):
    assert split_times(caption) == (caption, None)


@pytest.mark.parametrize(
    "caption",
    ["A fox (0-3)", "(0 - 4) A fox", "[0:00] A fox", "A fox (4s).", "0:00 A fox", "0 - 4: A fox",
     "Scene 1 (0:00 - 0:04): A fox", "(0s - 3s) A fox (4s - 7s)", "A fox (0 - 2 min)",
     "(0ms - 4000ms) A fox", "A fox (t=0-4s)", f"A fox (0s - {'9' * 5000}s)",
     f"A fox (0s - {'9' * 20}s)", f"A fox (0:00 - {LONGEST // 60}:01)"],
)  # fmt: skip
def test_what_looks_like_times_is_refused(caption):
    with pytest.raises(UserError, match="^caption 7: .*times") as error:
        split_times(caption, "caption 7")
    assert len(str(error.value)) < 250 and "\n" not in str(error.value)


def test_the_last_second_counts_where_the_next_caption_says_so():
    spans = lambda *captions: parse_story(list(captions)).spans
    assert spans("a (0:00 - 0:04)", "b (0:04 - 0:08)") == ((0, 4), (4, 8))
    assert spans("a (0:00 - 0:03)", "b (0:04 - 0:07)") == ((0, 4), (4, 8))
    assert spans("a (0:00 - 0:04)") == ((0, 4),) and spans("a (0s - 3s)") == ((0, 4),)
    assert spans("a (0.0s - 3.5s)", "[3.5s - 8s] b") == ((0, 3.5), (3.5, 8))
    with pytest.raises(UserError, match="overlap: caption 2 starts at 3.5s and must start at 4.5s"):
        spans("a (0.0s - 4.5s)", "b (3.5s - 8s)")


@pytest.mark.parametrize(
    "caption",
    ["0" + " " * 10**5 + "x", "(" * 10**4 + "0", "(" + "0" * 10**5 + "x)", "(0:00" * 10**4],
)
def test_long_captions_take_no_time(caption):
    assert split_times(caption)[1] is None
