"""JSON values against a JSON Schema, in sentences: the part of draft 2020-12 that rows.schema.json uses.

What a schema says with a keyword that is not known here is refused, so that nothing in the file goes unchecked.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bvjax.files import read_json_object

FILE = Path(__file__).parent / "assets" / "rows.schema.json"
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
NOTES = ("$schema", "$defs", "title", "description")
_REF = "#/$defs/"


@functools.cache
def rows_schema() -> dict[str, Any]:
    """The schema that comes with this package."""
    return read_json_object(FILE)


def problems(value: Any, name: str, root: dict[str, Any], where: str) -> Iterator[str]:
    """Yields what is wrong with a value, a sentence each.

    Args:
        value: decoded JSON.
        name: of the schema in $defs of `root`.
        root: the whole schema.
        where: whose value it is; sentences begin with it.

    Raises:
        ValueError: the schema has a keyword or a type that is not known here.
    """
    yield from _problems(value, {"$ref": f"{_REF}{name}"}, root, where)


def _problems(value: Any, schema: dict[str, Any], root: dict[str, Any], where: str) -> Iterator[str]:  # fmt: skip
    if "$ref" in schema:
        yield from _problems(value, root["$defs"][schema["$ref"].removeprefix(_REF)], root, where)
    for keyword, wanted in schema.items():
        if keyword in NOTES or keyword == "$ref":
            continue
        if keyword == "type":
            if not _is(value, wanted):
                yield f"{where} is {_short(value)}, not of type {wanted}"
                return
        elif keyword in ("properties", "required", "additionalProperties"):
            if isinstance(value, dict):
                yield from _of_object(value, keyword, schema, root, where)
        elif keyword == "items":
            for number, item in enumerate(value if isinstance(value, list) else ()):
                yield from _problems(item, wanted, root, f"{where}[{number}]")
        else:
            sentence = _check(keyword, wanted, value)
            if sentence:
                yield f"{where} {sentence}"


def _of_object(
    value: dict[str, Any], keyword: str, schema: dict[str, Any], root: dict[str, Any], where: str
) -> Iterator[str]:
    known, wanted = schema.get("properties", {}), schema[keyword]
    if keyword == "required":
        lacking = [name for name in wanted if name not in value]
        if lacking:
            yield f"{where} has no {', '.join(lacking)}"
    elif keyword == "properties":
        for name in value.keys() & known.keys():
            yield from _problems(value[name], known[name], root, f"{where}.{name}")
    else:
        for name in sorted(value.keys() - known.keys()):
            if wanted is False:
                yield f"{where} has {_short(name)}, which is not known"
            else:
                yield from _problems(value[name], wanted, root, f"{where}[{_short(name)}]")


def _is(value: Any, kind: str) -> bool:
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind not in TYPES:
        raise ValueError(f"the schema has the type {kind!r}")
    return isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _check(keyword: str, wanted: Any, value: Any) -> str:
    """What is wrong with a value by one keyword; "" for nothing, and for values that it says nothing of."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    size = len(value) if isinstance(value, str | list) else None
    text, items = isinstance(value, str), isinstance(value, list)
    wrong = {
        "enum": lambda: all(value != one or type(value) is not type(one) for one in wanted),
        "minimum": lambda: number and value < wanted,
        "exclusiveMinimum": lambda: number and value <= wanted,
        "maximum": lambda: number and value > wanted,
        "minLength": lambda: text and size < wanted,
        "maxLength": lambda: text and size > wanted,
        "minItems": lambda: items and size < wanted,
        "maxItems": lambda: items and size > wanted,
        "pattern": lambda: text and not re.search(re.sub(r"\$$", r"\\Z", wanted), value),
    }
    if keyword not in wrong:
        raise ValueError(f"the schema has the keyword {keyword!r}")
    if not wrong[keyword]():
        return ""
    words = {
        "enum": f"is {_short(value)}; it can be {wanted if keyword != 'enum' else ', '.join(map(str, wanted))}",
        "minimum": f"is {_short(value)}; the least is {wanted}",
        "exclusiveMinimum": f"is {_short(value)}; it must be more than {wanted}",
        "maximum": f"is {_short(value)}; the most is {wanted}",
        "pattern": f"is {_short(value)}, which is not of the form {wanted}",
    }
    unit = "characters" if text else "items"
    bound = "at least" if keyword.startswith("min") else "at most"
    return words.get(keyword, f"has {size} {unit}; it must have {bound} {wanted}")


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
