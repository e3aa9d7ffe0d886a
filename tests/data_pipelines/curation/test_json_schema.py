"""The schema of rows is what stages give; what is checked is what JSON Schema says."""

from __future__ import annotations

import json

import pytest

from data_pipelines.curation.json_schema import FILE, problems, rows_schema
from data_pipelines.curation.stages import NAMES


def found(value, **schema) -> list[str]:
    return [*problems(value, "x", {"$defs": {"x": schema, "y": {"type": "integer"}}}, "it")]


@pytest.mark.parametrize(
    ("value", "schema", "sentence"),
    [
        (1, {"type": "number", "minimum": 1}, ""),
        (0.5, {"minimum": 1}, "it is 0.5; the least is 1"),
        ("0", {"minimum": 1}, ""),  # a keyword says nothing of other types
        (True, {"type": "integer"}, "it is True, not of type integer"),
        (1, {"type": "boolean"}, "it is 1, not of type boolean"),
        (2.0, {"type": "integer"}, "it is 2.0, not of type integer"),
        (0, {"exclusiveMinimum": 0}, "it is 0; it must be more than 0"),
        (3, {"maximum": 2}, "it is 3; the most is 2"),
        (1, {"enum": [True]}, "it is 1; it can be True"),
        ("", {"type": "string", "minLength": 1}, "it has 0 characters; it must have at least 1"),
        ("abc", {"maxLength": 2}, "it has 3 characters; it must have at most 2"),
        ("ab", {"pattern": "^[ab]+$"}, ""),
        ("ab\n", {"pattern": "^[ab]+$"}, "it is 'ab\\n', which is not of the form ^[ab]+$"),
        ("abc", {"pattern": "^[ab]+$"}, "it is 'abc', which is not of the form ^[ab]+$"),
        ([1, "2"], {"items": {"$ref": "#/$defs/y"}}, "it[1] is '2', not of type integer"),
        ([], {"minItems": 1}, "it has 0 items; it must have at least 1"),
        ([1, 2], {"maxItems": 1}, "it has 2 items; it must have at most 1"),
        ({}, {"required": ["a", "b"]}, "it has no a, b"),
        ({"a": "1"}, {"properties": {"a": {"type": "number"}}}, "it.a is '1', not of type number"),
        ({"a": 1}, {"properties": {}, "additionalProperties": False}, "it has 'a', which is not known"),
        ({"a": "x"}, {"additionalProperties": {"type": "integer"}}, "it['a'] is 'x', not of type integer"),
        ({"a": 0}, {"$ref": "#/$defs/y", "required": ["b"]}, "it is {'a': 0}, not of type integer"),
    ],
)  # fmt: skip
def test_keywords(value, schema, sentence):
    assert found(value, **schema)[: 1 if sentence else None] == ([sentence] if sentence else [])


def test_what_is_not_known_is_not_passed_over():
    for schema in ({"multipleOf": 2}, {"type": "null"}):
        with pytest.raises(ValueError, match="the schema has the"):
            found(2, **schema)


def test_every_schema_of_the_file_can_be_checked():
    """Each is read to its leaves with values of all types: an unknown keyword or name would raise."""
    schema = json.loads(FILE.read_text())
    assert {*NAMES, "films", "encode"} <= schema["$defs"].keys()

    def leaves(part):
        for value in ({}, [], "", 0, True, None):
            list(problems(value, "x", {"$defs": {**schema["$defs"], "x": part}}, "it"))
        for name in ("items", "additionalProperties"):
            if isinstance(part.get(name), dict):
                leaves(part[name])
        for inner in part.get("properties", {}).values():
            leaves(inner)

    for part in rows_schema()["$defs"].values():
        leaves(part)
