"""Dataclass <-> dictionary <-> `section.key=value`, strictly: an unknown key names its nearest neighbour.

A field with the metadata `INLINE` is a mapping of numbers whose items are keys of the section itself: the keys that
its default has, and no others.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import numbers
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from absl import logging

from bvjax import old_field_names
from bvjax.errors import UserError
from bvjax.plain_text import whole_text

Config = TypeVar("Config")
INLINE = {"inline": True}


def to_dict(config: Any, lists: bool = True) -> dict[str, Any]:
    """A nested plain dictionary; with `lists`, tuples become lists, as JSON has them."""

    def plain(value: Any) -> Any:
        if not dataclasses.is_dataclass(value):
            return list(value) if lists and isinstance(value, tuple) else value
        content: dict[str, Any] = {}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            if field.metadata.get("inline"):
                content |= dict.fromkeys(_inline(field), 0.0) | item
            else:
                content[field.name] = plain(item)
        return content

    return plain(config)


def defaults(cls: type) -> dict[str, Any]:
    """The keys of a class that need not be written, as `to_dict` has them; 0 for those of a mapping."""
    kinds = typing.get_type_hints(cls)
    content: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.metadata.get("inline"):
            content |= dict.fromkeys(_inline(field), 0.0)
        elif dataclasses.is_dataclass(kinds[field.name]):
            content[field.name] = defaults(kinds[field.name])
        elif field.default is not dataclasses.MISSING:
            value = field.default
            content[field.name] = list(value) if isinstance(value, tuple) else value
    return content


def from_dict(cls: type[Config], values: Mapping[str, Any], where: str = "") -> Config:
    """Build `cls` from a nested mapping; raises `UserError` for unknown keys and wrong types."""
    types_of = typing.get_type_hints(cls)
    fields = dataclasses.fields(typing.cast(Any, cls))
    inline = {f.name: _inline(f) for f in fields if f.metadata.get("inline")}
    item_of = {key: name for name, items in inline.items() for key in items}
    legal = [f.name for f in fields if f.name not in inline] + [*item_of]
    arguments: dict[str, Any] = {**inline}
    for written, value in values.items():
        key = old_field_names.current(cls, written)
        if key != written and key in values:
            raise UserError(
                f"{where}{written} is the old name of {where}{key}, and both are given; "
                f"give {where}{key} alone"
            )
        path, value = f"{where}{key}", old_field_names.current_value(cls, written, value)
        if key not in legal:
            raise unknown_key(path, [f"{where}{name}" for name in legal])
        if key in item_of:
            kind = typing.get_args(types_of[item_of[key]])[1]
            arguments[item_of[key]][key] = _coerce(path, value, kind)
            continue
        kind = types_of[key]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, Mapping):
                raise UserError(f"{path} is a section with keys of its own, not a value")
            arguments[key] = from_dict(kind, value, f"{path}.")
        else:
            arguments[key] = _coerce(path, value, kind)
    none = dataclasses.MISSING
    for field in fields:
        needed = field.default is none and field.default_factory is none and field.init
        if needed and field.name not in arguments:
            raise UserError(f"the configuration is incomplete: it has no {where}{field.name}")
    return cls(**arguments)


def apply_overrides(config: Config, assignments: Iterable[str]) -> Config:
    """`config` with every "section.key=value" applied, all at once: values that only fit together can change.

    Raises:
        UserError: an unknown key, naming the nearest, one that is given twice, or a value that is not
            legal.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"`overrides` takes section.key=value, not {assignment!r}")
        written = path.strip()
        path, kind, text = _current(type(config), written, text.strip())
        if path != written:
            logging.warning(
                "%s is called %s now; its old name is read for one more release", written, path
            )
        *sections, key = path.split(".")
        where = changes
        for section in sections:
            where = where.setdefault(section, {})
        if key in where:
            raise UserError(f"{path} is given twice; give it once")
        where[key] = _coerce(path, _parse(text, kind), kind)
    return _replace(config, changes)


def assignments(overrides: Mapping[str, Any] | Iterable[str]) -> tuple[str, ...]:
    """Overrides as `apply_overrides` takes them: {"memory.tau": 0.97} becomes "memory.tau=0.97".

    Raises `UserError` for a value that cannot be written so.
    """
    if isinstance(overrides, str):
        raise UserError(
            f"`overrides` is a mapping or a list of section.key=value, not {overrides!r}"
        )
    if not isinstance(overrides, Mapping):
        return tuple(overrides)
    return tuple(f"{key}={_literal(key, value)}" for key, value in overrides.items())


def _literal(key: str, value: Any) -> str:
    """A value as `_parse` reads it; NumPy's numbers as Python's."""
    if isinstance(value, (list, tuple)):
        return f"({''.join(f'{_literal(key, item)},' for item in value)})"
    if isinstance(value, numbers.Real) and not isinstance(value, (bool, numbers.Integral)):
        value = float(value)
    elif isinstance(value, numbers.Integral) and not isinstance(value, bool):
        value = int(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    raise UserError(
        f"{key} is of type {type(value).__name__}; it can be a number, text or a list of these"
    )


def all_keys(cls: type, where: str = "") -> list[str]:
    """Every dotted leaf key of a configuration class."""
    kinds, keys = typing.get_type_hints(cls), []
    for field in dataclasses.fields(cls):
        if field.metadata.get("inline"):
            keys += [f"{where}{key}" for key in _inline(field)]
        elif dataclasses.is_dataclass(kinds[field.name]):
            keys += all_keys(kinds[field.name], f"{where}{field.name}.")
        else:
            keys.append(f"{where}{field.name}")
    return keys


def unknown_key(path: str, legal: list[str]) -> UserError:
    """The error that names the nearest of the keys there are."""
    near = difflib.get_close_matches(path, legal, n=1, cutoff=0.0)
    return UserError(f"there is no configuration key {path!r}; the nearest is {near[0]!r}")


def _current(cls: type, path: str, text: str) -> tuple[str, Any, str]:
    """A dotted path to a leaf under the names of now, the type of the leaf, and the value that `text` is called now.

    Raises `UserError` for a path that leads to no leaf.
    """
    kind: Any = cls
    written, parts = path.split("."), []
    for name in written:
        if not dataclasses.is_dataclass(kind):
            break
        owner = typing.cast(type, kind)
        parts.append(old_field_names.current(owner, name))
        text = old_field_names.current_value(owner, name, text)
        kind = typing.get_type_hints(kind).get(parts[-1])
    parts += written[len(parts) :]
    path = ".".join(parts)
    return path, _kind(cls, path), text


def _kind(cls: type, path: str) -> Any:
    """The type of the leaf at a dotted path; raises `UserError` for anything else."""
    kind, parts = cls, path.split(".")
    for i, part in enumerate(parts):
        kinds = typing.get_type_hints(kind)
        if part not in kinds or dataclasses.is_dataclass(kinds[part]) != (i < len(parts) - 1):
            raise unknown_key(path, all_keys(kind, "".join(f"{p}." for p in parts[:i])))
        kind = kinds[part]
    return kind


def _replace(config: Any, changes: Mapping[str, Any]) -> Any:
    """`config` with the nested `changes`, each section built (and so validated) once."""
    fields = {
        key: _replace(getattr(config, key), value) if isinstance(value, dict) else value
        for key, value in changes.items()
    }
    return dataclasses.replace(config, **fields)


def _inline(field: dataclasses.Field) -> dict[str, Any]:
    """The items of an `INLINE` field where nobody says otherwise."""
    assert field.default_factory is not dataclasses.MISSING
    return dict(field.default_factory())


def _parse(text: str, kind: Any) -> Any:
    """The value that a text stands for; for a key that holds text, the text, quoted or not."""
    if text.lower() in ("true", "false") and kind is not str:
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = text
    return text if kind is str and not isinstance(value, str) else value


def _coerce(path: str, value: Any, kind: Any) -> Any:
    """`value` as `kind`, allowing only conversions that lose nothing."""
    origin = typing.get_origin(kind)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{path} must be a list of values, not {value!r}")
        args = typing.get_args(kind)
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(inner) != len(value):
            raise UserError(f"{path} must have {len(inner)} values, not {len(value)}")
        return tuple(_coerce(path, v, k) for v, k in zip(value, inner, strict=True))
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _coerce(path, value, [k for k in typing.get_args(kind) if k is not type(None)][0])
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = _float(path, value)
    if kind is str and isinstance(value, str):
        return whole_text(value, path)
    if type(value) is not kind:
        raise UserError(f"{path} must be {_name(kind)}, not {value!r}")
    return value


def _float(path: str, value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise UserError(
            f"{path} is a number of {len(str(value))} digits, which is too large"
        ) from None


def _name(kind: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}[kind]
