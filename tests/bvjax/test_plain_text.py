"""People's text: how it is read, compared and shown."""

import pytest

from bvjax.errors import UserError
from bvjax.plain_text import (
    is_blank,
    same_name,
    shown,
    size_text,
    whole_number,
    whole_text,
)


def test_half_a_character_is_named():
    assert whole_text("🦊 é", "x") == "🦊 é"
    with pytest.raises(UserError, match=r"^the title has .*U\+D83D, as character 3"):
        whole_text("a \ud83d", "the title")


@pytest.mark.parametrize(
    "text", ["", " ", "\u200b", "\ufeff\u2060", "\u3164", "\u2800", "... !", "\x00"]
)
def test_nothing_to_see_is_blank(text):
    assert is_blank(text) and not is_blank(text + "狐") and not is_blank(text + "🦊")


def test_names_meet_whatever_the_accents_are_made_of():
    assert same_name("e\u0301te\u0301.mp4") == same_name("\u00e9t\u00e9.mp4")


def test_what_is_shown_moves_no_cursor():
    assert shown("\x1b[2J é\n\u202e\udcff") == r"\u001b[2J é\n\u202e\udcff"
    assert shown("été 狐 🦊") == "été 狐 🦊"


def test_numbers():
    assert whole_number("07") == 7 and whole_number(" 3 ") == 3
    assert {whole_number(text) for text in ("²", "-1", "1.5", "", "٣", "9" * 30)} == {None}
    assert [size_text(n) for n in (12, 3400, 5_600_000, 10**12)] == [
        "12 bytes",
        "3.4 kB",
        "5.6 MB",
        "1000.0 GB",
    ]
