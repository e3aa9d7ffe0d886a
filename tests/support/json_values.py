"""JSON as a stranger could have changed it: one value in it at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Place = tuple[str | int, ...]


def places(value: Any, where: Place = (), first: int | None = None) -> Iterator[Place]:
    """Paths of all values in JSON; of lists of the `first` items only."""
    yield where
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value[:first])
    for key, item in inner:
        yield from places(item, (*where, key), first)


def changed(value: Any, where: Place, new: Any) -> Any:
    """JSON with another value at a path."""
    if not where:
        return new
    made = dict(value) if isinstance(value, dict) else list(value)
    made[where[0]] = changed(value[where[0]], where[1:], new)
    return made
