"""Checks of a launcher's file before anybody submits it: a shell's parser, shellcheck, a schema."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from bvjax.errors import UserError
from bvjax.files import read_json_object

SCHEMA = Path(__file__).with_name("jobset_schema.json")
_TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
_KEYWORDS = {
    "$schema", "title", "description", "type", "properties", "required", "additionalProperties",
    "items", "minItems", "maxItems", "enum", "pattern", "minimum", "maximum", "maxLength",
}  # fmt: skip


def check_config(config: str) -> None:
    """Looks for a config (FILE or FILE:ARGUMENT) below the working folder, which is as the project's on the machines.

    Raises:
        UserError: a path from here on, where no file is.
    """
    file = Path(config.partition(":")[0])
    if not file.is_absolute() and not file.is_file():
        raise UserError(
            f"`config` is {config!r}, which is no file here; it must be a path below the project's folder"
        )


def check_shell(text: str) -> list[str]:
    """Parses a script with bash and, where it is installed, shellcheck; returns which of them looked at it.

    Raises:
        UserError: one of them objects, in its words.
    """
    commands = {"bash -n": ["bash", "-n"], "shellcheck": ["shellcheck", "--shell=bash", "-"]}
    looked = []
    for name, command in commands.items():
        if shutil.which(command[0]) is None:
            continue
        done = subprocess.run(
            command, input=text.encode(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if done.returncode:
            said = " ".join(done.stdout.decode(errors="replace").split())
            raise UserError(f"{name} objects to the script: {said[:500]}")
        looked.append(name)
    return looked


def check_manifest(text: str) -> list[str]:
    """Compares a manifest of JobSet in YAML with `SCHEMA`; returns what looked at it.

    Raises:
        UserError: it is no YAML, or a field is unknown, missing or has a value that it cannot have.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"the manifest is not YAML: {' '.join(str(error).split())[:300]}") from None
    check_fields(content, read_json_object(SCHEMA), "the manifest")
    return [SCHEMA.name]


def check_fields(value: Any, schema: dict[str, Any], where: str) -> None:
    """Compares a value with a JSON schema of the keywords in `_KEYWORDS`.

    Raises:
        UserError: the first difference, with its place.
        ValueError: the schema has another keyword.
    """
    if unknown := schema.keys() - _KEYWORDS:
        raise ValueError(f"keywords that are not known here: {sorted(unknown)}")
    kind = schema.get("type")
    if kind is not None and (
        not isinstance(value, _TYPES[kind]) or (kind == "integer" and isinstance(value, bool))
    ):
        raise UserError(f"{where} is {value!r}; it must be of type {kind}")
    if "enum" in schema and value not in schema["enum"]:
        raise UserError(f"{where} is {value!r}; it can be {', '.join(map(repr, schema['enum']))}")
    if isinstance(value, str):
        if not re.fullmatch(schema.get("pattern", "(?s).*"), value):
            raise UserError(f"{where} is {value!r}; it must match {schema['pattern']}")
        if len(value) > schema.get("maxLength", len(value)):
            raise UserError(f"{where} has {len(value)} letters of at most {schema['maxLength']}")
    if isinstance(value, int):
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        if not low <= value <= high:
            raise UserError(f"{where} is {value}; it must be {low} to {high}")
    if isinstance(value, list):
        low, high = schema.get("minItems", 0), schema.get("maxItems", len(value))
        if not low <= len(value) <= high:
            raise UserError(f"{where} has {len(value)} items; it must have {low} to {high}")
        for index, item in enumerate(value):
            check_fields(item, schema.get("items", {}), f"{where}[{index}]")
    if isinstance(value, dict):
        _check_object(value, schema, where)


def _check_object(value: dict[str, Any], schema: dict[str, Any], where: str) -> None:
    known = schema.get("properties", {})
    others = schema.get("additionalProperties", {})
    for name in schema.get("required", ()):
        if name not in value:
            raise UserError(f"{where} lacks {name}")
    for name, item in value.items():
        if name in known:
            check_fields(item, known[name], f"{where}.{name}")
        elif others is False:
            raise UserError(f"{where} has no field {name}; it can be {', '.join(known)}")
        else:
            check_fields(item, others, f"{where}.{name}")
