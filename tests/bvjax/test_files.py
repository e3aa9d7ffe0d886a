"""JSON of strangers: read, or refused in one sentence that names the file."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bvjax.errors import UserError
from bvjax.files import (
    MAX_DEPTH,
    parse_json,
    read_json,
    read_json_lines,
    read_json_object,
    read_text,
    write_atomic,
)

ROOT = Path(__file__).parents[2]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10
)


@given(VALUES)
def test_what_json_can_say_is_read_as_it_was_written(value):
    assert parse_json(json.dumps(value), "it") == value
    assert parse_json(b"\xef\xbb\xbf" + json.dumps(value).encode(), "it") == value


@given(st.binary(max_size=60) | st.text(max_size=60) | st.text('[]{}",:\\ud8eE+-0123456789tfn'))
def test_any_bytes_are_read_or_refused_in_one_sentence(content):
    try:
        parse_json(content, "the file x")
    except UserError as error:
        assert str(error).startswith("the file x ") and "\n" not in str(error)
        str(error).encode()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), "nested too deeply"),
        ('{"a": NaN}', "not finite: NaN"),
        ("[-Infinity]", "not finite: -Infinity"),
        ("1e999", "not finite: 1e999"),
        ("9" * 400, r"64 bits: 9{20}\.\.\. \(400 characters\)"),
        ("9" * 5000, "64 bits"),
        ("18446744073709551616", "64 bits: 18446744073709551616"),
        ('["\\ud800"]', r"surrogate pair in a string: '\\ud800'"),
        ('{"\\udfff": 1}', "surrogate"),
        (b'"\xff"', "not text in UTF-8: byte 1"),
        (b"", "line 1, column 1"),
        ("{", "line 1, column 2"),
    ],
)
def test_what_nothing_here_can_use_is_refused_by_name(content, told):
    with pytest.raises(UserError, match=told) as caught:
        parse_json(content, "config.json")
    assert str(caught.value).startswith("config.json ") and len(str(caught.value)) < 200


def test_depth_and_size_at_their_limits_are_read():
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH, "it")
    assert parse_json("[18446744073709551615, -9223372036854775808]", "it") == [2**64 - 1, -(2**63)]
    assert parse_json('"\\ud83e\\udd8a"', "it") == "\N{FOX FACE}"


def test_files_that_cannot_be_read_are_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(UserError, match=f"cannot read the story {re.escape(str(path))}: "):
            read_json(path, "the story")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match="list.json is not a JSON object"):
        read_json_object(tmp_path / "list.json")


def test_nothing_reads_json_beside_the_one_reader():
    # The benchmarks talk to child processes of their own; a round trip of own values reads no file.
    allowed = ("bvjax/files.py", "experiments/benchmarks/")
    found = []
    for path in [
        p
        for room in ("bvjax", "data_pipelines", "experiments")
        for p in (ROOT / room).rglob("*.py")
    ]:
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(allowed):
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        found += [
            f"{name}: {line.strip()}"
            for line in lines
            if re.search(r"\bjson\.loads?\b", line) and "json.loads(json.dumps(" not in line
        ]
    assert not found


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "a.txt"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text("Füchse", encoding=encoding)
        assert read_text(path, "the text") == "Füchse"
    path.write_bytes("\ufeff".encode("utf-16-le") + b"x")
    with pytest.raises(UserError, match="^the text .*a.txt is not text in UTF-8"):
        read_text(path, "the text")


def test_lines_are_cut_where_json_lines_are(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff"a\u2028b"\r\n\n3\n{', encoding="utf-8")
    with pytest.raises(UserError, match="line 4, is not valid JSON"):
        read_json_lines(path, "the prompts")
    path.write_text('\ufeff"a\u2028b"\r\n\n3\n', encoding="utf-8")
    assert read_json_lines(path, "the prompts") == [(1, "a\u2028b"), (3, 3)]


def test_a_folder_is_not_written_over(tmp_path):
    with pytest.raises(IsADirectoryError) as error:
        write_atomic(tmp_path, b"x")
    assert error.value.filename == str(tmp_path) and not list(tmp_path.iterdir())
